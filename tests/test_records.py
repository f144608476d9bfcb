import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    "damage", ["edit", "cut", "empty", "list", "nan", "infinity", "deep", "digits"]
)
def test_damaged_record_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "record.json"
    replace_record(path, {"rows": 12})
    text = path.read_text()
    damaged = {
        "edit": text.replace("12", "13"),
        "cut": text[: len(text) // 2],
        "empty": "",
        "list": "[]",
        "nan": text.replace("12", "NaN"),
        "infinity": text.replace("12", "1e999"),
        "deep": text.replace("12", "[" * 10**5 + "]" * 10**5),
        "digits": text.replace("12", "9" * 5000),
    }[damage]
    path.write_text(damaged)
    with pytest.raises(StoreError, match=r"record\.json (was cut|cannot be read|holds no)"):
        read_record(path)


RECORD = {
    "shard": {"stem": "00000", "num_bytes": 10240, "url": "/corpus/caf\u00e9.tar"},
    "files": [{"path": "samples/a.parquet", "rows": 12, "sha256": "ab" * 32}],
    "bytes": None,
    "damaged": False,
    "deviation": 0.00125,
}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_damaged_record_passes_for_another(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut, bits turned, bytes swapped or inserted: the same content, or an error."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    replace_record(path, RECORD)
    text = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "remove", "copy"]))
        if how == "flip":
            text[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del text[max(at, 1) :]
        elif how == "insert":
            text[at:at] = data.draw(st.binary(max_size=3) | st.sampled_from([b"NaN", b"1e999,"]))
        elif how == "remove":
            del text[at : min(at + data.draw(st.integers(1, 40)), len(text) - 1)]
        else:
            start = data.draw(st.integers(0, len(text) - 1))
            text[at:at] = text[start : start + 60]
    path.write_bytes(text)
    try:
        found = read_record(path)
    except StoreError:
        return
    assert found == RECORD


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
