"""The blind partners of one image in the corpus of a join: exact, as the join itself would say.

Vectors are mapped into memory and looked at in chunks: a float32 product with a floor below which
no pair above the threshold can lie, then float64 cosines of what is left. Copies count as in the
join: one image stands for all of equal bytes, or for its near-copies where the join wanted that.

Shape suffixes: N rows, D clip width, E dino width, P pairs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kernels.bounds import float32_floor, unit_rows
from kernels.reference import cosines
from miner.copies import equal_bytes, near_copies_in_buckets, stand_for
from miner.errors import StoreError
from miner.packs import Pack, build_pack, group_shards
from miner.records import Json
from miner.rows import Rows, inputs, load_rows, runs_of
from miner.store import Store

CHUNK_ROWS = 16_384


class SearchStopped(Exception):
    """Nobody wants the answer any more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """An image whose partners are sought.

    Attributes:
        clip_D: [D] float16, of unit length.
        dino_E: [E] float16, of unit length.
        place: where it lies, as (side, row of that side's pack); None for an image from elsewhere.
    """

    clip_D: torch.Tensor
    dino_E: torch.Tensor
    place: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """An image that CLIP calls the same as the query, and DINO different.

    Attributes:
        image_id: of the image, which stands for its copies.
        clip_cos: float64.
        dino_cos: float64.
        borderline: whether a cosine lies in its borderline band, as in `raw`.
        num_duplicates: further copies of equal bytes that it stands for.
    """

    image_id: str
    clip_cos: float
    dino_cos: float
    borderline: bool
    num_duplicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """The images of one run.

    Attributes:
        rows: all of them, by image_id.
        leader: [N] int64, for each of `rows` the row of the pack that stands for it.
        by_sha256: [N] S64, their hashes in order; `sha256_row` [N] int64 says whose they are.
        pack: one row for each distinct image.
        is_sought: [rows of the pack] bool, not those that a near-copy stands for.
        duplicates: [rows of the pack] int64, further copies that a row stands for.
    """

    rows: Rows
    leader: np.ndarray
    by_sha256: np.ndarray
    sha256_row: np.ndarray
    pack: Pack
    is_sought: np.ndarray
    duplicates: np.ndarray


def why_not_searchable(record: Json) -> str | None:
    """Why the stored vectors of a join do not say what it found; None where they do."""
    if record["lazy"] is not None:
        return (
            "DINO has seen only the images of this join that have a candidate, so partners of "
            "others are not known; embed with --dino-mode eager and join again"
        )
    if record["rechecked"] is not None:
        return (
            "borderline pairs of this join were decided by float32, not by the stored vectors; "
            "join again without --recheck"
        )
    return None


class PartnerSearch:
    """Finds blind partners among the images of a join; may be asked from several threads.

    Attributes:
        clip_above: the join's threshold.
        dino_below: likewise.
    """

    def __init__(self, store: Store, record: Json, scratch: Path) -> None:
        """Map the vectors of a join.

        Args:
            store: the run directory.
            record: the content of join.json.
            scratch: a local folder for the mapped vectors, for this search alone.

        Raises:
            StoreError: the join cannot be searched, or its shards are not there any more.
        """
        reason = why_not_searchable(record)
        if reason is not None:
            raise StoreError(f"{record['name']}: {reason}")
        self.clip_above = float(record["clip_above"])
        self.dino_below = float(record["dino_below"])
        self._bands = float(record["borderline_clip"]), float(record["borderline_dino"])
        own: set[str] = set()
        self._sides: list[_Side] = []
        for number, run in enumerate(runs_of(store, record)):
            rows = _rows_of(run, record, number, own)
            own |= set(rows.sha256)
            self._sides.append(_side(run, record, rows, scratch / str(number)))

    def __len__(self) -> int:
        """Images that are looked at."""
        return sum(int(side.is_sought.sum()) for side in self._sides)

    def stored(self, image_id: str) -> Query | None:
        """An image of the join, as a query; None where the join has no such image."""
        for number, side in enumerate(self._sides):
            row = bisect_left(side.rows.image_ids, image_id)
            if row < len(side.rows) and side.rows.image_ids[row] == image_id:
                return self._query(number, row)
        return None

    def with_bytes(self, sha256: str) -> tuple[str, Query] | None:
        """The first image of the join with these bytes, if any: its image_id, and as a query."""
        for number, side in enumerate(self._sides):
            place = int(np.searchsorted(side.by_sha256, sha256.encode()))
            if place < len(side.rows) and side.by_sha256[place] == sha256.encode():
                row = int(side.sha256_row[place])
                return side.rows.image_ids[row], self._query(number, row)
        return None

    def _query(self, number: int, row: int) -> Query:
        side = self._sides[number]
        place = int(side.leader[row])
        return Query(
            clip_D=side.pack.clip_ND[place],
            dino_E=side.pack.dino_NE[place],
            place=(number, place),
        )

    def partners(
        self,
        query: Query,
        *,
        clip_above: float | None = None,
        dino_below: float | None = None,
        limit: int = 100,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> tuple[list[Partner], int]:
        """The blind partners of an image.

        Args:
            query: the image.
            clip_above: partners have a CLIP cosine strictly above this; default: the join's.
            dino_below: ... and a DINO cosine strictly below this; default: the join's.
            limit: most partners that are returned.
            is_stopped: asked after every chunk.

        Returns:
            Partners by descending clip_cos (as float32, then by image_id), and how many there are.

        Raises:
            SearchStopped: `is_stopped` said so.
        """
        above = self.clip_above if clip_above is None else clip_above
        below = self.dino_below if dino_below is None else dino_below
        found: list[tuple[float, str, Partner]] = []
        num_partners = 0
        for number, side in enumerate(self._sides):
            # Of two runs, one is joined against the other, and neither with itself.
            own = query.place if query.place and query.place[0] == number else None
            if own is not None and len(self._sides) > 1:
                continue
            for start in range(0, len(side.pack), CHUNK_ROWS):
                if is_stopped():
                    raise SearchStopped
                rows = _candidates(side, query, start, above, own and own[1])
                clip_cos = cosines(side.pack.clip_ND, query.clip_D[None], rows, 0 * rows)
                rows, clip_cos = rows[clip_cos > above], clip_cos[clip_cos > above]
                dino_cos = cosines(side.pack.dino_NE, query.dino_E[None], rows, 0 * rows)
                blind = dino_cos < below
                num_partners += int(blind.sum())
                found += self._best(
                    side, rows[blind], clip_cos[blind], dino_cos[blind], (above, below), limit
                )
                found.sort(key=lambda each: each[:2])
                del found[limit:]
        return [partner for _, _, partner in found], num_partners

    def _best(
        self,
        side: _Side,
        rows: torch.Tensor,
        clip_cos: torch.Tensor,
        dino_cos: torch.Tensor,
        thresholds: tuple[float, float],
        limit: int,
    ) -> list[tuple[float, str, Partner]]:
        """Partners, those of the highest cosines, with what they are ordered by."""
        near = [
            (cos - threshold).abs() <= band
            for cos, threshold, band in zip(
                (clip_cos, dino_cos), thresholds, self._bands, strict=True
            )
        ]
        key = -clip_cos.numpy().astype(np.float32)
        order = np.lexsort((side.pack.places[rows.numpy()], key))[:limit]
        found = []
        for at in order.tolist():
            row = int(rows[at])
            image_id = side.pack.rows.image_ids[int(side.pack.places[row])]
            partner = Partner(
                image_id=image_id,
                clip_cos=float(clip_cos[at]),
                dino_cos=float(dino_cos[at]),
                borderline=bool(near[0][at] | near[1][at]),
                num_duplicates=int(side.duplicates[row]),
            )
            found.append((float(key[at]), image_id, partner))
        return found


def _candidates(
    side: _Side, query: Query, start: int, above: float, own: int | None
) -> torch.Tensor:
    """[P] int64: rows of a chunk that may lie above the threshold, and no other that may not."""
    chunk_ND = unit_rows(side.pack.clip_ND[start : start + CHUNK_ROWS])
    products_N = chunk_ND @ unit_rows(query.clip_D[None])[0]
    may = products_N > float32_floor(above, chunk_ND.shape[1])
    may &= torch.from_numpy(side.is_sought[start : start + CHUNK_ROWS])
    rows = may.nonzero()[:, 0] + start
    return rows if own is None else rows[rows != own]


def _rows_of(run: Store, record: Json, number: int, own: set[str]) -> Rows:
    """The images of a run that a join has read; of a second run those that the first lacks."""
    rows = load_rows(run, record["clip"], record["dino"])
    wanted = set(record["shards"][number])
    if missing := sorted(wanted - set(rows.shard_ids)):
        raise StoreError(
            f"{run.root} lacks {len(missing)} shards that {record['name']} has read "
            f"({missing[0]}, ...); run `blindpairs join {run.root}` again"
        )
    read = np.array([name in wanted for name in rows.shard_ids], bool)[rows.shard]
    foreign = np.array([sha256 not in own for sha256 in rows.sha256], bool)
    places = np.flatnonzero(read & foreign)
    return rows.take(places, rows.duplicates[places])


def _side(run: Store, record: Json, rows: Rows, folder: Path) -> _Side:
    encoders = (record["clip"], record["dino"])
    first = np.arange(len(rows))
    if record["collapse"] != "none":
        first = equal_bytes(rows.sha256)
    kept, copies = stand_for(first, rows.duplicates)
    distinct = rows.take(kept, copies)
    hashes = inputs(run, encoders, rows.shard_ids)
    pack = build_pack(run, folder, encoders, distinct, group_shards(distinct, []), hashes)
    leaders = np.arange(len(distinct))
    if record["collapse"] == "near":
        leaders = near_copies_in_buckets(
            pack.clip_ND,
            pack.dino_NE,
            near_clip=record["near_clip"],
            near_dino=record["near_dino"],
            order=pack.by_id,
        )
    leading, all_copies = stand_for(leaders, copies)
    is_sought, duplicates = np.zeros(len(distinct), bool), np.zeros(len(distinct), np.int64)
    is_sought[leading], duplicates[leading] = True, all_copies
    sha256 = np.array(rows.sha256, dtype="S64")
    order = np.argsort(sha256, kind="stable")
    return _Side(
        rows=rows,
        leader=pack.by_id[leaders[np.searchsorted(kept, first)]],
        by_sha256=sha256[order],
        sha256_row=order,
        pack=pack,
        # From the order of image_ids to that of the pack.
        is_sought=is_sought[pack.places],
        duplicates=duplicates[pack.places],
    )
