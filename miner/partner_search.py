"""The blind partners of one image in the corpus of a join: exact, as the join itself would say.

Vectors are mapped into memory and looked at in chunks. A sketch of each row, a fraction of it,
rules out almost all others (`kernels.sketch`), a float32 product of whole rows most of the rest,
both by a floor below which no pair above the threshold can lie; then float64 cosines decide. Copies
count as in the join: one image stands for all of equal bytes, or for its near-copies where the join
wanted that.

Shape suffixes: N rows, D clip width, E dino width, P pairs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kernels.bounds import float32_floor, unit_rows
from kernels.reference import cosines
from kernels.screens import exact_products
from miner.errors import StoreError
from miner.records import Json
from miner.rows import runs_of
from miner.search_sides import Side, rows_of, side_of, why_not_searchable
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
        deviations: how far a CLIP and a DINO cosine may be off, for what is borderline; that of an
            image of the join lies in the join's bands.
    """

    clip_D: torch.Tensor
    dino_E: torch.Tensor
    place: tuple[int, int] | None = None
    deviations: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """An image that CLIP calls the same as the query, and DINO different.

    Attributes:
        image_id: of the image, which stands for its copies.
        run: whose image it is, 0 or, of a join against another run, 1.
        clip_cos: float64.
        dino_cos: float64.
        borderline: whether a cosine lies in its borderline band, as in `raw`.
        num_duplicates: further copies of equal bytes that it stands for.
    """

    image_id: str
    run: int
    clip_cos: float
    dino_cos: float
    borderline: bool
    num_duplicates: int


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
        self._in_first: dict[str, str] = {}
        self._sides: list[Side] = []
        for number, run in enumerate(runs_of(store, record)):
            rows, known = rows_of(run, record, number, own)
            self._in_first |= known
            own |= set(rows.sha256)
            self._sides.append(side_of(run, record, rows, scratch / str(number)))

    def __len__(self) -> int:
        """Images that are looked at."""
        return sum(int(side.is_sought.sum()) for side in self._sides)

    def stored(self, image_id: str) -> Query | None:
        """An image of the join, as a query; None where the join has no such image."""
        for number, side in enumerate(self._sides):
            row = bisect_left(side.rows.image_ids, image_id)
            if row < len(side.rows) and side.rows.image_ids[row] == image_id:
                return self._query(number, row)
        # An image of the second run that the first has under another name.
        found = self.with_bytes(self._in_first.get(image_id, ""))
        return None if found is None else found[1]

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
        bands = map(max, self._bands, query.deviations)
        edges = tuple(zip((above, below), bands, strict=True))
        found: list[tuple[float, str, Partner]] = []
        num_partners = 0
        for number, side in enumerate(self._sides):
            image_K = side.sketch.image(query.clip_D)
            # Of two runs, one is joined against the other, and neither with itself.
            own = query.place if query.place and query.place[0] == number else None
            if own is not None and len(self._sides) > 1:
                continue
            for start in range(0, len(side.pack), CHUNK_ROWS):
                if is_stopped():
                    raise SearchStopped
                rows = _candidates(side, query, image_K, start, above, own and own[1])
                clip_cos = cosines(side.pack.clip_ND, query.clip_D[None], rows, 0 * rows)
                rows, clip_cos = rows[clip_cos > above], clip_cos[clip_cos > above]
                dino_cos = cosines(side.pack.dino_NE, query.dino_E[None], rows, 0 * rows)
                blind = dino_cos < below
                num_partners += int(blind.sum())
                found += self._best(
                    number, rows[blind], clip_cos[blind], dino_cos[blind], edges, limit
                )
                found.sort(key=lambda each: each[:2])
                del found[limit:]
        return [partner for _, _, partner in found], num_partners

    def _best(
        self,
        number: int,
        rows: torch.Tensor,
        clip_cos: torch.Tensor,
        dino_cos: torch.Tensor,
        edges: Sequence[tuple[float, float]],
        limit: int,
    ) -> list[tuple[float, str, Partner]]:
        """Partners, those of the highest cosines, with what they are ordered by."""
        side = self._sides[number]
        near = [
            (cos - threshold).abs() <= band
            for cos, (threshold, band) in zip((clip_cos, dino_cos), edges, strict=True)
        ]
        key = -clip_cos.numpy().astype(np.float32)
        order = np.lexsort((side.pack.places[rows.numpy()], key))[:limit]
        found = []
        for at in order.tolist():
            row = int(rows[at])
            image_id = side.pack.rows.image_ids[int(side.pack.places[row])]
            partner = Partner(
                image_id=image_id,
                run=number,
                clip_cos=float(clip_cos[at]),
                dino_cos=float(dino_cos[at]),
                borderline=bool(near[0][at] | near[1][at]),
                num_duplicates=int(side.duplicates[row]),
            )
            found.append((float(key[at]), image_id, partner))
        return found


def _candidates(
    side: Side,
    query: Query,
    image_K: torch.Tensor,
    start: int,
    above: float,
    own: int | None,
) -> torch.Tensor:
    """[P] int64: rows of a chunk that may lie above the threshold, and no other that may not."""
    stop = min(start + CHUNK_ROWS, len(side.pack))
    may = side.sketch.may_exceed(image_K, above, start, stop)
    may &= torch.from_numpy(side.is_sought[start:stop])
    rows = may.nonzero()[:, 0] + start
    rows_PD = unit_rows(side.pack.clip_ND[rows])
    with exact_products(None):
        products_P = rows_PD @ unit_rows(query.clip_D[None])[0]
    rows = rows[products_P > float32_floor(above, rows_PD.shape[1])]
    return rows if own is None else rows[rows != own]
