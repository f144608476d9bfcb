"""A hand-off's folder: written whole or not at all, known again by its handoff.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from miner.config import Settings
from miner.errors import StoreError
from miner.files import LocalFiles
from miner.handoff.card import write_card
from miner.handoff.delimited import csv_text
from miner.handoff.originals import Originals
from miner.handoff.pairs import Handoff, tables_of
from miner.handoff.provenance import write_provenance
from miner.handoff.settings import HandoffSettings
from miner.handoff.work import Format, Work
from miner.records import Json, digest, file_sha256, read_record, replace_record, write_whole
from miner.store import Store
from miner.versions import versions

RECORD = "handoff.json"
MISSING = "missing.csv"
"""Images that could not be had: beside the ids, or beside the pairs that are left without them."""

_MISSING_COLUMNS = ("sha256", "image_id", "url", "shard", "member", "num_bytes")

_GENERAL = frozenset({"reviewed", "limit"})
"""Settings that have an effect in every format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was handed off.

    Attributes:
        folder: where.
        num_pairs: pairs in it.
        num_images: different images of theirs.
        is_new: False where the same hand-off was there already.
    """

    folder: Path
    num_pairs: int
    num_images: int
    is_new: bool


class Contents(Settings):
    """The files of a hand-off, but for its record, in short."""

    num_files: int
    """How many."""

    num_bytes: int
    """Their sizes, added up."""

    sha256: str
    """Hex digest over their paths, sizes and sha256."""


def check_settings(format: Format, settings: HandoffSettings) -> None:
    """Refuse settings that have no effect in a format.

    Raises:
        ValueError: one of them was given.
    """
    for name in sorted(settings.model_fields_set - _GENERAL - format.options):
        if getattr(settings, name) != HandoffSettings.model_fields[name].default:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} has no effect on {format.name}; leave it out")


def write_handoff(
    format: Format,
    handoff: Handoff,
    settings: HandoffSettings,
    originals: Originals,
    out: Path,
    *,
    runs: Sequence[Store] = (),
    missing: Sequence[Json] = (),
    overwrite: bool = False,
) -> Written:
    """Write a hand-off, unless the same one is there already.

    Args:
        format: which.
        handoff: the pairs and images.
        settings: how.
        originals: reads the images.
        out: the folder; it appears when it is whole.
        runs: whose pairs these are, for formats that read more than pairs and images.
        missing: images that could not be had, for which pairs were left out before.
        overwrite: replace another hand-off.

    Raises:
        ValueError: a setting has no effect, or the format lacks something.
        StoreError: there is something else at `out`.
        ShardError: an image cannot be had.
    """
    check_settings(format, settings)
    handoff = format.choose(handoff, settings)
    # Which pairs are taken is in the pairs themselves.
    settings = settings.model_copy(update={"limit": None, "skip_incomplete": False})
    work = Work(handoff=handoff, settings=settings, originals=originals, folder=out, runs=runs)
    fingerprint = _fingerprint(format, work)
    is_there = _check_place(out, fingerprint, overwrite=overwrite)
    num_images = len({image["sha256"] for image in handoff.images.values()})
    if not is_there:
        _write(format, work, fingerprint, missing)
    elif missing:
        write_missing(out, missing)
    return Written(
        folder=out, num_pairs=len(handoff.pairs), num_images=num_images, is_new=not is_there
    )


def _write(format: Format, work: Work, fingerprint: str, missing: Sequence[Json]) -> None:
    out = work.folder.absolute()
    with LocalFiles(out.parent).new_folder(out.name) as folder:
        work = replace(work, folder=folder)
        if work.settings.images == "original":
            files = format.write(work)
        else:
            files = {}
            for name, table in tables_of(work.handoff).items():
                pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        write_provenance(work, files)
        write_card(format, work)
        record = {
            "format": format.name,
            "settings": work.settings.model_dump(mode="json"),
            "facts": work.handoff.facts.model_dump(mode="json"),
            "fingerprint": fingerprint,
            "contents": contents(folder).model_dump(),
        }
        replace_record(folder / RECORD, record)
        if missing:
            write_missing(folder, missing)


def write_missing(folder: Path, images: Sequence[Json]) -> None:
    """Write missing.csv: rows of IMAGES that could not be had."""
    text = "".join(csv_text(_MISSING_COLUMNS, images))
    write_whole(folder / MISSING, text.encode())


def _fingerprint(format: Format, work: Work) -> str:
    """What the folder is made of: pairs, images, settings, and this code."""
    code = sorted(file_sha256(path) for path in Path(__file__).parent.glob("*.py"))
    return digest(
        {
            "format": format.name,
            "settings": work.settings.model_dump(mode="json"),
            "facts": work.handoff.facts.model_dump(mode="json"),
            "pairs": list(work.handoff.pairs),
            "images": [work.handoff.images[name] for name in sorted(work.handoff.images)],
            "inputs": format.inputs(work),
            "code": [code, versions()["blindpairs"]],
        }
    )


def _check_place(out: Path, fingerprint: str, *, overwrite: bool) -> bool:
    """Whether this very hand-off is there; nothing but a hand-off is ever replaced."""
    if out.suffix.lower() in (".csv", ".jsonl", ".json", ".parquet", ".tar", ".zip"):
        raise ValueError(f"{out} names a file; a hand-off is a folder, give --out {out.stem}")
    for parent in out.resolve().parents:
        if (parent / "run.json").is_file():
            raise ValueError(
                f"{out} lies in the run {parent}, whose files are its own; give an --out outside it"
            )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / RECORD).is_file():
        raise StoreError(
            f"{out} is there and is no hand-off (it has no {RECORD}); give another --out"
        )
    if overwrite:
        return False
    record = read_record(out / RECORD)
    if record["fingerprint"] != fingerprint:
        raise StoreError(
            f"{out} holds another hand-off ({record['format']}); give another --out, or "
            "--overwrite to replace it"
        )
    check_contents(out, record)
    return True


def check_contents(folder: Path, record: Json) -> None:
    """Refuse a hand-off whose files are not those that were written.

    Raises:
        StoreError: a file was edited, added or removed.
    """
    found, recorded = contents(folder), Contents(**record["contents"])
    if found != recorded:
        raise StoreError(
            f"{folder} was changed since it was written ({found.num_files} files of "
            f"{found.num_bytes} bytes, recorded {recorded.num_files} of {recorded.num_bytes}); "
            "move it away to keep the changes, then run the command again"
        )


def contents(folder: Path) -> Contents:
    """What lies in a hand-off's folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [
        (path.relative_to(folder).as_posix(), path.stat().st_size, file_sha256(path))
        for path in paths
        if path not in (folder / RECORD, folder / MISSING)
    ]
    return Contents(
        num_files=len(files),
        num_bytes=sum(num_bytes for _, num_bytes, _ in files),
        sha256=digest(files),
    )
