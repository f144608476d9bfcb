"""Samples of images of which only embeddings and metadata are at hand.

Their bytes are unknown: `num_bytes`, `offset` and `phash` are 0, `format` is `unknown`, width and
height are what the metadata says, else 0. Where it has a sha256 that one is taken; else it is a
hash of the image_id, and `meta.sha256_of` says which.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from miner import schema
from miner.commits import reading_fingerprint
from miner.config import ReadSettings
from miner.errors import StoreError
from miner.importing.source_files import SourceFiles
from miner.importing.sources import Part
from miner.metadata import read_metadata
from miner.names import shown, why_unsafe
from miner.records import Json, new_attempt
from miner.schema import Reason
from miner.store import Store
from miner.tables import table_of
from miner.versions import versions

SHARD_ROWS = 100_000
"""Rows of a source's part that make one shard, at most."""

_MAX_SIDE = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Consecutive rows of a part, which become one shard."""

    part: Part
    dataset: str
    start: int
    stop: int

    @property
    def stem(self) -> str:
        """Of the shard: the part's name, and a number where it is in several."""
        if self.part.num_rows <= SHARD_ROWS:
            return self.part.name
        return f"{self.part.name}-{self.start // SHARD_ROWS:03d}"

    @property
    def shard_id(self) -> str:
        """Of the shard."""
        return f"{self.dataset}.{self.stem}"

    @property
    def place(self) -> Json:
        """What run.json says of the shard."""
        path = self.part.vectors.path
        status = path.stat()
        return {
            "url": str(path.absolute()),
            "num_bytes": status.st_size,
            "modified": str(status.st_mtime_ns),
        }


def slices_of(parts: Sequence[Part], dataset: str) -> list[Slice]:
    """The shards that some parts become.

    Raises:
        StoreError: two would have one name.
    """
    slices = [
        Slice(
            part=part,
            dataset=dataset,
            start=start,
            stop=min(start + SHARD_ROWS, part.num_rows),
        )
        for part in parts
        for start in range(0, part.num_rows, SHARD_ROWS)
    ]
    double = [name for name, number in Counter(each.stem for each in slices).items() if number > 1]
    if double:
        raise StoreError(f"two parts would both be shard {double[0]}; rename one of the files")
    return slices


def commit_samples(
    store: Store, slices: Sequence[Slice], origin: Json, files: SourceFiles
) -> Iterator[int]:
    """Commit the samples of a part's slices that are not committed yet.

    Args:
        store: the run directory.
        slices: all of one part, in order.
        origin: what each record says of where it comes from.
        files: of the source.

    Yields:
        For each slice, how many rows were committed now.

    Raises:
        StoreError: the part's table has not one row for each vector.
        FingerprintError: a part that is committed has changed.
    """
    part = slices[0].part
    missing = []
    for each in slices:
        if store.is_committed("samples", each.shard_id):
            said = store.record("samples", each.shard_id).get("imported", {"files": []})
            files.check(part, said["files"], each.shard_id)
        else:
            missing.append(each)
    if not missing:
        yield from (0 for _ in slices)
        return
    fates = _fates(part.ids())
    if len(fates) != part.num_rows:
        raise StoreError(
            f"part {part.name} has {len(fates)} ids and {part.num_rows} vectors; they are aligned "
            "row by row, so write both again"
        )
    rows = part.fields()
    for each in slices:
        own = list(islice(rows, each.stop - each.start))
        if len(own) != each.stop - each.start:
            raise StoreError(
                f"{part.files[-1]} ends after {each.start + len(own)} of {part.num_rows} rows; "
                "write it again"
            )
        if each in missing:
            _commit_slice(store, each, own, fates[each.start : each.stop], origin, files)
        yield each.stop - each.start if each in missing else 0


Fate = tuple[str, tuple[Reason, str] | None]
"""An id as it may be shown, and why its row is refused."""


def _fates(ids: Sequence[str | None]) -> list[Fate]:
    """What becomes of each row of a part, by its id."""
    seen: set[str] = set()
    fates: list[Fate] = []
    for name in ids:
        if not name or shown(name) != name:
            fates.append((shown(name or ""), (Reason.UNSAFE_NAME, why_unsafe(name or ""))))
        elif name in seen:
            fates.append((name, (Reason.DUPLICATE_KEY, "an earlier row of the part has this id")))
        else:
            seen.add(name)
            fates.append((name, None))
    return fates


def _commit_slice(
    store: Store,
    each: Slice,
    rows: Sequence[Json],
    fates: Sequence[Fate],
    origin: Json,
    files: SourceFiles,
) -> None:
    url = each.place["url"]
    samples, refused = [], []
    for number, (fields, (key, refusal)) in enumerate(zip(rows, fates, strict=True)):
        if refusal is None:
            samples.append(_sample(each, url, key, fields))
        else:
            reason, detail = refusal
            detail = f"row {each.start + number}: {detail}"
            refused.append(quarantine_row(each.dataset, url, key, reason, detail))
    name = f"{each.shard_id}.{new_attempt()}.parquet"
    entries = [
        store.write_table(table_of(samples, schema.SAMPLES), "samples", name),
        store.write_table(table_of(refused, schema.QUARANTINE), "quarantine", name),
    ]
    vectors = files.record(each.part.vectors.path)
    record: Json = {
        "stage": "samples",
        "shard": {
            "dataset": each.dataset,
            "stem": each.stem,
            **each.place,
            "sha256": vectors["sha256"],
            "sidecar_sha256": None,
        },
        "reading": reading_fingerprint(ReadSettings()),
        "cut_after": None,
        "num_samples": len(rows),
        "num_decodable": len(samples),
        "num_quarantined": len(refused),
        "reasons": dict(sorted(Counter(row["reason"] for row in refused).items())),
        "excluded": {},
        "unrated": {},
        # No image's bytes were seen.
        "bytes": None,
        "damaged": False,
        "notes": [],
        "versions": versions(),
        "imported": {
            **origin,
            "part": each.part.name,
            "part_rows": each.part.num_rows,
            "rows": [each.start, each.stop],
            "files": [files.record(path) for path in each.part.files],
        },
    }
    store.commit("samples", each.shard_id, entries, record)


def _sample(each: Slice, url: str, key: str, fields: Json) -> Json:
    image_id = f"{each.dataset}/{each.stem}/{key}"
    by_lower = {name.lower(): name for name in sorted(fields, reverse=True)}
    told = str(fields.get(by_lower.get("sha256", ""), "")).lower()
    is_told = re.fullmatch(r"[0-9a-f]{64}", told) is not None
    said = {"sha256_of": "metadata" if is_told else "image_id"}
    metadata = read_metadata({}, {name: fields[name] for name in fields if name != "key"} | said)
    own = hashlib.sha256(f"import:{image_id}".encode()).hexdigest()
    return {
        "image_id": image_id,
        "dataset": each.dataset,
        "shard": url,
        "key": key,
        "member": "",
        "offset": 0,
        "num_bytes": 0,
        "sha256": told if is_told else own,
        "phash": 0,
        "width": _side(fields.get(by_lower.get("width", ""))),
        "height": _side(fields.get(by_lower.get("height", ""))),
        "format": schema.UNKNOWN_FORMAT,
        "exif_orientation": None,
        "caption": metadata.caption,
        "url": metadata.url,
        "label": metadata.label,
        "meta": metadata.meta,
    }


def _side(value: object) -> int:
    """Width or height in pixels; 0 where nobody said, or it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_side = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_SIDE
    return int(value) if is_side else 0  # type: ignore[call-overload]


def quarantine_row(dataset: str, url: str, key: str, reason: Reason, detail: str) -> Json:
    """A row of `quarantine`."""
    return {
        "dataset": dataset,
        "shard": url,
        "key": key,
        "member": "",
        "reason": reason.value,
        "detail": detail,
    }
