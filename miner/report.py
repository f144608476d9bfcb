"""The report of a join: one folder that opens from disk, with no network and no server.

`index.html` holds the page, its style, its script and its data; the images lie beside it. Captions
are hostile text: they reach the page as escaped JSON only, and its script shows them as text only.
A content security policy allows this one style and this one script, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2

from miner.errors import StoreError
from miner.records import Json, digest, file_sha256, replace_record
from miner.report_counts import Step, image_steps, pair_steps
from miner.report_data import page_data
from miner.report_plots import Plots, write_plots
from miner.review import MAX_TEXT_CHARS, PATTERNS, Decision, decisions_of
from miner.store import Store
from miner.suggestions import PAIR_NAMES, Suggestion, suggested

DEFAULT_LIMIT = 2000
"""Pairs on the page, with the images of both, unless more are asked for."""

ASSETS = Path(__file__).parent / "report_assets"

STYLES = ("report.css", "review.css", "plots.css")
SCRIPTS = (
    *("page.js", "data.js", "filters.js", "decisions.js", "saving.js"),
    *("cards.js", "gallery.js", "zoom.js", "facts.js", "viewer.js", "review.js", "start.js"),
    *("draw.js", "plots.js", "corner.js"),
)
"""The files that become the page's one style and its one script, in this order."""

Cell = str | int | float
Steps = dict[str, list[Step]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    """A table that a caller adds to the page.

    Attributes:
        title: its heading.
        columns: their names.
        rows: cells, one to a column; a text like `12.5 %` is also drawn as a bar.
        note: a sentence under the heading.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: a row has {len(row)} cells, there are "
                    f"{len(self.columns)} columns; give one cell to a column"
                )


def write_report(
    store: Store,
    name: str,
    *,
    limit: int | None = DEFAULT_LIMIT,
    tables: Sequence[ReportTable] = (),
    suggestions: Mapping[str, Suggestion] | None = None,
) -> str:
    """Write `report/` of a join, unless the same report is there already.

    Args:
        store: the run directory.
        name: the join's.
        limit: pairs on the page, the best ranks first; None for all of them.
        tables: further tables to show.
        suggestions: what the page suggests to its reviewer, by pair_id.

    Returns:
        The path or URL of index.html.

    Raises:
        StoreError: there is no whole join or selection, or the samples of a pair are missing. An
            image that cannot be had does not raise; the page says why. Or a suggestion speaks of
            another image than its pair's.
        ValueError: the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; give at least 1, or None for every selected pair")
    with store.writing(), store.lock(name):
        _write_whole(store, name, limit, tables, suggestions or {})
    return store.place(f"pairs/{name}/report/index.html")


def _write_whole(
    store: Store,
    name: str,
    limit: int | None,
    tables: Sequence[ReportTable],
    suggestions: Mapping[str, Suggestion],
) -> None:
    record = _whole_record(store, name)
    steps = {"images": image_steps(store, record), "pairs": pair_steps(record)}
    decisions = decisions_of(store)
    fingerprint = _fingerprint(record, steps, limit, tables, decisions, suggestions)
    if _is_done(store, f"pairs/{name}/report", fingerprint):
        return
    selected = store.read_table(record["selection"]["file"]["path"])
    with store.files.new_folder(f"pairs/{name}/report") as report:
        shown = selected.slice(0, limit)
        data, exhibits = page_data(store, record, shown, report)
        data["suggestions"] = suggested(suggestions, shown.select(PAIR_NAMES).to_pylist())
        plots = write_plots(store, name, record, selected, decisions, report)
        page = _page(name, record, steps, data, plots, len(selected), tables)
        (report / "index.html").write_text(page, "utf-8", newline="\n")
        missing = sum(exhibit.extension is None for exhibit in exhibits.values())
        images = [path for part in ("images", "thumbs") for path in (report / part).glob("*")]
        contents = _contents(len(images), file_sha256(report / "index.html"))
        whole = {"fingerprint": fingerprint, "missing_images": missing, **contents}
        replace_record(report / "report.json", whole)


def _whole_record(store: Store, name: str) -> Json:
    record = store.join_record(name)
    if record is None:
        raise StoreError(
            f"{store.place(f'pairs/{name}')} holds no whole join; "
            f"run `blindpairs join {store.root}` again"
        )
    if "selection" not in record or not store.is_whole(record["selection"]["file"]):
        raise StoreError(
            f"{store.place(f'pairs/{name}')} holds no whole selection; "
            f"run `blindpairs select {store.root}` again"
        )
    return record


def _fingerprint(
    record: Json,
    steps: Steps,
    limit: int | None,
    tables: Sequence[ReportTable],
    decisions: Sequence[Decision],
    suggestions: Mapping[str, Suggestion],
) -> str:
    """What the page is made of: selection, counts, decisions, the caller's wishes, this code."""
    parts = ("report*.py", "plot_*.py", "pair_clusters.py")
    code = [*ASSETS.iterdir(), *(path for part in parts for path in ASSETS.parent.glob(part))]
    return digest(
        {
            "selection": record["selection"]["fingerprint"],
            "steps": [asdict(step) for part in steps.values() for step in part],
            "limit": limit,
            "decisions": [said.line() for said in decisions],
            "tables": [asdict(table) for table in tables],
            "suggestions": {pair: said.model_dump() for pair, said in suggestions.items()},
            "code": sorted(file_sha256(path) for path in code if path.is_file()),
        }
    )


def _contents(num_images: int, index_sha256: str) -> Json:
    """By what a report is told from one that was edited or cut."""
    return {"num_images": num_images, "index_sha256": index_sha256}


def _is_done(store: Store, report: str, fingerprint: str) -> bool:
    """Whether the report is there as written, with all images."""
    try:
        done = store.read_record(f"{report}/report.json")
        index_sha256 = store.files.sha256(f"{report}/index.html")
    except (StoreError, FileNotFoundError):
        return False
    images = [e for part in ("images", "thumbs") for e in store.files.below(f"{report}/{part}")]
    contents = _contents(len(images), index_sha256)
    return done == {"fingerprint": fingerprint, "missing_images": 0, **contents}


def _page(
    name: str,
    record: Json,
    steps: Steps,
    data: Json,
    plots: Plots,
    num_selected: int,
    tables: Sequence[ReportTable],
) -> str:
    """The text of index.html."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "sort_keys": True,
        "separators": (",", ":"),
        "ensure_ascii": False,
        "allow_nan": False,
    }
    environment.filters |= {"bar": _percentage, "is_figure": _is_figure}
    css, script = (
        "".join((ASSETS / part).read_text("utf-8") for part in parts) for parts in (STYLES, SCRIPTS)
    )
    return environment.get_template("index.html").render(
        css=css,
        script=script,
        policy=content_security_policy(css, script),
        name=name,
        record=record,
        steps=steps,
        tables=tables,
        plots=plots,
        num_shown=len(data["pairs"]["rows"]),
        num_selected=num_selected,
        patterns=PATTERNS,
        max_text_chars=MAX_TEXT_CHARS,
        data={
            **data,
            "clip_above": record["clip_above"],
            "dino_below": record["dino_below"],
            "fingerprint": digest(record["fingerprint"])[:16],
            "patterns": {number: asdict(pattern) for number, pattern in PATTERNS.items()},
        },
    )


def content_security_policy(css: str, script: str) -> str:
    """A policy under which a page may use this style, this script and images beside it only."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script)
    )
    return "; ".join(
        [
            "default-src 'none'",
            # A page from disk has no origin that 'self' could name in every browser.
            "img-src 'self' file: data:",
            f"style-src 'sha256-{style_hash}'",
            f"script-src 'sha256-{script_hash}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _percentage(cell: Cell) -> float | None:
    """The number of a text like `12.5 %`, within 0 and 100; None for everything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", cell) if isinstance(cell, str) else None
    return min(100.0, float(found[1])) if found else None


def _is_figure(cell: Cell) -> bool:
    """Whether a cell is aligned as numbers are."""
    return not isinstance(cell, str) or bool(re.fullmatch(r"[-+]?[\d.,]+ ?%?", cell))
