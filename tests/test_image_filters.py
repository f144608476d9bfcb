import json
from pathlib import Path
from typing import Any

import pytest

from tests.blind_runs import blind_run, selected_with, told


@pytest.mark.parametrize(
    ("wishes", "counts", "sentence"),
    [
        (
            {"min_side": 101},
            {"kept": 1, "too_small": 2},
            "not selected: an image's shorter side has 100 pixels, fewer than 101",
        ),
        ({"min_side": 100}, {"kept": 3}, "selected"),
        (
            {"max_elongation": 2.99},
            {"kept": 1, "too_elongated": 2},
            "not selected: an image's longer side is 3.00 times its shorter, more than 2.99",
        ),
        ({"max_elongation": 3}, {"kept": 3}, "selected"),
    ],
)
def test_sizes(
    tmp_path: Path, wishes: dict[str, Any], counts: dict[str, int], sentence: str
) -> None:
    sizes = [(300, 200), (100, 300), (200, 200)]
    store = blind_run(tmp_path, [{"width": width, "height": height} for width, height in sizes])
    assert selected_with(store, **wishes) == counts
    assert told(store, 0, 1) == sentence
    assert told(store, 0, 2) == "selected"


def test_an_unknown_size_is_no_small_one(tmp_path: Path) -> None:
    store = blind_run(tmp_path, [{}, {"width": 0, "height": 0}])
    assert selected_with(store, max_elongation=50) == {"no_size": 1}
    assert told(store, 0, 1) == "not selected: the size of an image is unknown"


def rated(*ratings: dict[str, object]) -> list[dict[str, object]]:
    return [{"meta": json.dumps(rating)} for rating in ratings]


@pytest.mark.parametrize(
    ("wishes", "counts", "sentence"),
    [
        (
            {"max_punsafe": 0.5},
            {"punsafe": 2, "unrated": 1},
            "not selected: an image has punsafe: 0.9, limit 0.5",
        ),
        (
            {"max_punsafe": 0.5, "unrated": "keep"},
            {"kept": 1, "punsafe": 2},
            "not selected: an image has punsafe: 0.9, limit 0.5",
        ),
        (
            {"nsfw": "UNLIKELY"},
            {"nsfw": 2, "unrated": 1},
            "not selected: an image has nsfw: LIKELY, allowed UNLIKELY",
        ),
        (
            {"max_pwatermark": 0.5},
            {"unrated": 3},
            "not selected: an image is unrated: no pwatermark",
        ),
    ],
)
def test_ratings(
    tmp_path: Path, wishes: dict[str, Any], counts: dict[str, int], sentence: str
) -> None:
    store = blind_run(
        tmp_path,
        rated({"punsafe": 0.1, "NSFW": "UNLIKELY"}, {"PUNSAFE": 0.9, "NSFW": "LIKELY"}, {}),
    )
    assert selected_with(store, **wishes) == counts
    assert told(store, 0, 1) == sentence
