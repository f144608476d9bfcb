"""Layouts of labelled sets: which there are, and those that are JSON lines.

jsonl         our own: image_1, image_2, statement_1, statement_2, pattern to a line
winoground    examples.jsonl and images/, or Parquet with the images inside
mmvp          Questions.csv and MMVP Images/ (`mmvp.py`)
mmvp-vlm      Questions.csv and MLLM_VLM Images/<Type>/ (`mmvp.py`)
whatsup       controlled_images_dataset.json or controlled_clevr_dataset.json (`whatsup.py`)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError, model_validator

from miner.config import ImageLimits, Settings
from miner.errors import LabelError
from miner.measuring.labelled import (
    NO_PATTERN,
    ImageSource,
    Item,
    LabelledSet,
    by_statements,
    file_image,
    read_text,
)
from miner.measuring.mmvp import read_mmvp, read_mmvp_vlm
from miner.measuring.whatsup import read_whatsup

Text = Annotated[str, Field(min_length=1, max_length=4000)]


class PairLine(Settings):
    """A line of a `jsonl` set."""

    image_1: Text
    """Path of image 1, relative to the file."""

    image_2: Text
    """Path of image 2, relative to the file."""

    statement_1: Text
    """A sentence that is true of image 1 and false of image 2."""

    statement_2: Text
    """A sentence that is true of image 2 and false of image 1."""

    pattern: Text = NO_PATTERN
    """The subset."""

    id: Text | None = None
    """Name of the pair; default: the number of its line."""

    @model_validator(mode="after")
    def _differ(self) -> PairLine:
        if self.statement_1 == self.statement_2:
            raise ValueError("the two statements are the same, so none is right")
        return self


def read_lines(path: Path) -> LabelledSet:
    """The set in a file of our own: a JSON object to a line, see `PairLine`.

    Raises:
        LabelError: a line is something else, or an image is not there.
    """
    limits, items = ImageLimits(), []
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        place = f"{path}: line {number}"
        try:
            line = PairLine(**_object(text, place))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "line"
            raise LabelError(f"{place}: {field}: {first['msg']}; mend the line") from error
        statements = (line.statement_1, line.statement_2)
        name = line.id or str(number)
        items.append(
            Item(
                name=name,
                subset=line.pattern,
                images=(
                    file_image(path.parent, line.image_1, place, limits),
                    file_image(path.parent, line.image_2, place, limits),
                ),
                statements=statements,
                questions=by_statements(name, statements),
            )
        )
    return LabelledSet(layout="jsonl", place=str(path), items=tuple(items), limits=limits)


def read_winoground(path: Path) -> LabelledSet:
    """Winoground: two images and two captions of the same words, to an example.

    Args:
        path: the folder with `examples.jsonl` (or `data/examples.jsonl`) and `images/` beside it;
            or a Parquet file with structs `image_0` and `image_1` of `bytes` and `path`.

    Raises:
        LabelError: a field or an image is missing.
    """
    limits = ImageLimits()
    examples = _of_parquet(path) if path.is_file() else _of_folder(path, limits)
    items = []
    for example, images in examples:
        name = str(example["id"])
        statements = (example["caption_0"], example["caption_1"])
        items.append(
            Item(
                name=name,
                subset=example.get("collapsed_tag") or NO_PATTERN,
                images=images,
                statements=statements,
                questions=by_statements(name, statements),
            )
        )
    return LabelledSet(layout="winoground", place=str(path), items=tuple(items), limits=limits)


def _of_folder(
    folder: Path, limits: ImageLimits
) -> Iterator[tuple[Mapping[str, Any], tuple[ImageSource, ImageSource]]]:
    path = folder / "examples.jsonl"
    if not path.is_file():
        path = folder / "data" / "examples.jsonl"
    for number, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        place = f"{path}: line {number}"
        example = _object(text, place)
        _check_example(example, place)
        one, other = (
            _named(path.parent, str(example[name]), place, limits)
            for name in ("image_0", "image_1")
        )
        yield example, (one, other)


def _named(folder: Path, name: str, place: str, limits: ImageLimits) -> ImageSource:
    """An image of Winoground, which is named without its extension."""
    suffix = "" if Path(name).suffix else ".png"
    return file_image(folder, f"images/{name}{suffix}", place, limits)


def _of_parquet(
    path: Path,
) -> Iterator[tuple[Mapping[str, Any], tuple[ImageSource, ImageSource]]]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise LabelError(f"{path} cannot be read as Parquet ({error})") from error
    for number, row in enumerate(rows, start=1):
        place = f"{path}: row {number}"
        _check_example(row, place)
        images = []
        for name in ("image_0", "image_1"):
            cell = row[name]
            data = cell.get("bytes") if isinstance(cell, dict) else None
            if not isinstance(data, bytes):
                raise LabelError(f"{place}: {name} has no bytes; export the set with its images")
            images.append(ImageSource(name=f"{place}, {name}", read=partial(bytes, data)))
        yield row, (images[0], images[1])


def _check_example(example: Mapping[str, Any], place: str) -> None:
    wanted = ("id", "image_0", "image_1", "caption_0", "caption_1")
    if lacking := [name for name in wanted if example.get(name) in (None, "")]:
        raise LabelError(f"{place} has no {' and no '.join(lacking)}; mend it")
    captions = [example["caption_0"], example["caption_1"]]
    if not all(isinstance(text, str) for text in captions) or captions[0] == captions[1]:
        raise LabelError(f"{place} needs two different captions; mend them")


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{place} is no JSON ({error}); mend the line") from error
    if not isinstance(value, dict):
        raise LabelError(f"{place} is no JSON object; mend the line")
    return value


LAYOUTS: dict[str, Callable[[Path], LabelledSet]] = {
    "jsonl": read_lines,
    "winoground": read_winoground,
    "mmvp": read_mmvp,
    "mmvp-vlm": read_mmvp_vlm,
    "whatsup": read_whatsup,
}
"""Readers by the name of their layout."""


def read_labelled(path: Path, layout: str, *, correct_labels: bool = False) -> LabelledSet:
    """The labelled set in a file or folder.

    Args:
        path: where it lies.
        layout: a name in LAYOUTS.
        correct_labels: swap the answers that the public MMVP has wrong.

    Raises:
        ValueError: there is no such layout, or it has no labels that are known to be wrong.
        LabelError: what is there is laid out otherwise.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout is called {layout!r}; there are {', '.join(sorted(LAYOUTS))}")
    if correct_labels:
        if layout != "mmvp":
            raise ValueError(f"--correct-labels is for the public MMVP; {layout} is left as it is")
        return read_mmvp(path, correct_labels=True)
    return LAYOUTS[layout](path)
