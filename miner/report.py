"""The report of a join: one folder that opens from disk, with no network and no server.

`index.html` holds the page, its style, its script and its data; the images lie beside it, and so do
the numbers of its plots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from miner import reporting
from miner.errors import StoreError
from miner.records import Json, digest, file_sha256, replace_record
from miner.reporting.nothing_found import why_nothing
from miner.reporting.page import ASSETS, ReportTable, Steps, page_text
from miner.reporting.page_data import page_data
from miner.reporting.plots import write_plots
from miner.reporting.steps import image_steps, pair_steps
from miner.reviewing.kept import decisions_of
from miner.reviewing.suggestions import PAIR_NAMES, Suggestion, suggested
from miner.store import Store

DEFAULT_LIMIT = 2000
"""Pairs on the page, with the images of both, unless more are asked for."""


def write_report(
    store: Store,
    name: str,
    *,
    limit: int | None = DEFAULT_LIMIT,
    tables: Sequence[ReportTable] = (),
    suggestions: Mapping[str, Suggestion] | None = None,
    count_decisions: bool = True,
) -> str:
    """Write `report/` of a join, unless the same report is there already.

    Args:
        store: the run directory.
        name: the join's.
        limit: pairs on the page, the best ranks first; None for all of them.
        tables: further tables to show.
        suggestions: what the page suggests to its reviewer, by pair_id.
        count_decisions: whether a report that was written before some decisions is another one:
            its plot by pattern counts those that the run had.

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
        _write_whole(store, name, limit, tables, suggestions or {}, count_decisions)
    return store.place(f"pairs/{name}/report/index.html")


def _write_whole(
    store: Store,
    name: str,
    limit: int | None,
    tables: Sequence[ReportTable],
    suggestions: Mapping[str, Suggestion],
    count_decisions: bool,
) -> None:
    record = _whole_record(store, name)
    steps = {"images": image_steps(store, record), "pairs": pair_steps(record)}
    decisions = decisions_of(store)
    wanted = {"fingerprint": _fingerprint(record, steps, limit, tables, suggestions)}
    known = digest([said.line() for said in decisions])
    if count_decisions:
        wanted["decisions"] = known
    if _is_done(store, f"pairs/{name}/report", wanted):
        return
    selected = store.read_table(record["selection"]["file"]["path"])
    with store.files.new_folder(f"pairs/{name}/report") as report:
        shown = selected.slice(0, limit)
        data, exhibits = page_data(store, record, shown, report)
        data["suggestions"] = suggested(suggestions, shown.select(PAIR_NAMES).to_pylist())
        data["nothing"] = why_nothing(store, name, record)
        plots = write_plots(store, name, record, selected, decisions, report)
        page = page_text(name, record, steps, data, plots, len(selected), tables)
        (report / "index.html").write_text(page, "utf-8", newline="\n")
        missing = sum(exhibit.extension is None for exhibit in exhibits.values())
        images = [path for part in ("images", "thumbs") for path in (report / part).glob("*")]
        contents = _contents(len(images), file_sha256(report / "index.html"))
        whole = {**wanted, "decisions": known, "missing_images": missing, **contents}
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
    suggestions: Mapping[str, Suggestion],
) -> str:
    """What the page is made of: selection, counts, the caller's wishes, this code."""
    code = [*ASSETS.iterdir(), Path(__file__), *Path(reporting.__file__).parent.glob("*.py")]
    return digest(
        {
            "selection": record["selection"]["fingerprint"],
            "steps": [asdict(step) for part in steps.values() for step in part],
            "limit": limit,
            "tables": [asdict(table) for table in tables],
            "suggestions": {pair: said.model_dump() for pair, said in suggestions.items()},
            "code": sorted(file_sha256(path) for path in code if path.is_file()),
        }
    )


def _contents(num_images: int, index_sha256: str) -> Json:
    """By what a report is told from one that was edited or cut."""
    return {"num_images": num_images, "index_sha256": index_sha256}


def _is_done(store: Store, report: str, wanted: Json) -> bool:
    """Whether the report that is wanted is there as written, with all images."""
    try:
        done = store.read_record(f"{report}/report.json")
        index_sha256 = store.files.sha256(f"{report}/index.html")
    except (StoreError, FileNotFoundError):
        return False
    images = [e for part in ("images", "thumbs") for e in store.files.below(f"{report}/{part}")]
    contents = _contents(len(images), index_sha256)
    return done == {**done, **wanted, "missing_images": 0, **contents}
