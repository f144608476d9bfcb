"""Which row of a source is which image of a run: by id, never by the order of rows.

Shape suffixes: N rows of a source, K images of a shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from miner.errors import StoreError
from miner.importing.sources import Part

MISSING, AMBIGUOUS = -1, -2
"""Instead of a place: the source has no such id, or several in other parts than the image's."""

HASH_BYTES = 16


class SourceIndex:
    """The ids of a source, 16 bytes of hash for each.

    Attributes:
        parts: of the source.
        part: [N] int32, of each entry its part's place among `parts`.
        row: [N] int64, its row in the part.
        num_repeated: rows whose id an earlier row of their part has; they are no entries.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        """Read the ids.

        Raises:
            StoreError: a part has not one id for each vector.
        """
        self.parts = parts
        hashes, part, row = [], [], []
        self.num_repeated = 0
        for place, each in enumerate(parts):
            ids = each.ids()
            if len(ids) != each.num_rows:
                raise StoreError(
                    f"part {each.name} has {len(ids)} ids and {each.num_rows} vectors; they are "
                    "aligned row by row, so write both again"
                )
            found, first = np.unique(hashes_of(ids), return_index=True)
            self.num_repeated += len(ids) - len(found)
            hashes.append(found)
            part.append(np.full(len(found), place, np.int32))
            row.append(first.astype(np.int64))
        joined = np.concatenate(hashes)
        order = np.argsort(joined, kind="stable")
        self._hash = joined[order]
        self.part, self.row = np.concatenate(part)[order], np.concatenate(row)[order]
        self._is_used = np.zeros(len(order), bool)

    def __len__(self) -> int:
        return len(self._hash)

    @property
    def num_unknown(self) -> int:
        """Entries that no `find` has found so far."""
        return int((~self._is_used).sum())

    def find(
        self,
        keys: Sequence[str],
        image_ids: Sequence[str],
        part_name: str,
        *,
        shared: np.ndarray,
        by_position: bool,
    ) -> np.ndarray:
        """The entries of a shard's images: [K] int64, MISSING or AMBIGUOUS where there is not one.

        Args:
            keys: of the images.
            image_ids: of the same, by which a source may know them, too.
            part_name: the part of a source that the shard is; its entries come first.
            shared: sorted hashes of the keys that several shards have.
            by_position: keys are row numbers, which mean something in one part alone.
        """
        places = self._places(hashes_of(keys), part_name, shared, by_position=by_position)
        lacking = np.flatnonzero(places == MISSING)
        if len(lacking) and not by_position:
            names = hashes_of([image_ids[number] for number in lacking.tolist()])
            places[lacking] = self._places(names, part_name, shared, by_position=False)
        self._is_used[places[places >= 0]] = True
        return places

    def _places(
        self, hashes: np.ndarray, part_name: str, shared: np.ndarray, *, by_position: bool
    ) -> np.ndarray:
        first = np.searchsorted(self._hash, hashes, side="left")
        count = np.searchsorted(self._hash, hashes, side="right") - first
        at = np.searchsorted(shared, hashes)
        is_shared = np.zeros(len(hashes), bool)
        inside = at < len(shared)
        is_shared[inside] = shared[at[inside]] == hashes[inside]
        places = np.where(count == 0, MISSING, first).astype(np.int64)
        for number in np.flatnonzero((count > 1) | ((is_shared | by_position) & (count > 0))):
            own = [
                entry
                for entry in range(first[number], first[number] + count[number])
                if self.parts[self.part[entry]].name == part_name
            ]
            is_one = len(own) == 1
            none = AMBIGUOUS if count[number] > 1 else MISSING
            places[number] = own[0] if is_one else none
        return places


def hashes_of(ids: Iterable[str | None]) -> np.ndarray:
    """16 bytes of hash of each id; null is as the empty id, which no image has."""
    return np.array(
        [
            hashlib.blake2b(
                (name or "").encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES
            ).digest()
            for name in ids
        ],
        dtype=f"S{HASH_BYTES}",
    )
