from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from miner.errors import StoreError
from miner.selecting.raw_pairs import RawPairs, either_missing, flags
from miner.store import Store
from tests.blind_runs import blind_run, image, name_of
from tests.runs import CLIP


def pairs_of(store: Store, raw: pa.Table) -> RawPairs:
    record = store.join_record(name_of(store))
    assert record is not None
    return RawPairs(store, raw, record, columns=["caption"])


def test_images_go_by_number(tmp_path: Path) -> None:
    store = blind_run(tmp_path, [{"caption": str(number)} for number in range(4)])
    raw = store.raw(name_of(store))
    pairs = pairs_of(store, raw)
    assert pairs.image_ids.to_pylist() == [image(number) for number in range(4)]
    rows = np.array([3, 0])
    one, other = pairs.both("caption", rows)
    for place, row in enumerate(rows.tolist()):
        assert image(int(one[place].as_py())) == raw["image_1"][row].as_py()
        assert image(int(other[place].as_py())) == raw["image_2"][row].as_py()
    assert np.array_equal(pairs.vectors("clip"), store.vectors(CLIP, "set.00000")[1])


def test_images_of_which_the_run_has_nothing(tmp_path: Path) -> None:
    store = blind_run(tmp_path, [{}, {}])
    raw = store.raw(name_of(store))
    names = pa.array(["set/00000/zz"], pa.string())
    pairs = pairs_of(store, raw.set_column(raw.column_names.index("image_2"), "image_2", names))
    with pytest.raises(StoreError, match=r"name 1 images without samples in .*set/00000/zz"):
        _ = pairs.samples
    with pytest.raises(
        StoreError, match=r"name 1 images without vectors of dino-test.*blindpairs v"
    ):
        pairs.vectors("dino")


def test_no_pair_at_all(tmp_path: Path) -> None:
    store = blind_run(tmp_path, [{}, {}])
    pairs = pairs_of(store, store.raw(name_of(store)).slice(0, 0))
    assert len(pairs) == len(pairs.samples) == 0


def test_null_is_neither_true_nor_there() -> None:
    bits = pa.array([True, None, False])
    assert flags(bits).tolist() == [True, False, False]
    assert either_missing(pa.chunked_array([bits]), pa.chunked_array([bits])).tolist() == [
        *(False, True, False)
    ]
