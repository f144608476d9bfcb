"""The vectors of a join as memory-mapped files.

Parquet is what users read; a join reads each vector many times, so it reads a packed matrix that is
built once and removed when the join is done.

Shape suffixes: N rows, D clip width, E dino width.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from miner.errors import StoreError
from miner.records import Json, read_json, replace_json
from miner.rows import Rows
from miner.store import Store
from miner.vectors import EncoderVectors

DINO_FILE = "dino.npy"
FILES = ("clip.npy", DINO_FILE)
"""Of a pack, in the order of its encoders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedVectors:
    """Where the vectors of a pack lie.

    Attributes:
        folder: of the files.
        segments: the names of the pack's segments.
        encoders: encoder_ids of CLIP and DINO; None where DINO has no say, and every cosine is 1.
        num_rows: N.
    """

    folder: Path
    segments: tuple[str, ...]
    encoders: tuple[str, str | None]
    num_rows: int

    @property
    def files(self) -> list[str]:
        """The names of the files with the vectors."""
        return [name for name, has_say in zip(FILES, self.encoders, strict=True) if has_say]

    @property
    def content(self) -> Json:
        """What has to lie in the folder."""
        return {"segments": list(self.segments), "encoders": list(self.encoders)}

    def lie_there(self) -> bool:
        """Whether the folder holds these vectors, whole."""
        path = self.folder / "pack.json"
        return path.exists() and read_json(path) == self.content

    def write(self, store: Store, rows: Rows, *, may_lack: bool) -> None:
        """Copy the vectors into the folder, in place of whatever is there.

        Args:
            store: the run directory.
            rows: N rows in the order of the pack.
            may_lack: whether rows may have no DINO vector; they get any.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name, encoder_id in zip(FILES, self.encoders, strict=True):
            if encoder_id is not None:
                lack = may_lack and name == DINO_FILE
                _copy_vectors(store, self.folder / name, encoder_id, rows, may_lack=lack)
        replace_json(self.folder / "pack.json", self.content)

    def open(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Map the vectors into memory: [N, D] and [N, E] float16 of unit length.

        Raises:
            StoreError: they are not in the folder.
        """
        if not self.lie_there():
            raise StoreError(
                f"{self.folder} does not hold the packed vectors of this join; every node has to "
                "see the folder in which the join packs them: give a run directory that all share"
            )
        # Mapped privately, since torch wants a writable array; nothing is written back. Nothing at
        # all cannot be mapped.
        mode: Literal["c"] | None = "c" if self.num_rows else None
        clip_ND, dino_NE = (
            torch.ones(self.num_rows, 1, dtype=torch.float16)
            if encoder_id is None
            else torch.from_numpy(np.load(self.folder / name, mmap_mode=mode))
            for name, encoder_id in zip(FILES, self.encoders, strict=True)
        )
        return clip_ND, dino_NE


def _copy_vectors(store: Store, path: Path, encoder_id: str, rows: Rows, *, may_lack: bool) -> None:
    """Write the vectors of rows, shard by shard, in the rows' order."""
    vectors = EncoderVectors(store, encoder_id)
    if len(rows) == 0:
        np.save(path, np.empty((0, vectors.dim), np.float16))
        return
    target_ND: np.ndarray | None = None
    by_shard = np.argsort(rows.shard, kind="stable")
    borders = np.searchsorted(rows.shard[by_shard], np.arange(len(rows.shard_ids) + 1))
    for place, shard_id in enumerate(rows.shard_ids):
        places = by_shard[borders[place] : borders[place + 1]]
        if len(places) == 0:
            continue
        image_ids, vectors_ND = vectors.read(shard_id)
        if target_ND is None:
            shape = (len(rows), vectors_ND.shape[1])
            target_ND = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        _refuse_bad(vectors_ND, image_ids, encoder_id, store)
        row_of = {image_id: row for row, image_id in enumerate(image_ids)}
        if may_lack:
            lacking = [p for p in places if rows.image_ids[p] not in row_of]
            # A length of 1, so that it is a vector; nobody looks at where it points.
            target_ND[lacking, 0] = 1
            places = np.array([p for p in places if rows.image_ids[p] in row_of], np.int64)
        target_ND[places] = vectors_ND[[row_of[rows.image_ids[p]] for p in places]]
    assert isinstance(target_ND, np.memmap)
    target_ND.flush()


def _refuse_bad(
    vectors_ND: np.ndarray, image_ids: list[str], encoder_id: str, store: Store
) -> None:
    lengths = np.linalg.norm(vectors_ND.astype(np.float32), axis=1)
    # Negated, so that NaN counts as bad. One bad row would spoil the codes of those around it.
    bad = np.flatnonzero(~((lengths > 0) & (lengths < np.inf)))
    if len(bad):
        raise StoreError(
            f"{encoder_id}: the vector of {image_ids[bad[0]]} is zero or not finite and has no "
            f"cosine ({len(bad)} such vectors in its shard); run `blindpairs verify {store.root}`, "
            "and embed the shard again"
        )
