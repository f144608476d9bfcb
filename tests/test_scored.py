"""Scores of options: accuracy, and which image leans where."""

from pathlib import Path

import pytest

from miner.errors import LabelError
from miner.measuring.answers import evaluate_answers
from miner.measuring.scored import best, scores_of
from tests.test_answers import asked, write_jsonl


@pytest.mark.parametrize("lower_is_better", [False, True])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_relaxed(tmp_path: Path, lower_is_better: bool, suffix: str) -> None:
    # Both images of each pair score option 1 above option 2; in pair 1 image 1 does so more.
    scores = [(0.9, 0.1), (0.6, 0.4), (0.6, 0.4), (0.9, 0.1)]
    path = tmp_path / f"model{suffix}"
    if suffix == ".csv":
        lines = [f"{n},{one},{other}" for n, (one, other) in enumerate(scores, start=1)]
        path.write_text("\n".join(["id,score_1,score_2", *lines]))
    else:
        write_jsonl(path, [{"id": n, "scores": each} for n, each in enumerate(scores, start=1)])
    found = evaluate_answers(asked(2), path, lower_is_better=lower_is_better)
    leans = [outcome["relaxed", 2] for outcome in found.outcomes]
    assert leans == ([[False], [True]] if lower_is_better else [[True], [False]])
    figure = found.figure("all", "individual")
    assert figure is not None
    assert figure.estimate.value == 0.5
    right = found.outcomes[0]["individual", 2]
    assert list(right) == ([False, True] if lower_is_better else [True, False])


def test_pairs_without_positive_scores_are_told(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": n, "scores": [n, 3 - n]} for n in (1, 2, 3)]
    found = evaluate_answers(asked(2), write_jsonl(tmp_path / "m.jsonl", rows))
    assert [len(outcome["relaxed", 2]) for outcome in found.outcomes] == [1, 0]
    assert any(note.startswith("relaxed is of 1 of 2 pairs") for note in found.notes)


def test_equal_scores_choose_nothing() -> None:
    assert best([1, 1], lower_is_better=False) is None
    assert (best([1, 2], lower_is_better=False), best([1, 2], lower_is_better=True)) == (1, 0)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"scores": [1, 2, 3]}, "line: the scores are .*; give 2 numbers, one for each"),
        ({"scores": "1"}, "give 2 numbers"),
        ({"score_1": "1"}, "give 2 numbers"),
        ({"scores": [1, "x"]}, "line: the score 'x' is no finite number"),
        ({"scores": [1, float("nan")]}, "no finite number"),
        ({"scores": [1, True]}, "no finite number"),
        ({"scores": [1, 10**400]}, "no finite number"),
    ],
)
def test_what_is_no_score(row: dict[str, object], told: str) -> None:
    with pytest.raises(LabelError, match=told):
        scores_of(row, 2, "line")
    assert scores_of({"text": "a"}, 2, "line") is None
