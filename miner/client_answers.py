"""What the service answers, checked: nothing that came over a wire is believed unseen."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

UNIT = 1e-3
"""How far the length of a vector may be from 1."""


class Problem(BaseModel):
    """Why an image has no embedding."""

    model_config = ConfigDict(frozen=True)

    message: str
    code: str | int | None = None
    type: str | None = None


class Item(BaseModel):
    """An embedding of one image by one encoder, or the image's problem."""

    object: Literal["embedding", "error"]
    index: int = Field(ge=0)
    model: str | None = None
    embedding: str | list[float] | None = None
    error: Problem | None = None


class EmbeddingList(BaseModel):
    """The body of an answer to /v1/embeddings."""

    data: list[Item]
    encoders: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of some images.

    Attributes:
        indexes: places, among the images that were given, of those that have vectors; ascending.
        vectors: by encoder_id [N, D] float32, rows of unit length, one for each of `indexes`.
        errors: by place, why an image has none.
        encoders: by encoder_id, the record that decides the vectors.
    """

    indexes: list[int]
    vectors: dict[str, np.ndarray]
    errors: dict[int, Problem]
    encoders: dict[str, dict[str, Any]]

    def vectors_of(self, encoder: str) -> np.ndarray:
        """Vectors [N, D] of one encoder, by `clip` or `dino`, its name or its id.

        Raises:
            ValueError: no encoder, or more than one, goes by that name here.
        """
        found = [
            encoder_id
            for encoder_id in self.vectors
            if encoder
            in (encoder_id, *(self.encoders.get(encoder_id, {}).get(k) for k in ("role", "name")))
        ]
        if len(found) != 1:
            raise ValueError(
                f"{len(found)} encoders go by the name {encoder!r}; there are vectors of "
                f"{sorted(self.vectors)}"
            )
        return self.vectors[found[0]]


class Partner(BaseModel):
    """An image of the corpus that CLIP calls the same as the one asked for, and DINO different.

    Further columns that the service sends are attributes, too.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    image_id: str
    clip_cos: float
    dino_cos: float
    gap: float
    borderline: bool


class Partners(BaseModel):
    """All blind partners of an image, or the first of them where a limit was given.

    Attributes:
        data: by clip_cos, descending.
        num_partners: how many there are in all.
        image_id: of the image of the corpus that was asked for, or whose bytes were; None where
            there is none.
        exact: whether these are the partners that the exact join gives.
    """

    model_config = ConfigDict(frozen=True)

    data: list[Partner]
    clip_above: float
    dino_below: float
    num_partners: int = Field(ge=0)
    exact: bool
    image_id: str | None = None


class Pair(BaseModel):
    """A blind pair as the run's table has it; all its columns are attributes."""

    model_config = ConfigDict(frozen=True, extra="allow")

    pair_id: str
    image_1: str
    image_2: str
    clip_cos: float
    dino_cos: float


class PairPage(BaseModel):
    """The body of an answer to /v1/pairs."""

    data: list[Pair]
    next_cursor: str | None = None


def arranged(answer: EmbeddingList, num_images: int) -> Embeddings:
    """The embeddings of an answer as arrays.

    Args:
        answer: of the service.
        num_images: how many were sent.

    Raises:
        ValueError: an image has no outcome, two, or one that is no unit vector.
    """
    rows: dict[str, dict[int, np.ndarray]] = {}
    errors: dict[int, Problem] = {}
    for item in answer.data:
        if item.index >= num_images:
            raise ValueError(f"an item has the index {item.index}, and {num_images} images went")
        if item.object == "error" and item.error is not None:
            errors[item.index] = item.error
        elif item.object == "embedding" and item.model and item.embedding is not None:
            of_encoder = rows.setdefault(item.model, {})
            if item.index in of_encoder:
                raise ValueError(f"image {item.index} has two vectors of {item.model}")
            of_encoder[item.index] = _vector(item.embedding)
        else:
            raise ValueError(f"the item of image {item.index} has no embedding and no error")
    indexes = sorted(set(range(num_images)) - errors.keys())
    for model, of_encoder in rows.items():
        if sorted(of_encoder) != indexes:
            raise ValueError(f"{model} has vectors of images {sorted(of_encoder)}, not {indexes}")
        if len({len(vector) for vector in of_encoder.values()}) > 1:
            raise ValueError(f"the vectors of {model} have several lengths")
    if indexes and not rows:
        raise ValueError(f"images {indexes} have neither a vector nor an error")
    vectors = {
        model: np.stack([of_encoder[index] for index in indexes])
        for model, of_encoder in rows.items()
    }
    return Embeddings(indexes, vectors, errors, answer.encoders)


def joined(parts: list[Embeddings], starts: list[int]) -> Embeddings:
    """Several requests' embeddings as one.

    Args:
        parts: one for each request.
        starts: the place of its first image.

    Raises:
        ValueError: two requests were answered by different encoders.
    """
    with_rows = [part for part in parts if part.indexes]
    names = {frozenset(part.vectors) for part in with_rows}
    if len(names) > 1:
        raise ValueError(
            f"requests were answered by different encoders: {sorted(map(sorted, names))}"
        )
    indexes: list[int] = []
    errors: dict[int, Problem] = {}
    encoders: dict[str, dict[str, Any]] = {}
    for part, start in zip(parts, starts, strict=True):
        indexes += [start + index for index in part.indexes]
        errors |= {start + index: problem for index, problem in part.errors.items()}
        encoders |= part.encoders
    models = sorted(next(iter(names), ()))
    vectors = {
        model: np.concatenate([part.vectors[model] for part in with_rows]) for model in models
    }
    return Embeddings(indexes, vectors, errors, encoders)


def _vector(embedding: str | list[float]) -> np.ndarray:
    """[D] float32 of unit length.

    Raises:
        ValueError: it is not.
    """
    if isinstance(embedding, str):
        try:
            data = base64.b64decode(embedding, validate=True)
        except binascii.Error as error:
            raise ValueError(f"an embedding is no base64 ({error})") from error
        if len(data) % 4:
            raise ValueError(f"an embedding has {len(data)} bytes, which are no float32 values")
        vector_D = np.frombuffer(data, "<f4").astype(np.float32)
    else:
        vector_D = np.array(embedding, np.float32)
    length = float(np.linalg.norm(vector_D.astype(np.float64)))
    if not abs(length - 1) <= UNIT:
        raise ValueError(f"an embedding has the length {length:g}; vectors have length 1")
    return vector_D
