"""Layouts in JSON lines and Parquet, and how a layout is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miner.errors import LabelError
from miner.measuring.layouts import LAYOUTS, read_labelled
from tests.labelled_sets import twins, write_jsonl, write_mmvp, write_winoground

PAIRS = twins(4)


def test_our_own_lines(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path, PAIRS)
    path.write_text("\n\n".join(path.read_text().splitlines()))
    found = read_labelled(path, "jsonl")
    assert (found.layout, found.prompt, found.notes) == ("jsonl", "{}", ())
    assert [item.name for item in found.items] == ["1", "3", "5", "7"]
    for item, pair in zip(found.items, PAIRS, strict=True):
        assert item.statements == pair.statements
        assert item.subset == pair.attribute
        assert tuple(source.read() for source in item.images) == pair.images
        assert [question.right for question in item.questions] == [0, 1]
        assert item.group == ""


def line(**changes: object) -> str:
    fields: dict[str, object] = {"image_1": "0_1.jpg", "image_2": "0_2.jpg"}
    fields |= {"statement_1": "x", "statement_2": "y"}
    return json.dumps(fields | changes)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "line 1 is no JSON"),
        ("[" * 100_000, "line 1 is no JSON"),
        ('"text"', "line 1 is no JSON object"),
        (line(statement_2="x"), "line 1: line: Value error, the two statements are the same"),
        (line(statement_2=""), "line 1: statement_2: String should have at least 1 character"),
        (line(image_1=3), "line 1: image_1: Input should be a valid string"),
        (line(img="x"), "line 1: img: Extra inputs are not permitted"),
        (line(image_2="../a.jpg"), "line 1: the image '../a.jpg' leads out of"),
        ("\n" + line(image_2="no.jpg"), "line 2: there is no image 'no.jpg'"),
        (line(id="one") + "\n" + line(id="one"), "two pairs are called one"),
        ("", "holds no labelled pair"),
    ],
)
def test_bad_lines(tmp_path: Path, content: str, told: str) -> None:
    path = write_jsonl(tmp_path / "set", PAIRS[:1])
    path.write_text(content)
    with pytest.raises(LabelError, match=told):
        read_labelled(path, "jsonl")


@pytest.mark.parametrize("below", [".", "data"])
def test_winoground_as_a_folder(tmp_path: Path, below: str) -> None:
    write_winoground(tmp_path / below, PAIRS)
    found = read_labelled(tmp_path, "winoground")
    for number, (item, pair) in enumerate(zip(found.items, PAIRS, strict=True)):
        assert (item.name, item.subset) == (str(number), pair.attribute)
        assert item.statements == pair.statements
        assert tuple(source.read() for source in item.images) == pair.images


def write_parquet(path: Path, **changes: object) -> Path:
    pair = PAIRS[0]
    row: dict[str, object] = {
        "id": 7,
        "image_0": {"bytes": pair.images[0], "path": "a.png"},
        "image_1": {"bytes": pair.images[1], "path": "b.png"},
        "caption_0": pair.statements[0],
        "caption_1": pair.statements[1],
    }
    pq.write_table(pa.Table.from_pylist([row | changes]), path)
    return path


def test_winoground_as_parquet(tmp_path: Path) -> None:
    (item,) = read_labelled(write_parquet(tmp_path / "w.parquet"), "winoground").items
    assert (item.name, item.subset) == ("7", "no pattern")
    assert tuple(source.read() for source in item.images) == PAIRS[0].images
    assert len({source.name for source in item.images}) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image_1": {"bytes": None, "path": "b.png"}}, "row 1: image_1 has no bytes; export"),
        ({"image_1": "b.png"}, "row 1: image_1 has no bytes"),
        ({"caption_1": None}, "row 1 has no caption_1; mend it"),
        ({"caption_1": PAIRS[0].statements[0]}, "row 1 needs two different captions"),
        ({"caption_1": 5}, "row 1 needs two different captions"),
    ],
)
def test_bad_parquet(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    path = write_parquet(tmp_path / "w.parquet", **changes)
    with pytest.raises(LabelError, match=told):
        read_labelled(path, "winoground")


def test_bad_winoground(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"data/examples.jsonl cannot be read"):
        read_labelled(tmp_path, "winoground")
    path = tmp_path / "w.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(LabelError, match="cannot be read as Parquet"):
        read_labelled(path, "winoground")
    folder = write_winoground(tmp_path / "set", PAIRS[:1])
    lines = folder / "examples.jsonl"
    text = lines.read_text()
    lines.write_text(text.replace("ex_0_img_0", "../../ex"))
    with pytest.raises(LabelError, match=r"the image 'images/../../ex.*' leads out"):
        read_labelled(folder, "winoground")
    lines.write_text("[]")
    with pytest.raises(LabelError, match="line 1 is no JSON object"):
        read_labelled(folder, "winoground")


def test_the_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no layout is called 'coco'; there are jsonl, mmvp,"):
        read_labelled(tmp_path, "coco")
    with pytest.raises(ValueError, match=r"--correct-labels is for the public MMVP; jsonl is"):
        read_labelled(tmp_path, "jsonl", correct_labels=True)
    folder = write_mmvp(tmp_path / "mmvp", PAIRS)
    with pytest.raises(LabelError, match="has 8 rows; the wrong labels are known of the public"):
        read_labelled(folder, "mmvp", correct_labels=True)
    assert set(LAYOUTS) == {"jsonl", "mmvp", "mmvp-vlm", "whatsup", "winoground"}
