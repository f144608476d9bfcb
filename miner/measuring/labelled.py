"""Labelled sets: pairs of images, and for each image a statement that is true of it alone.

A set is read from the reviews of a run (`reviewed.py`), or from a file or folder laid out as known
benchmarks are (`layouts.py`). What is measured on it does not know where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from miner.config import ImageLimits
from miner.errors import LabelError

ALL = "all"
"""Subset that is the whole set; no pattern may be called that."""

NO_PATTERN = "no pattern"
"""Subset of pairs of which nobody named the pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """Where an image's bytes are.

    Attributes:
        name: the same for the same image; for messages.
        read: gives the bytes.
    """

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model that answers in words is asked about one image.

    Attributes:
        id: by which answers name it.
        options: the answers, in the order of (a), (b), ...
        right: the place of the right one, from 0 on.
    """

    id: str
    options: tuple[str, ...]
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Two images that differ in what a pair of statements says.

    Attributes:
        name: of the pair, unique in its set.
        subset: the pattern, or what else the set's parts are called.
        images: the two.
        statements: the first is true of image 1 alone, the second of image 2 alone; further ones
            are false of both.
        questions: one for each image.
        group: items with the same one form a set of 4; empty where there are none.
    """

    name: str
    subset: str
    images: tuple[ImageSource, ImageSource]
    statements: tuple[str, ...]
    questions: tuple[Question, Question]
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """Items, in their order.

    Attributes:
        layout: how the set is laid out.
        place: where it lies, for messages.
        items: at least one.
        prompt: what becomes of a statement before an encoder reads it; `{}` is the statement.
        limits: what its images may be.
        notes: what was left out or changed, and what else one has to know of the figures.
    """

    layout: str
    place: str
    items: tuple[Item, ...]
    prompt: str = "{}"
    limits: ImageLimits = field(default_factory=ImageLimits)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.items:
            said = "; ".join(self.notes) or "give a set that does"
            raise LabelError(f"{self.place} holds no labelled pair; {said}")
        if named := [item.name for item in self.items if item.subset == ALL]:
            raise LabelError(
                f"{self.place}: pair {named[0]} is of pattern {ALL}, which is what the whole set "
                "is called; name the pattern otherwise"
            )
        names = [item.name for item in self.items]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise LabelError(f"{self.place}: two pairs are called {twice}; name each once")

    @property
    def num_statements(self) -> int:
        """Most statements that an image of the set is held against."""
        return max(len(item.statements) for item in self.items)


def by_statements(name: str, statements: Sequence[str]) -> tuple[Question, Question]:
    """The questions of a pair that only has statements: which of them is true of the image?"""
    options = tuple(statements)
    return (
        Question(id=f"{name}-1", options=options, right=0),
        Question(id=f"{name}-2", options=options, right=1),
    )


def file_image(folder: Path, name: str, place: str, limits: ImageLimits) -> ImageSource:
    """An image below a folder.

    Args:
        folder: that no name leads out of.
        name: relative path.
        place: who names it, for messages.
        limits: of the size in bytes.

    Raises:
        LabelError: the path leads out of the folder, or there is no such file.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise LabelError(f"{place}: {name!r} is no path ({error})") from error
    if not path.is_relative_to(root):
        raise LabelError(f"{place}: the image {name!r} leads out of {folder}; name one inside")
    if not is_file:
        raise LabelError(f"{place}: there is no image {name!r} in {folder}; put it there")
    if path.stat().st_size > limits.max_member_bytes:
        raise LabelError(
            f"{place}: the image {name!r} has {path.stat().st_size} bytes, limit "
            f"{limits.max_member_bytes}; take a smaller one"
        )
    return ImageSource(name=path.relative_to(root).as_posix(), read=path.read_bytes)


def numbered_image(
    folder: Path, below: str, number: int, place: str, limits: ImageLimits
) -> ImageSource:
    """The image `<below>/<number>.jpg`, or with another extension where there is no such file.

    Raises:
        LabelError: as `file_image`, or several images have the number.
    """
    name = f"{below}/{number}.jpg"
    root = folder.resolve()
    inside = (root / below).resolve()
    if inside.is_relative_to(root) and not (inside / f"{number}.jpg").exists():
        others = sorted(path.name for path in inside.glob(f"{number}.*"))
        if len(others) > 1:
            raise LabelError(f"{place}: {below} holds {' and '.join(others)}; keep one of them")
        name = f"{below}/{others[0]}" if others else name
    return file_image(folder, name, place, limits)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        LabelError: there is none.
    """
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path} cannot be read ({error}); give a file in UTF-8") from error
