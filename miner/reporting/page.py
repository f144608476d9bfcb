"""The page of a report: one file with its style, its script and its data.

Captions are hostile text: they reach the page as escaped JSON only, and its script shows them as
text only. A content security policy allows this one style and this one script, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import jinja2

from miner.records import Json, digest
from miner.reporting.plots import Plots
from miner.reporting.steps import Step
from miner.review import MAX_TEXT_CHARS, PATTERNS
from miner.selecting.steps import asked_for, settings_of

ASSETS = Path(__file__).parents[1] / "report_assets"

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


@cache
def _environment() -> jinja2.Environment:
    """What the page is rendered in; it keeps the template, which takes long to compile."""
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
    environment.filters |= {
        "bar": _percentage,
        "is_figure": _is_figure,
        "without_hash": _without_hash,
    }
    return environment


def page_text(
    name: str,
    record: Json,
    steps: Steps,
    data: Json,
    plots: Plots,
    num_selected: int,
    tables: Sequence[ReportTable],
) -> str:
    """The text of index.html."""
    css, script = (
        "".join((ASSETS / part).read_text("utf-8") for part in parts) for parts in (STYLES, SCRIPTS)
    )
    return (
        _environment()
        .get_template("index.html")
        .render(
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
            asked=asked_for(settings_of(record["selection"])),
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


def _without_hash(encoder_id: str) -> str:
    """The name in an encoder_id, as people say it; the hash at its end tells weights apart."""
    return re.sub(r"-[0-9a-f]{8}$", "", encoder_id)
