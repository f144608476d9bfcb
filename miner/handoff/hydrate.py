"""A hand-off of ids becomes the one with images, by the reader's own copy of the corpus.

What a hand-off with images is made of lies in the ids: the same writer runs again, with bytes from
other places. So both are the same folder, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from miner.config import ImageLimits
from miner.errors import StoreError
from miner.folders import leftovers
from miner.handoff.folder import (
    RECORD,
    Contents,
    Written,
    check_contents,
    check_settings,
    write_handoff,
    write_missing,
)
from miner.handoff.locate import in_folder, in_shards
from miner.handoff.originals import Originals, Place
from miner.handoff.pairs import handoff_of
from miner.handoff.registry import FORMATS
from miner.handoff.settings import Facts, HandoffSettings
from miner.handoff.work import Format
from miner.records import Json, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Hydrated:
    """What became of a hand-off of ids.

    Attributes:
        num_images: different images that it wants.
        missing: rows of IMAGES that were not found.
        num_left_out: pairs left out for that.
        written: the hand-off with images; None where nothing was changed.
        was_whole: whether it had its images already.
    """

    num_images: int
    missing: Sequence[Json]
    num_left_out: int
    written: Written | None
    was_whole: bool = False


def hydrate(
    folder: Path,
    *,
    shards: Sequence[str] = (),
    images_dir: Path | None = None,
    skip_missing: bool = False,
    out: Path | None = None,
) -> Hydrated:
    """Fill a hand-off of ids with images, in its place or in another.

    Where images are missing, the folder stays as it is, missing.csv is written into it (or into
    `out`, with the pairs that are whole), and the same call goes on when more of the corpus is
    there.

    Args:
        folder: what `handoff --images none` wrote.
        shards: of the reader's copy, as `mine` takes them.
        images_dir: a folder of image files, whatever their names.
        skip_missing: leave out pairs with a missing image; `out` is needed then.
        out: the folder to make, instead of the one in the place of the ids.

    Raises:
        ValueError: neither shards nor a folder was given, the ids would be lost, or a format lacks
            pairs.
        StoreError: the folder is no such hand-off, or was edited.
        ShardError: shards cannot be read.
    """
    if not shards and images_dir is None:
        raise ValueError("nowhere to look for images; give --shards SHARD or --images-dir FOLDER")
    if skip_missing and (out is None or out.resolve() == folder.resolve()):
        raise ValueError(
            f"--skip-missing would put fewer pairs in the place of the ids in {folder}, which are "
            "then lost; give --out ANOTHER_FOLDER"
        )
    format, settings, facts, record = _read_record(folder)
    check_contents(folder, record)
    if settings.images == "original":
        return Hydrated(num_images=0, missing=(), num_left_out=0, written=None, was_whole=True)
    pairs, images = (_read_table(folder / f"{name}.parquet") for name in ("pairs", "images"))
    handoff = handoff_of(pairs, images, facts, str(folder))
    distinct = {image["sha256"]: image for image in handoff.images.values()}
    places = _locate(distinct, shards, images_dir, facts.limits)
    missing = [image for sha256, image in sorted(distinct.items()) if sha256 not in places]
    whole = [p for p in handoff.pairs if {p["sha256_1"], p["sha256_2"]} <= places.keys()]
    written = None
    if not missing or (skip_missing and whole):
        wanted = settings.model_copy(update={"images": "original"})
        with Originals(places, facts.limits, bake=wanted.bake_orientation) as originals:
            written = write_handoff(
                format,
                handoff.only(whole),
                wanted,
                originals,
                out or folder,
                missing=missing,
                overwrite=out is None or out.resolve() == folder.resolve(),
            )
    else:
        write_missing(folder, missing)
    return Hydrated(
        num_images=len(distinct),
        missing=missing,
        num_left_out=len(handoff.pairs) - len(whole) if written else 0,
        written=written,
    )


def _locate(
    distinct: dict[str, Json],
    shards: Sequence[str],
    images_dir: Path | None,
    limits: ImageLimits,
) -> dict[str, Place]:
    """The places of the images that are there, by sha256."""
    places = in_folder(images_dir, distinct.values()) if images_dir is not None else {}
    rest = [image for sha256, image in distinct.items() if sha256 not in places]
    return places | (in_shards(shards, rest, limits) if shards and rest else {})


def _read_record(folder: Path) -> tuple[Format, HandoffSettings, Facts, Json]:
    """What handoff.json says; it may come from anybody."""
    aside = [path.name for path in leftovers(folder) if path.suffix == ".old"]
    if aside and not folder.exists():
        raise StoreError(
            f"{folder} is not there: an attempt to replace it was killed when it was called "
            f"{aside[-1]}; rename that back to {folder.name}"
        )
    if not (folder / RECORD).is_file():
        raise StoreError(
            f"{folder} holds no hand-off (there is no {RECORD}); give the folder that "
            "`blindpairs handoff --images none` wrote"
        )
    record = read_record(folder / RECORD)
    try:
        format = FORMATS[record["format"]]
        settings = HandoffSettings(**record["settings"])
        facts = Facts(**record["facts"])
        Contents(**record["contents"])
        check_settings(format, settings)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{folder / RECORD} is not what this version writes ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); make the hand-off again"
        ) from error
    return format, settings, facts, record


def _read_table(path: Path) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()
        table.validate(full=True)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read ({error}); get the folder again") from error
    return table
