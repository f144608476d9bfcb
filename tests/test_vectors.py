from pathlib import Path

import numpy as np
import pytest

from miner import schema
from miner.audit import collect_garbage, verify
from miner.records import new_attempt
from miner.store import Store
from miner.tables import table_of, vector_table
from miner.vectors import (
    FP32,
    LAZY,
    EncoderVectors,
    files_read,
    part_name,
    shard_of,
    still_read,
)
from tests.runs import DINO, make_store, sample_row, unit

SHARD = "set.00000"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One shard of 6 images with CLIP vectors only."""
    store = make_store(tmp_path, num_shards=1, rows=6)
    store.withdraw(f"vectors/{DINO}", SHARD)
    return store


def rows(number: int, seed: int = 0) -> np.ndarray:
    import torch

    return unit(torch.randn(number, 24, generator=torch.Generator().manual_seed(seed)))


def ids(*numbers: int) -> list[str]:
    return [f"set/00000/{number:06d}" for number in numbers]


def commit(
    store: Store,
    name: str,
    image_ids: list[str],
    vectors: np.ndarray,
    refused: tuple[str, ...] = (),
    deviation: float = 0.0,
) -> None:
    file = f"{name}.{new_attempt()}.parquet"
    files = [store.write_table(vector_table(image_ids, vectors), f"vectors/{DINO}", file)]
    if refused:
        lines = [
            {k: sample_row(i, b"", "/corpus/00000.tar")[k] for k in ("dataset", "shard", "key")}
            | {"member": "x.jpg", "reason": schema.Reason.NONFINITE.value, "detail": "NaN"}
            for i in refused
        ]
        files.append(store.write_table(table_of(lines, schema.QUARANTINE), "quarantine", file))
    record = {
        "encoder_id": DINO,
        "deviation": deviation,
        "num_quarantined": len(refused),
        "samples_sha256": store.record("samples", SHARD)["files"][0]["sha256"],
    }
    assert store.commit(f"vectors/{DINO}", name, files, record)


def test_parts_are_read_together_and_the_first_of_an_image_counts(store: Store) -> None:
    first, second = rows(2, seed=1), rows(3, seed=2)
    commit(store, f"{SHARD}~lazy-00000001", ids(1, 4), first)
    commit(store, f"{SHARD}~lazy-00000002", ids(0, 4, 2), second, refused=tuple(ids(5)))
    vectors = EncoderVectors(store, DINO)
    assert vectors.whole == set()
    assert vectors.ids(SHARD) == ids(1, 4, 0, 2)
    assert vectors.refused(SHARD) == set(ids(5))
    names, found = vectors.read(SHARD)
    assert names == ids(1, 4, 0, 2)
    assert np.array_equal(found, np.concatenate([first, second[[0, 2]]]))
    assert verify(store) == []


def test_nothing_is_an_empty_table_of_the_encoders_width(store: Store) -> None:
    vectors = EncoderVectors(store, DINO)
    assert (vectors.dim, vectors.read(SHARD)[1].shape) == (1, (0, 1))
    commit(store, f"{SHARD}~fp32-00000001", ids(1), rows(1))
    vectors = EncoderVectors(store, DINO)
    assert (vectors.ids(SHARD), vectors.read(SHARD)[1].shape) == ([], (0, 24))
    assert vectors.ids(SHARD, FP32) == ids(1)


def test_all_of_a_shard_stand_in_the_place_of_its_parts(store: Store) -> None:
    commit(store, f"{SHARD}~lazy-00000001", ids(1), rows(1, seed=1))
    commit(store, f"{SHARD}~fp32-00000001", ids(2), rows(1, seed=2))
    whole = rows(6, seed=3)
    commit(store, SHARD, ids(*range(6)), whole, deviation=5e-3)
    vectors = EncoderVectors(store, DINO)
    assert vectors.names(SHARD) == [SHARD]
    assert np.array_equal(vectors.read(SHARD)[1], whole)
    assert vectors.names(SHARD, FP32) == [f"{SHARD}~fp32-00000001"]
    assert vectors.superseded() == [f"{SHARD}~lazy-00000001"]
    removed = collect_garbage(store)
    assert len(removed) == 1
    assert "~lazy-" in removed[0]
    assert not (store.root / removed[0]).exists()
    assert EncoderVectors(store, DINO).superseded() == []
    assert verify(store) == []


def test_float32_of_a_whole_shard_leaves_no_use_for_its_rechecked_part(store: Store) -> None:
    commit(store, f"{SHARD}~fp32-00000001", ids(2), rows(1, seed=2))
    commit(store, SHARD, ids(*range(6)), rows(6))
    assert EncoderVectors(store, DINO).superseded() == [f"{SHARD}~fp32-00000001"]


def test_names_are_those_of_the_images_in_any_order() -> None:
    name = part_name(SHARD, LAZY, ids(2, 1))
    assert name == part_name(SHARD, LAZY, ids(1, 2))
    assert name != part_name(SHARD, LAZY, ids(1, 3))
    assert name != part_name(SHARD, FP32, ids(1, 2))
    assert shard_of(name) == shard_of(SHARD) == SHARD


def test_what_was_read_stands_until_a_part_goes_or_is_replaced(store: Store) -> None:
    commit(store, f"{SHARD}~lazy-00000001", ids(1), rows(1, seed=1))
    read = files_read([EncoderVectors(store, DINO)], [SHARD], LAZY)
    assert list(read) == [f"{DINO}/{SHARD}~lazy-00000001"]
    commit(store, f"{SHARD}~lazy-00000002", ids(2), rows(1, seed=2))
    assert still_read(read, [EncoderVectors(store, DINO)], LAZY)
    commit(store, SHARD, ids(*range(6)), rows(6))
    assert not still_read(read, [EncoderVectors(store, DINO)], LAZY)
    store.withdraw(f"vectors/{DINO}", SHARD)
    store.withdraw(f"vectors/{DINO}", f"{SHARD}~lazy-00000001")
    assert not still_read(read, [EncoderVectors(store, DINO)], LAZY)


def test_a_part_of_other_images_and_a_wrong_count_are_found(store: Store) -> None:
    commit(store, f"{SHARD}~lazy-00000001", ["set/00000/000099"], rows(1))
    (finding,) = verify(store)
    assert "1 vectors and 0 refusals for 6 samples" in finding.problem
    store.withdraw(f"vectors/{DINO}", f"{SHARD}~lazy-00000001")
    # A whole commit has to be of all images, a part need not.
    commit(store, SHARD, ids(1), rows(1))
    (finding,) = verify(store)
    assert "1 vectors and 0 refusals for 6 samples" in finding.problem
