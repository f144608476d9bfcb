import json
from pathlib import Path

import pytest

from miner.errors import StoreError
from miner.records import (
    canonical,
    differences,
    digest,
    read_json,
    read_record,
    replace_json,
    replace_record,
)


def test_canonical_text_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical({"b": 1, "a": [1, "é"]}) == '{"a":[1,"é"],"b":1}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def test_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    replace_record(path, {"a": 1})
    assert read_record(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


@pytest.mark.parametrize("damage", ["edit", "cut", "empty", "list"])
def test_damaged_record_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "record.json"
    replace_record(path, {"rows": 12})
    text = path.read_text()
    damaged = {
        "edit": text.replace("12", "13"),
        "cut": text[: len(text) // 2],
        "empty": "",
        "list": "[]",
    }[damage]
    path.write_text(damaged)
    with pytest.raises(StoreError, match=r"record\.json (was cut|cannot be read|holds no)"):
        read_record(path)


def test_replace_puts_the_new_text_in_place(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    replace_json(path, {"a": 1})
    replace_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    replace_record(path, {"a": 3})
    assert read_record(path) == {"a": 3}
    assert json.loads(path.read_text())["a"] == 3


def test_differences_name_every_field() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == [
        "b: 2 recorded, 3 now",
        "c: None recorded, 4 now",
    ]
