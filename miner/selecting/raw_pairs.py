"""The rows of a join's `raw`, and what the steps of a selection ask of their images.

Samples and vectors are read when they are first asked for, and of the images in `raw` alone.

Shape suffixes: P rows of raw, R some of them, U images, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from miner.config import SelectSettings
from miner.copies import near_copies
from miner.records import Json
from miner.rows import by_shard, lacking, runs_of, sample_table
from miner.selecting.image_lists import ImageList
from miner.store import Store
from miner.vectors import EncoderVectors

Rows = npt.NDArray[np.int64]
"""[R] int64, rows of `raw`."""


Mask = npt.NDArray[np.bool_]
"""[R] bool, of some rows."""


def flags(found: pa.Array | pa.ChunkedArray) -> Mask:
    """[R] bool of what Arrow found; null is false."""
    bits: Mask = np.asarray(pc.fill_null(found, False)).astype(np.bool_)
    return bits


def either_missing(one: pa.ChunkedArray, other: pa.ChunkedArray) -> Mask:
    """[R] bool: one of two values is null."""
    return flags(pc.is_null(one)) | flags(pc.is_null(other))


class RawPairs:
    """Pairs, their images by number, and what is known of these.

    Attributes:
        store: the run that holds the join.
        raw: the pairs.
        record: the content of join.json.
        runs: whose images they are.
        image_ids: [U] text, ascending; an image's number is its place here.
        first: [P] int64, number of image 1.
        second: [P] int64, number of image 2.
        listed: the images of `--not-in`.
        text_D: the unit vector of `--about`.
    """

    def __init__(
        self,
        store: Store,
        raw: pa.Table,
        record: Json,
        *,
        columns: Iterable[str] = (),
        listed: ImageList | None = None,
        text_D: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Number the images of pairs.

        Args:
            store: the run that holds the join.
            raw: rows of `raw`.
            record: the content of join.json.
            columns: of `samples` that will be asked for.
            listed: the images of `--not-in`.
            text_D: the unit vector of `--about`.
        """
        self.store, self.raw, self.record = store, raw, record
        self.listed, self.text_D = listed, text_D
        self.runs = runs_of(store, record)
        sides = [raw[name].combine_chunks() for name in ("image_1", "image_2")]
        ids = pc.unique(pa.chunked_array(sides, pa.string()))
        self.image_ids = ids.take(pc.sort_indices(ids))
        self.first, self.second = (self._numbers(side) for side in sides)
        self._columns = sorted({*columns})
        self._groups: dict[tuple[float, float], Rows] = {}

    def __len__(self) -> int:
        return len(self.raw)

    def _numbers(self, ids: pa.Array) -> Rows:
        """[N] int64: the numbers of images, -1 for those that are in no pair."""
        found = pc.fill_null(pc.index_in(ids, value_set=self.image_ids), -1)
        numbers: Rows = found.to_numpy(zero_copy_only=False).astype(np.int64)
        return numbers

    def images(self, rows: Rows) -> Rows:
        """Numbers of the images of some pairs, each once, ascending."""
        return np.unique(np.concatenate([self.first[rows], self.second[rows]]))

    def both(self, column: str, rows: Rows) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """A column of `samples` for image 1 and image 2 of some pairs."""
        values = self.samples[column]
        return values.take(pa.array(self.first[rows])), values.take(pa.array(self.second[rows]))

    @cached_property
    def samples(self) -> pa.Table:
        """[U] rows of `samples`, by the images' numbers, with the columns that were announced.

        Raises:
            StoreError: an image is no sample of the runs.
        """
        return sample_table(self.runs, self.image_ids, self._columns)

    def vectors(self, side: Literal["clip", "dino"]) -> npt.NDArray[np.float16]:
        """[U, D] float16: an encoder's vectors of the images, by their numbers.

        Raises:
            StoreError: an image has none.
        """
        return self._clip_UD if side == "clip" else self._dino_UE

    @cached_property
    def _clip_UD(self) -> npt.NDArray[np.float16]:
        return self._read_vectors(self.record["clip"])

    @cached_property
    def _dino_UE(self) -> npt.NDArray[np.float16]:
        return self._read_vectors(self.record["dino"])

    def _read_vectors(self, encoder_id: str) -> npt.NDArray[np.float16]:
        num_images = len(self.image_ids)
        has = np.zeros(num_images, np.bool_)
        found_UD = np.empty((num_images, 0), np.float16)
        wanted = self.image_ids.to_pylist()
        for run in self.runs:
            vectors = EncoderVectors(run, encoder_id)
            for shard_id in by_shard(run, wanted):
                ids, vectors_ND = vectors.read(shard_id)
                if found_UD.shape[1] == 0:
                    found_UD = np.empty((num_images, vectors_ND.shape[1]), np.float16)
                numbers = self._numbers(pa.array(ids, pa.string()))
                found_UD[numbers[numbers >= 0]] = vectors_ND[numbers >= 0]
                has[numbers[numbers >= 0]] = True
        if not has.all():
            raise lacking(self.runs, f"vectors of {encoder_id}", self.image_ids, ~has)
        return found_UD

    def groups(self, settings: SelectSettings) -> Rows:
        """[U] int64: for each image the number that leads its group of near-copies."""
        near = (settings.near_clip, settings.near_dino)
        if near not in self._groups:
            clip_UD, dino_UE = (torch.from_numpy(self.vectors(side)) for side in ("clip", "dino"))
            found = near_copies(clip_UD, dino_UE, near_clip=near[0], near_dino=near[1])
            self._groups[near] = found
        return self._groups[near]
