from pathlib import Path
from typing import Any

import pytest

from miner.selecting.pair_filters import host_of
from tests.blind_runs import all_told, blind_run, selected, selected_with


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.Example.org:8080/a.jpg", "example.org"),
        ("http://user@images.example.org/?u=http://other.org", "images.example.org"),
        ("example.org/a.jpg", None),
        ("http://[broken", None),
        ("", None),
        (None, None),
    ],
)
def test_host_of_a_url(url: str | None, host: str | None) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("wishes", "counts", "sentences"),
    [
        (
            {"sources": "within"},
            {"kept": 1, "other_source": 2},
            {(0, 2): "not selected: the images are of two sources, dataset a and b"},
        ),
        (
            {"sources": "across"},
            {"kept": 2, "same_source": 1},
            {(0, 1): "not selected: both images are of the dataset a", (0, 2): "selected"},
        ),
        (
            {"sources": "within", "source_is": "host"},
            {"kept": 1, "no_source": 2},
            {(1, 2): "not selected: an image has no host in its url", (0, 1): "selected"},
        ),
        (
            {"sources": "across", "source_is": "host"},
            {"no_source": 2, "same_source": 1},
            {(0, 1): "not selected: both images are of the host x.org"},
        ),
    ],
)
def test_sources(
    tmp_path: Path,
    wishes: dict[str, Any],
    counts: dict[str, int],
    sentences: dict[tuple[int, int], str],
) -> None:
    store = blind_run(
        tmp_path,
        [
            {"dataset": "a", "url": "https://x.org/1"},
            {"dataset": "a", "url": "https://www.x.org/2"},
            {"dataset": "b", "url": None},
        ],
    )
    assert selected_with(store, **wishes) == counts
    assert sentences.items() <= all_told(store, 3).items()


def test_upper_bound_is_strict(tmp_path: Path) -> None:
    store = blind_run(tmp_path, [{}, {}, {}])
    selected_with(store)
    cosines = sorted(row["clip_cos"] for row in selected(store))
    assert selected_with(store, clip_below=cosines[1]) == {"clip_not_below": 2, "kept": 1}
    told = all_told(store, 3)
    assert f"its CLIP cosine {cosines[2]:.6f} is not below {cosines[1]:g}" in " ".join(
        told.values()
    )
    assert sorted(told.values())[-1] == "selected"
