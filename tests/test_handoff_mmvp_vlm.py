import csv
from pathlib import Path

import pytest

from miner.records import Json
from miner.review import PATTERNS
from miner.store import Store
from tests.handoff_runs import deliver, many_shots, originals_of, review, run_of, selected_of

TYPES = (
    *("Orientation", "Presence", "State", "Quantity", "Spatial", "Color"),
    *("Structural Character", "Text", "Camera Perspective"),
)


def run_with_patterns(root: Path, *, short: int | None = None) -> Store:
    """A run with 16 accepted pairs of each pattern, or 14 of one that falls short."""
    store = run_of(root, many_shots(18))
    rows = selected_of(store)
    for number in PATTERNS:
        # Spread over the ranks, so that blocks are not made by rank alone.
        mine = rows[number - 1 :: 9][: 14 if number == short else 16]
        said: Json = {"pattern": number, "option_1": "one {n}", "option_2": "two {n}"}
        review(store, mine[:8], **said)
        said |= {"statement_1": "it is one {n}", "statement_2": "it is two {n}"}
        review(store, mine[8:], **said)
    return store


def scored_blocks(folder: Path) -> list[tuple[str, str, str, str, str]]:
    """What a scorer that goes by position sees: type and, of both rows, statement and image."""
    with (folder / "Questions.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["Question ID", "Type", "Statement"]
    found = []
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first[1] == second[1]
        assert int(second[0]) == int(first[0]) + 1
        images = [
            (folder / "MLLM_VLM Images" / kind / f"{number}.jpg").read_bytes().hex()
            for number, kind, _ in (first, second)
        ]
        found.append((first[1], first[2], second[2], *images))
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return run_with_patterns(tmp_path_factory.mktemp("vlm"))


def test_nine_blocks_of_fifteen_pairs_in_order_of_mmvp_vlm(store: Store, tmp_path: Path) -> None:
    done = deliver(store, "mmvp-vlm", tmp_path / "out")
    assert done.written.num_pairs == 135
    blocks = scored_blocks(tmp_path / "out")
    assert [block[0] for block in blocks] == [kind for kind in TYPES for _ in range(15)]
    originals, rows = originals_of(store), selected_of(store)
    for number in range(9):
        expected = rows[number::9][:15]
        for place, (block, row) in enumerate(
            zip(blocks[15 * number : 15 * number + 15], expected, strict=True)
        ):
            assert bytes.fromhex(block[3]) == originals[row["sha256_1"]]
            assert bytes.fromhex(block[4]) == originals[row["sha256_2"]]
            words = "" if place < 8 else "it is "
            assert block[1:3] == (f"{words}one {row['rank']}", f"{words}two {row['rank']}")
    images = list((tmp_path / "out" / "MLLM_VLM Images").rglob("*.jpg"))
    assert len(images) == 270


def test_a_pattern_that_falls_short_is_told_in_a_table(tmp_path: Path) -> None:
    store = run_with_patterns(tmp_path, short=7)
    rows = selected_of(store)
    review(store, rows[-2:-1], pattern=7)
    review(store, rows[-1:])
    with pytest.raises(ValueError, match="mmvp-vlm takes 15 pairs of each pattern; 1 of") as caught:
        deliver(store, "mmvp-vlm", tmp_path / "out")
    lines = [line.split() for line in str(caught.value).splitlines()]
    assert ["Structural", "Character", "14", "1", "1"] in lines
    assert ["Text", "16", "0", "0"] in lines
    assert not (tmp_path / "out").exists()


def test_statements_that_are_the_same_do_not_count(tmp_path: Path) -> None:
    store = run_of(tmp_path, many_shots(2))
    review(store, selected_of(store), pattern=1, statement_1="Same", statement_2="same ")
    with pytest.raises(ValueError, match=r"Orientation +0 +15 +1"):
        deliver(store, "mmvp-vlm", tmp_path / "out")
