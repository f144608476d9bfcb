from pathlib import Path

import pytest

from miner.blocks import known_groups, withdraw_others
from miner.store import Store

STAGE = "blocks/a-join"


@pytest.mark.parametrize("names", ["abcdef", "fedcba", "cafebd"])
def test_groups_keep_their_order_whatever_the_blocks_are_called(tmp_path: Path, names: str) -> None:
    store = Store(tmp_path)
    groups = [["z"], ["m", "n"], ["a"]]
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    for name, (i, j) in zip(names, pairs, strict=True):
        store.commit(STAGE, name, [], {"shards": [groups[i], groups[j]]})
    assert known_groups(store, STAGE, 0) == [tuple(group) for group in groups]
    withdraw_others(store, STAGE, names[:2])
    assert store.committed(STAGE) == sorted(names[:2])


def test_groups_of_either_side(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, shards in (("x", [["a"], ["c"]]), ("y", [["b"], ["c"]])):
        store.commit(STAGE, name, [], {"shards": shards})
    assert known_groups(store, STAGE, 0) == [("a",), ("b",)]
    assert known_groups(store, STAGE, 1) == [("c",)]
