"""The published figures are those of the paper, and fit our own measures."""

from miner.measuring import measures
from miner.measuring.published import PUBLISHED


def figures(benchmark: str, measure: str) -> list[float]:
    return [each.value for each in PUBLISHED[benchmark] if each.measure == measure]


def test_mmvp() -> None:
    assert figures("mmvp", "pair") == [0.14, 0.253]
    assert figures("mmvp", "relaxed") == [0.64, 0.733]
    # Of 150 pairs: every figure is a whole number of them.
    for value in (*figures("mmvp", "pair"), *figures("mmvp", "relaxed")):
        assert abs(150 * value - round(150 * value)) < 0.06


def test_whatsup() -> None:
    assert figures("whatsup", "cosine") == [0.995, 0.971, 0.955, 0.902]
    assert figures("whatsup", "individual") == [0.49, 0.617, 0.549, 0.515]
    assert figures("whatsup", "pair") == [0.019, 0.233, 0.108, 0.078]
    subsets = [each.subset for each in PUBLISHED["whatsup"] if each.measure == "pair"]
    assert subsets == ["A left/right", "A on/under", "B left/right", "B front/behind"]
    # 412 images of part A are 206 images or 103 pairs of each kind; 408 of part B are 204 and 102.
    for value, num in zip(figures("whatsup", "pair"), (103, 103, 102, 102), strict=True):
        assert abs(num * value - round(num * value)) < 0.06
    for value, num in zip(figures("whatsup", "individual"), (206, 206, 204, 204), strict=True):
        assert abs(num * value - round(num * value)) < 0.12
    assert all(value < measures.chance(2, 2) for value in figures("whatsup", "pair"))
