import math
from pathlib import Path
from typing import Any

import pytest

from miner.selecting.likeness import caption_similarity, words_of
from tests.blind_runs import blind_run, selected_with, told


def test_similarity_is_of_sets_of_words() -> None:
    one, other = words_of("A red dog, a RED ball"), words_of("the dog: red")
    assert one == {"a", "red", "dog", "ball"}
    assert caption_similarity(one, other) == caption_similarity(other, one) == 2 / 5
    assert caption_similarity(one, one) == 1
    assert words_of("\uff26\uff35\uff2c\uff2c straße") == words_of("full STRASSE")
    assert math.isnan(caption_similarity(words_of(" ... "), one))
    assert len(words_of("\u7ea2\u8272 cat")) == 3
    assert words_of(None) == frozenset()


@pytest.mark.parametrize(
    ("wishes", "counts", "sentence"),
    [
        (
            {"min_caption_similarity": 0.34},
            {"captions_unlike": 1, "no_caption": 2},
            "not selected: the captions share 0.333 of their words, less than 0.34",
        ),
        ({"min_caption_similarity": 0.33}, {"kept": 1, "no_caption": 2}, "selected"),
        (
            {"max_caption_similarity": 0.3},
            {"captions_alike": 1, "no_caption": 2},
            "not selected: the captions share 0.333 of their words, more than 0.3",
        ),
    ],
)
def test_captions(
    tmp_path: Path, wishes: dict[str, Any], counts: dict[str, int], sentence: str
) -> None:
    captions = ["a dog", "a cat", None]
    store = blind_run(tmp_path, [{"caption": caption} for caption in captions])
    assert selected_with(store, **wishes) == counts
    assert told(store, 0, 1) == sentence
    assert told(store, 1, 2) == "not selected: an image has no caption with words"


@pytest.mark.parametrize(
    ("wishes", "counts", "sentence"),
    [
        (
            {"min_phash_bits": 4},
            {"looks_alike": 1, "no_phash": 2},
            "not selected: the images' phash differ in 3 bits, fewer than 4",
        ),
        ({"min_phash_bits": 3, "max_phash_bits": 3}, {"kept": 1, "no_phash": 2}, "selected"),
        (
            {"max_phash_bits": 2},
            {"looks_unlike": 1, "no_phash": 2},
            "not selected: the images' phash differ in 3 bits, more than 2",
        ),
    ],
)
def test_looks(
    tmp_path: Path, wishes: dict[str, Any], counts: dict[str, int], sentence: str
) -> None:
    store = blind_run(tmp_path, [{"phash": phash} for phash in (2**63 + 1, 2**63 + 15, 0)])
    assert selected_with(store, **wishes) == counts
    assert told(store, 0, 1) == sentence
    assert told(store, 0, 2) == "not selected: the phash of an image is unknown"
