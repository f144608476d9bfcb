from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miner import metadata
from miner.metadata import Metadata, clean_text, read_metadata


def of_json(value: object, **kwargs) -> Metadata:
    return read_metadata({"json": json.dumps(value).encode()}, **kwargs)


def test_img2dataset_sample() -> None:
    said = read_metadata(
        {
            "txt": b"a dog \n",
            "json": json.dumps(
                {"key": "0001", "url": "https://example.org/1", "caption": "a dog", "width": 3}
            ).encode(),
        }
    )
    assert said == Metadata(
        caption="a dog",
        url="https://example.org/1",
        label=None,
        meta='{"key": "0001", "width": 3}',
    )


def test_imagenet_sample() -> None:
    fields = {"label": 8, "synset": "n01514859", "filename": "hen.JPEG", "caption": "hen"}
    said = read_metadata({"cls": b"8", "json": json.dumps(fields).encode()})
    assert (said.label, said.caption) == ("8", "hen")
    assert json.loads(said.meta) == {"filename": "hen.JPEG", "synset": "n01514859"}


@pytest.mark.parametrize("names", [("URL", "TEXT"), ("url", "caption"), ("Url", "alt")])
def test_laion_names_in_any_case(names: tuple[str, str]) -> None:
    said = of_json({names[0]: "https://example.org", names[1]: "a cat"})
    assert (said.url, said.caption, said.meta) == ("https://example.org", "a cat", "{}")


def test_members_win_over_json_and_json_over_the_sidecar() -> None:
    said = read_metadata(
        {"txt": b"from txt", "json": b'{"caption": "from json", "width": 1}'},
        {"TEXT": "from sidecar", "URL": "https://example.org", "width": 2, "height": 3},
    )
    assert (said.caption, said.url) == ("from txt", "https://example.org")
    assert json.loads(said.meta) == {
        "TEXT": "from sidecar",
        "caption": "from json",
        "height": 3,
        "width": 1,
    }


def test_empty_text_is_none_and_a_later_source_is_asked() -> None:
    assert read_metadata({"txt": b" \n"}).caption is None
    assert read_metadata({"txt": b"", "json": b'{"text": "x"}'}).caption == "x"
    assert of_json({"caption": ["no", "text"]}).caption is None


def test_label_of_the_folder_comes_last() -> None:
    assert read_metadata({}, label="hen").label == "hen"
    assert read_metadata({"cls": b"8"}, label="hen").label == "8"


def test_split_of_the_shard_comes_last() -> None:
    assert json.loads(read_metadata({}, split="val").meta) == {"split": "val"}
    assert json.loads(of_json({"split": "dev"}, split="val").meta) == {"split": "dev"}


def test_other_members_are_named_only() -> None:
    assert json.loads(read_metadata({}, other_members=["pkl", "npy"]).meta) == {
        "_members": ["npy", "pkl"]
    }


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"{", "json: Expecting property name"),
        (b"", "json: Expecting value"),
        (b"[1]", "json: not an object"),
        (b'"\xff"', "json: not UTF-8"),
        (b'{"a": ' + b"[" * 50 + b"]" * 50 + b"}", "json: nested deeper than 32 levels"),
        (b"[" * 100_000, "json: nested too deeply"),
        (b'{"a": "' + b"x" * 10_000_000 + b'"}', "json: more than 1048576 bytes"),
        (b'{"a": ' + b"9" * 5000 + b"}", "json: Exceeds the limit"),
        (None, "json: more than 1048576 bytes"),
    ],
)
def test_broken_json_costs_its_fields_only(data: bytes | None, error: str) -> None:
    said = read_metadata({"txt": b"kept", "json": data})
    assert said.caption == "kept"
    assert json.loads(said.meta)["_error"].startswith(error)


def test_numbers_that_are_no_json_become_null() -> None:
    said = read_metadata({"json": b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": [NaN, 1.5]}'})
    assert json.loads(said.meta) == {"a": None, "b": None, "c": None, "d": [None, 1.5]}


def test_text_is_valid_everywhere() -> None:
    said = read_metadata(
        {"json": b'{"caption": "a\\u0000b\\ud800", "\\udfff": ["\\u0000\\ud83d\\ude00"]}'}
    )
    assert said.caption == "ab\ufffd"
    assert json.loads(said.meta) == {"\ufffd": ["\U0001f600"]}
    said = read_metadata({"txt": b"caf\xe9", "url": b"\xef\xbb\xbfhttps://example.org"})
    assert said.caption == "caf\ufffd"
    assert said.url == "https://example.org"
    assert json.loads(said.meta) == {"_error": "txt: not UTF-8"}


def test_text_and_meta_are_capped() -> None:
    assert len(read_metadata({"txt": b"x" * 50_000}).caption or "") == metadata.MAX_TEXT_CHARS
    assert "txt: more than" in read_metadata({"txt": b"x" * 2**21}).meta
    said = of_json({"exif": "x" * 19_000, "hash": "y" * 2_000, "width": 3})
    assert len(said.meta) < metadata.MAX_META_CHARS + 300
    assert json.loads(said.meta) == {
        "_error": "meta: more than 20000 characters, left out: exif",
        "hash": "y" * 2_000,
        "width": 3,
    }


def test_meta_is_the_same_for_any_order_of_fields() -> None:
    assert of_json({"b": 1, "a": {"d": 1, "c": 2}}) == of_json({"a": {"c": 2, "d": 1}, "b": 1})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text(max_size=8), json_values, max_size=5), st.binary(max_size=30))
def test_metadata_is_always_storable(fields: dict, text: bytes) -> None:
    said = read_metadata({"json": json.dumps(fields).encode(), "txt": text})
    for column in (said.caption, said.url, said.label, said.meta):
        assert "\0" not in (column or "").encode().decode()
    assert isinstance(json.loads(said.meta, parse_constant=pytest.fail), dict)


def test_clean_text_counts_characters_after_cleaning() -> None:
    assert clean_text("\0a\0b\0c", 2) == "ab"
