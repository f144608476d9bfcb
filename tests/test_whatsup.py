"""What'sUp: sets of four by the names of their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miner.errors import LabelError
from miner.measuring.whatsup import read_whatsup
from tests.labelled_sets import twins, write_whatsup

PAIRS = twins(4)


@pytest.mark.parametrize(("part", "second"), [("A", "on/under"), ("B", "front/behind")])
def test_a_part(tmp_path: Path, part: str, second: str) -> None:
    found = read_whatsup(write_whatsup(tmp_path, PAIRS, part))
    assert [item.subset for item in found.items] == [f"{part} left/right", f"{part} {second}"] * 2
    assert [item.group for item in found.items] == [f"{part} mug{n} table" for n in (0, 0, 2, 2)]
    for item, pair in zip(found.items, PAIRS, strict=True):
        assert item.statements[:2] == pair.statements
        assert len(set(item.statements)) == 4
        assert tuple(source.read() for source in item.images) == pair.images
        assert [q.right for q in item.questions] == [0, 1]
        assert item.questions[0].options == item.statements
    assert found.items[0].questions[1].id == "mug0_right_of_table.jpeg"


def test_both_parts_of_a_folder(tmp_path: Path) -> None:
    write_whatsup(tmp_path, PAIRS, "A")
    write_whatsup(tmp_path, PAIRS, "B")
    found = read_whatsup(tmp_path)
    assert len(found.items) == 8
    assert len({item.name for item in found.items}) == 8
    assert len({question.id for item in found.items for question in item.questions}) == 12


def change(path: Path, row: int, **fields: object) -> None:
    rows = json.loads(path.read_text())
    rows[row] |= fields
    path.write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"image_path": "mug.jpg"}, "the image 'mug.jpg' is not, or not the only one, called"),
        ({"image_path": "a_near_b.jpg"}, "is not, or not the only one, called"),
        ({"image_path": "mug0_right_of_table.jpeg"}, "is not, or not the only one, called"),
        ({"image_path": "mug9_left_of_table.jpg"}, "mug9 and table are shown left, but not in"),
        ({"caption_options": ["x", "y"]}, "captions are not the same, each once"),
        ({"caption_options": []}, "caption_options: List should have at least 2 items"),
        ({"caption_options": [1, 2]}, "caption_options.0: Input should be a valid string"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
        ({"image_path": "data/../../mug0_left_of_table.jpeg"}, "leads out of"),
        ({"image_path": "none/mug0_left_of_table.jpeg"}, "there is no image 'none/mug0_left"),
    ],
)
def test_bad_rows(tmp_path: Path, fields: dict[str, object], told: str) -> None:
    path = write_whatsup(tmp_path / "set", PAIRS[:2])
    change(path, 0, **fields)
    with pytest.raises(LabelError, match=told):
        read_whatsup(path)


def test_one_statement_for_both(tmp_path: Path) -> None:
    path = write_whatsup(tmp_path, PAIRS[:2])
    rows = json.loads(path.read_text())
    change(path, 1, caption_options=rows[0]["caption_options"])
    with pytest.raises(LabelError, match="cannot be right for both images of a pair"):
        read_whatsup(path)


def test_bad_lists(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"holds neither controlled_images_dataset.json nor"):
        read_whatsup(tmp_path)
    path = tmp_path / "controlled_images_dataset.json"
    for content in ("{", "[1]", "3", "[" * 100_000):
        path.write_text(content)
        with pytest.raises(LabelError, match="is no JSON list of objects"):
            read_whatsup(path)
    path.write_text("[]")
    with pytest.raises(LabelError, match="holds no labelled pair"):
        read_whatsup(path)
