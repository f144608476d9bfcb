from pathlib import Path

import pytest

from miner.errors import FingerprintError, StoreError
from miner.store import Store
from tests.runs import make_store


def test_nobody_is_alone_while_somebody_writes(tmp_path: Path) -> None:
    store = make_store(tmp_path, num_shards=1)
    with store.writing():
        with Store(tmp_path).writing(), Store(tmp_path).alone() as alone:
            assert not alone
        with store.alone() as alone:
            assert not alone
    with store.alone() as alone:
        assert alone


def test_other_reading_settings_are_refused_field_by_field(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.update_run({"max_pixels": 5, "stem_depth": 1}, {}, {"command": "mine"})
    store.update_run({"max_pixels": 5, "stem_depth": 1}, {"a.1": {}}, {"command": "mine"})
    assert len(store.run()["commands"]) == 2
    with pytest.raises(FingerprintError, match=r"max_pixels: 5 recorded, 6 now.*another --out"):
        store.update_run({"max_pixels": 6, "stem_depth": 1}, {}, {"command": "mine"})


def test_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no run .* `blindpairs mine --out`"):
        Store(tmp_path).run()
