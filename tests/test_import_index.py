"""Ids of a source against ids of a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from miner.errors import StoreError
from miner.importing.embedding_files import NpyVectors
from miner.importing.index import AMBIGUOUS, MISSING, SourceIndex, hashes_of
from miner.importing.sources import Part
from tests.foreign import some_vectors


def index_of(folder: Path, **parts: Sequence[str]) -> SourceIndex:
    made = []
    for name, ids in parts.items():
        np.save(folder / f"{name}.npy", some_vectors(len(ids)))
        made.append(Part(name=name, vectors=NpyVectors(folder / f"{name}.npy"), listed=ids))
    return SourceIndex(made)


def find(
    index: SourceIndex,
    keys: Sequence[str],
    part: str = "z",
    shared: Sequence[str] = (),
    *,
    by_position: bool = False,
) -> list[tuple[str, int] | int]:
    ids = [f"set/{part}/{key}" for key in keys]
    hashes = np.sort(hashes_of(shared)) if shared else np.array([], "S16")
    found = index.find(keys, ids, part, shared=hashes, by_position=by_position)
    return [
        (index.parts[index.part[place]].name, int(index.row[place])) if place >= 0 else int(place)
        for place in found
    ]


def test_ids_are_found_wherever_they_lie(tmp_path: Path) -> None:
    index = index_of(tmp_path, a=["x", "y"], b=["set/z/w", "v"])
    assert find(index, ["v", "w", "x", "nothing"]) == [("b", 1), ("b", 0), ("a", 0), MISSING]
    assert index.num_unknown == 1


def test_the_first_of_repeated_rows_counts(tmp_path: Path) -> None:
    index = index_of(tmp_path, a=["x", "y", "x", "x"])
    assert find(index, ["x"]) == [("a", 0)]
    assert index.num_repeated == 2
    assert len(index) == 2


def test_one_id_in_several_parts_goes_by_the_part(tmp_path: Path) -> None:
    index = index_of(tmp_path, a=["x"], b=["x"])
    assert find(index, ["x"], "b") == [("b", 0)]
    assert find(index, ["x"], "c") == [AMBIGUOUS]


def test_keys_that_several_shards_have_are_of_their_own_part_alone(tmp_path: Path) -> None:
    """Else the one vector of `x` would be that of two images."""
    index = index_of(tmp_path, a=["x", "y"])
    assert find(index, ["x", "y"], "b", shared=["x"]) == [MISSING, ("a", 1)]
    assert find(index, ["x"], "a", shared=["x"]) == [("a", 0)]


def test_row_numbers_mean_something_in_one_part_alone(tmp_path: Path) -> None:
    index = index_of(tmp_path, a=["0"])
    assert find(index, ["0"], "b", by_position=True) == [MISSING]
    assert find(index, ["0"], "a", by_position=True) == [("a", 0)]


def test_ids_and_vectors_have_to_be_as_many(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", some_vectors(3))
    part = Part(name="a", vectors=NpyVectors(tmp_path / "a.npy"), listed=["x"])
    with pytest.raises(StoreError, match="part a has 1 ids and 3 vectors"):
        SourceIndex([part])


def test_hashes_keep_zero_bytes() -> None:
    """numpy cuts trailing zeros of such texts, which must not make two ids one."""
    ids = [str(number) for number in range(3000)]
    assert len(np.unique(hashes_of(ids))) == 3000
    assert any(each.endswith(b"\0") for each in [bytes(h).ljust(16, b"\0") for h in hashes_of(ids)])
