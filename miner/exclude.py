"""Which samples are left out before their image is decoded: by ratings, and by lists of ids.

The ratings are columns that LAION's tables have and img2dataset carries along, in the sample's json
or in the sidecar: `punsafe`, `pwatermark` and `NSFW`, in any case and spelling. Where two spellings
disagree the worse one counts. A sample that has no rating, or one that says nothing, is unrated.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from miner.config import ExcludeSettings
from miner.errors import ResourceError
from miner.records import Json, file_sha256
from miner.settings import RatingSettings
from miner.staging import staged

if TYPE_CHECKING:
    from miner.samples import Sample

ID_COLUMNS = ("key", "image_id", "url", "sha256")
"""Columns of a Parquet list of ids, in any case, and what a line of a text may be."""

LISTED = "listed"
UNRATED = "unrated"
"""Causes of an exclusion beside the ratings' own names."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAYS_NOTHING = frozenset({"", "NONE", "NULL", "NAN"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What the filters say of a sample.

    Attributes:
        excluded: why it is left out, `<cause>: <explanation>`; None where it stays.
        unrated: ratings that were asked for and that it does not have.
    """

    excluded: str | None
    unrated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IdList:
    """Ids whose samples are excluded.

    Attributes:
        name: of the file.
        ids: about 150 bytes of memory for each; sha256 in lower case.
        has_hashes: whether one of them is a sha256, so that images have to be hashed.
    """

    name: str
    ids: frozenset[str]
    has_hashes: bool


class Ratings:
    """The filters by ratings; without any setting nothing is excluded.

    Attributes:
        asked: whether a rating decides over some samples.
    """

    def __init__(self, settings: RatingSettings) -> None:
        self.asked = settings.asks_for_ratings
        self._drops_unrated = settings.unrated == "exclude"
        self._limits = {
            name: limit
            for name, limit in (
                ("punsafe", settings.max_punsafe),
                ("pwatermark", settings.max_pwatermark),
            )
            if limit is not None
        }
        words = (settings.nsfw or "").upper().split(",")
        self._allowed = [word.strip() for word in words if word.strip()]

    def opinion(self, fields: Mapping[str, object]) -> Opinion:
        """Whether a sample with these fields in its `meta` is left out, and why."""
        unrated: list[str] = []
        for name, limit in self._limits.items():
            ratings = [n for n in map(_number, _spelt(fields, name)) if n is not None]
            if ratings and max(ratings) > limit:
                return Opinion(excluded=f"{name}: {max(ratings):g}, limit {limit:g}")
            unrated += [] if ratings else [name]
        if self._allowed:
            words = [w for w in map(_word, _spelt(fields, "nsfw")) if w is not None]
            if bad := [word for word in words if word not in self._allowed]:
                allowed = ", ".join(self._allowed)
                return Opinion(excluded=f"nsfw: {bad[0][:100]}, allowed {allowed}")
            unrated += [] if words else ["nsfw"]
        if unrated and self._drops_unrated:
            return Opinion(excluded=f"{UNRATED}: no {', no '.join(unrated)}")
        return Opinion(excluded=None, unrated=tuple(unrated))


class Exclusions:
    """The filters of a run; without any setting nothing is excluded."""

    def __init__(self, settings: ExcludeSettings) -> None:
        """Read the list of ids, once in a process however often it is asked for.

        Raises:
            ResourceError: it is missing, or not what it has to be.
        """
        self._ratings = Ratings(settings)
        self._list = None if settings.exclude_ids is None else read_ids(settings.exclude_ids)

    def opinion(self, sample: Sample, image_id: str) -> Opinion:
        """Whether a sample is left out, and why."""
        if self._list is None and not self._ratings.asked:
            return Opinion(excluded=None)
        fields: Json = json.loads(sample.meta)
        if self._list is not None:
            for what, value in _ids_of(sample, image_id, fields, hashed=self._list.has_hashes):
                if value in self._list.ids:
                    return Opinion(excluded=f"{LISTED}: its {what} is in {self._list.name}")
        return self._ratings.opinion(fields)


def fingerprint(settings: ExcludeSettings) -> Json:
    """What of the filters decides which samples a run has; a list of ids by its sha256."""
    listed = settings.exclude_ids
    return {
        "max_punsafe": settings.max_punsafe,
        "max_pwatermark": settings.max_pwatermark,
        "nsfw": settings.nsfw,
        "unrated": settings.unrated if settings.asks_for_ratings else None,
        "exclude_ids": None if listed is None else file_sha256(_list_file(listed)),
    }


def read_ids(where: str) -> IdList:
    """A list of ids: a text with one on each line, or a Parquet table with columns of ids.

    Args:
        where: a file, or a URL with its sha256 (see `miner.staging.staged`).

    Raises:
        ResourceError: it is missing, cannot be read, or names no id.
    """
    path = _list_file(where)
    status = path.stat()
    return _read_ids(path, status.st_size, status.st_mtime_ns)


def _list_file(where: str) -> Path:
    path = staged(where)
    if not path.is_file():
        raise ResourceError(
            f"--exclude-ids {where}: there is no such file; give one that this machine sees, or "
            "URL#sha256=HEX"
        )
    return path


@lru_cache(maxsize=2)
def _read_ids(path: Path, num_bytes: int, mtime_ns: int) -> IdList:
    """The ids of a file; size and time are only there to notice a change."""
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    try:
        found = _ids_in_table(path) if is_parquet else _ids_in_text(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ResourceError(
            f"--exclude-ids {path} cannot be read ({error}); give UTF-8 text with one id on each "
            "line, or Parquet"
        ) from error
    ids = frozenset(i.lower() if _SHA256.fullmatch(i.lower()) else i for i in found if i)
    if not ids:
        raise ResourceError(f"--exclude-ids {path} names no id; fill it, or leave it out")
    return IdList(name=path.name, ids=ids, has_hashes=any(map(_SHA256.fullmatch, ids)))


def _ids_in_text(path: Path) -> Iterable[str]:
    with path.open(encoding="utf-8-sig") as lines:
        return [line.strip() for line in lines]


def _ids_in_table(path: Path) -> Iterable[str]:
    file = pq.ParquetFile(path)
    columns = [name for name in file.schema_arrow.names if name.lower() in ID_COLUMNS]
    if not columns:
        raise ValueError(
            f"none of its columns ({', '.join(file.schema_arrow.names)}) is "
            f"{', '.join(ID_COLUMNS[:-1])} or {ID_COLUMNS[-1]}"
        )
    for name in columns:
        kind = file.schema_arrow.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ValueError(f"its column {name} is {kind}, not text, which would lose zeros")
    return [
        str(value).strip()
        for batch in file.iter_batches(columns=columns)
        for name in columns
        for value in batch[name].to_pylist()
        if value is not None
    ]


def _ids_of(
    sample: Sample, image_id: str, fields: Json, *, hashed: bool
) -> Iterable[tuple[str, object]]:
    """By what a list may mean a sample; hashes of its bytes, and of those it was made from."""
    yield "key", sample.key
    yield "image_id", image_id
    yield "url", sample.url
    if hashed:
        yield "sha256", hashlib.sha256(sample.data).hexdigest()
        yield "sha256", str(fields.get("sha256")).lower()


def _spelt(fields: Mapping[str, object], name: str) -> Iterable[object]:
    """The values of a rating under all its spellings: `punsafe`, `PUNSAFE`, `p_unsafe`."""
    return [value for key, value in fields.items() if _plain(key) == name]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _word(value: object) -> str | None:
    word = "" if value is None else str(value).strip().upper()
    return None if word in _SAYS_NOTHING else word
