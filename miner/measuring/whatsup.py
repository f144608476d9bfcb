"""The layout of What'sUp: one JSON list, each image with its captions, the right one first.

Sets of 4 show the same two objects in four relations. Opposite relations make a pair: left and
right in both parts, on and under in part A, in front and behind in part B. File names tell which:
`<object>_<relation>[_of]_<object>.<extension>`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path, PurePosixPath

from pydantic import Field, ValidationError

from miner.config import ImageLimits, Settings
from miner.errors import LabelError
from miner.measuring.labelled import ImageSource, Item, LabelledSet, Question, file_image, read_text

FILES = ("controlled_images_dataset.json", "controlled_clevr_dataset.json")
"""What the lists of part A and part B are called."""

PAIRS = {
    "left/right": ("left", "right"),
    "on/under": ("on", "under"),
    "front/behind": ("in-front", "behind"),
}
"""Relations that are each other's opposite."""


class _Row(Settings):
    image_path: str = Field(min_length=1)
    caption_options: list[str] = Field(min_length=2)


def read_whatsup(path: Path) -> LabelledSet:
    """What'sUp A or B, or both.

    Args:
        path: one of the lists, or the folder that holds them.

    Raises:
        LabelError: a row, or an image, is not as it has to be.
    """
    lists = [path] if path.is_file() else [path / name for name in FILES if (path / name).is_file()]
    if not lists:
        raise LabelError(f"{path} holds neither {' nor '.join(FILES)}; give the list itself")
    limits = ImageLimits()
    items = tuple(item for each in lists for item in _items(each, limits))
    return LabelledSet(layout="whatsup", place=str(path), items=items, limits=limits)


def _items(path: Path, limits: ImageLimits) -> list[Item]:
    sets: dict[tuple[str, str], dict[str, _Row]] = defaultdict(dict)
    for row in _rows(path):
        words = PurePosixPath(row.image_path).stem.split("_")
        known = len(words) >= 3 and any(words[1] in pair for pair in PAIRS.values())
        objects = (words[0], words[-1])
        if not known or words[1] in sets[objects]:
            raise LabelError(
                f"{path}: the image {row.image_path!r} is not, or not the only one, called "
                "<object>_<relation>_<object>"
            )
        sets[objects][words[1]] = row
    items = []
    for objects, by_relation in sets.items():
        part = "A" if "on" in by_relation or "under" in by_relation else "B"
        lacking = set(by_relation)
        for kind, (one, other) in PAIRS.items():
            if one in by_relation and other in by_relation:
                lacking -= {one, other}
                rows = (by_relation[one], by_relation[other])
                items.append(_item(path, part, kind, objects, rows, limits))
        if lacking:
            raise LabelError(
                f"{path}: {' and '.join(objects)} are shown {', '.join(sorted(lacking))}, but not "
                "in the opposite relation; add that image or take this one out"
            )
    return items


def _item(
    path: Path,
    part: str,
    kind: str,
    objects: tuple[str, str],
    rows: tuple[_Row, _Row],
    limits: ImageLimits,
) -> Item:
    right = (rows[0].caption_options[0], rows[1].caption_options[0])
    options = rows[0].caption_options
    if sorted(options) != sorted(rows[1].caption_options) or len({*options}) < len(options):
        raise LabelError(
            f"{path}: {rows[0].image_path!r} and {rows[1].image_path!r} are a pair, but their "
            "captions are not the same, each once; mend them"
        )
    if right[0] == right[1]:
        raise LabelError(f"{path}: {right[0]!r} cannot be right for both images of a pair")
    statements = (*right, *(text for text in options if text not in right))
    name = f"{part} {objects[0]} {objects[1]}"
    return Item(
        name=f"{name} {kind}",
        subset=f"{part} {kind}",
        images=(_image(path, rows[0], limits), _image(path, rows[1], limits)),
        statements=statements,
        questions=(
            Question(id=PurePosixPath(rows[0].image_path).name, options=statements, right=0),
            Question(id=PurePosixPath(rows[1].image_path).name, options=statements, right=1),
        ),
        group=name,
    )


def _image(path: Path, row: _Row, limits: ImageLimits) -> ImageSource:
    """The image of a row: its path counts from the folder of the list, or from one above it."""
    parts = PurePosixPath(row.image_path).parts
    tails = ["/".join(parts[first:]) for first in range(len(parts))]
    there = [tail for tail in tails[:-1] if ".." not in tail and (path.parent / tail).is_file()]
    return file_image(path.parent, there[0] if there else row.image_path, str(path), limits)


def _rows(path: Path) -> list[_Row]:
    try:
        listed = json.loads(read_text(path))
        return [_Row(**row) for row in listed]
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise LabelError(f"{path}: {field}: {first['msg']}; mend the row") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise LabelError(f"{path} is no JSON list of objects ({error})") from error
