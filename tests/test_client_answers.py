"""Answers of a service, true and not."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from miner.client_answers import EmbeddingList, Embeddings, arranged, joined

A = [1.0, 0.0]
B = [0.6, 0.8]


def vector(index: int, embedding: Any, model: str | None = "clip-1") -> dict[str, Any]:
    return {"object": "embedding", "index": index, "model": model, "embedding": embedding}


def refusal(index: int) -> dict[str, Any]:
    return {"object": "error", "index": index, "error": {"message": "no image", "code": "x"}}


def arrange(items: list[dict[str, Any]], num_images: int) -> Embeddings:
    body = {"object": "list", "data": items, "encoders": {"clip-1": {"dim": 2}}}
    return arranged(EmbeddingList.model_validate(body), num_images)


def packed(values: list[float]) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def test_vectors_are_put_in_the_order_of_the_images() -> None:
    items = [vector(2, B), refusal(1), vector(0, packed(A)), vector(0, B, "d"), vector(2, A, "d")]
    found = arrange(items, 3)
    assert found.indexes == [0, 2]
    assert list(found.errors) == [1]
    assert found.errors[1].message == "no image"
    assert found.encoders == {"clip-1": {"dim": 2}}
    np.testing.assert_array_equal(found.vectors["clip-1"], np.array([A, B], np.float32))
    np.testing.assert_array_equal(found.vectors["d"], np.array([B, A], np.float32))
    assert found.vectors["d"].dtype == np.float32
    assert found.vectors["d"].flags.writeable


def test_images_may_all_be_refused() -> None:
    found = arrange([refusal(0), refusal(1)], 2)
    assert (found.indexes, found.vectors, sorted(found.errors)) == ([], {}, [0, 1])


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([vector(0, A), vector(1, A)], "index 1, and 1 images went"),
        ([vector(0, A), vector(0, A)], "image 0 has two vectors of clip-1"),
        ([vector(0, A, None)], "image 0 has no embedding and no error"),
        ([vector(0, None)], "image 0 has no embedding and no error"),
        ([{"object": "error", "index": 0}], "image 0 has no embedding and no error"),
        ([vector(0, A), refusal(0)], r"clip-1 has vectors of images \[0\], not \[\]"),
        ([], r"images \[0\] have neither a vector nor an error"),
        ([vector(0, [2.0, 0.0])], "the length 2; vectors have length 1"),
        ([vector(0, [float("nan"), 0.0])], "the length nan"),
        ([vector(0, [])], "the length 0"),
        ([vector(0, "?")], "is no base64"),
        ([vector(0, base64.b64encode(b"12345").decode())], "5 bytes, which are no float32"),
    ],
)
def test_nonsense_is_refused(items: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        arrange(items, 1)


def test_a_missing_image_and_uneven_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clip-1 has vectors of images \[1\], not \[0, 1\]"):
        arrange([vector(1, A)], 2)
    with pytest.raises(ValueError, match="of clip-1 have several lengths"):
        arrange([vector(0, A), vector(1, [1.0])], 2)


def test_requests_are_joined_in_their_order() -> None:
    parts = [
        arrange([vector(0, A), refusal(1)], 2),
        arrange([refusal(0)], 1),
        arrange([vector(0, B), vector(1, A)], 2),
    ]
    whole = joined(parts, [0, 2, 3])
    assert whole.indexes == [0, 3, 4]
    assert sorted(whole.errors) == [1, 2]
    np.testing.assert_array_equal(whole.vectors["clip-1"], np.array([A, B, A], np.float32))
    assert joined([], []) == Embeddings([], {}, {}, {})


def test_requests_by_different_encoders_are_not_joined() -> None:
    parts = [arrange([vector(0, A)], 1), arrange([vector(0, A, "other")], 1)]
    with pytest.raises(ValueError, match="answered by different encoders"):
        joined(parts, [0, 1])


def test_vectors_of_one_encoder_go_by_its_role_name_or_id() -> None:
    rows = {"clip-1": np.eye(2, dtype=np.float32), "dino-1": np.ones((2, 1), np.float32)}
    records = {
        "clip-1": {"role": "clip", "name": "same"},
        "dino-1": {"role": "dino", "name": "same"},
    }
    found = Embeddings([0, 1], rows, {}, records)
    assert found.vectors_of("clip") is found.vectors_of("clip-1") is rows["clip-1"]
    for name, number in (("nothing", 0), ("same", 2)):
        with pytest.raises(ValueError, match=f"{number} encoders go by the name '{name}'"):
            found.vectors_of(name)
