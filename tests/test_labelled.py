"""What every labelled set has to be, and where its images may lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from miner.config import ImageLimits
from miner.errors import LabelError
from miner.measuring.labelled import (
    ImageSource,
    Item,
    LabelledSet,
    by_statements,
    file_image,
    numbered_image,
    read_text,
)

LIMITS = ImageLimits()


def item(name: str) -> Item:
    source = ImageSource(name="none", read=bytes)
    statements = ("a", "b")
    return Item(
        name=name,
        subset="s",
        images=(source, source),
        statements=statements,
        questions=by_statements(name, statements),
    )


def test_a_set_has_items_with_names() -> None:
    with pytest.raises(LabelError, match="here holds no labelled pair; because"):
        LabelledSet(layout="jsonl", place="here", items=(), notes=("because",))
    with pytest.raises(LabelError, match="here: two pairs are called x; name each once"):
        LabelledSet(layout="jsonl", place="here", items=(item("x"), item("y"), item("x")))
    with pytest.raises(LabelError, match="holds no labelled pair; give a set that does"):
        LabelledSet(layout="jsonl", place="here", items=())
    with pytest.raises(LabelError, match="here: pair y is of pattern all, which is what"):
        LabelledSet(
            layout="jsonl", place="here", items=(item("x"), replace(item("y"), subset="all"))
        )
    found = LabelledSet(layout="jsonl", place="here", items=(item("x"), item("y")))
    assert found.num_statements == 2
    assert [question.id for question in found.items[0].questions] == ["x-1", "x-2"]


def test_an_image_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "deep" / "a.jpg").write_bytes(b"1")
    found = file_image(tmp_path / "set", "deep/../deep/a.jpg", "line 1", LIMITS)
    assert (found.name, found.read()) == ("deep/a.jpg", b"1")


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "link.jpg", "deep/../../x"])
def test_no_path_leads_out(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(LabelError, match=r"line 1: the image .* leads out of"):
        file_image(folder, name, "line 1", LIMITS)


def test_what_is_no_image_file(tmp_path: Path) -> None:
    (tmp_path / "big.jpg").write_bytes(b"12345")
    for name in ("none.jpg", "."):
        with pytest.raises(LabelError, match="line 1: there is no image"):
            file_image(tmp_path, name, "line 1", LIMITS)
    with pytest.raises(LabelError, match=r"line 1: .* is no path"):
        file_image(tmp_path, "a\0b", "line 1", LIMITS)
    with pytest.raises(LabelError, match=r"'big.jpg' has 5 bytes, limit 4; take a smaller one"):
        file_image(tmp_path, "big.jpg", "line 1", ImageLimits(max_member_bytes=4))


def test_numbered_images(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("1.jpg", "1.png", "2.webp", "3.png", "3.gif", "30.jpg"):
        (folder / name).write_bytes(name.encode())

    def find(number: int, below: str = "images") -> bytes:
        return numbered_image(tmp_path, below, number, "row", LIMITS).read()

    assert [find(number) for number in (1, 2, 30)] == [b"1.jpg", b"2.webp", b"30.jpg"]
    with pytest.raises(LabelError, match=r"row: images holds 3.gif and 3.png; keep one"):
        find(3)
    with pytest.raises(LabelError, match=r"row: there is no image 'images/4.jpg'"):
        find(4)
    with pytest.raises(LabelError, match="leads out of"):
        find(1, f"../{tmp_path.name}x")


def test_text_is_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffä".encode())
    assert read_text(path) == "ä"
    path.write_bytes(b"\xff")
    with pytest.raises(LabelError, match=r"a.csv cannot be read \(.*give a file in UTF-8"):
        read_text(path)
