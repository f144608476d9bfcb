import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from miner.config import SelectSettings
from miner.selecting.ranking import rank_order

COSINES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=12)


def raw_of(cosines: list[tuple[int, int, bool]]) -> pa.Table:
    number = len(cosines)
    clip = np.array([clip for clip, _, _ in cosines], np.float32) / 8
    return pa.table(
        {
            # Equal ids in twos, so that image_1 decides, too.
            "pair_id": pa.array([f"{(7 * n // 2) % 5:016x}" for n in range(number)], pa.string()),
            "image_1": pa.array([f"a{n:03d}" for n in range(number)], pa.string()),
            "image_2": pa.array([f"b{n:03d}" for n in range(number)], pa.string()),
            "clip_cos": clip,
            "gap": clip - np.array([dino for _, dino, _ in cosines], np.float32) / 8,
            "blind": pa.array([blind for _, _, blind in cosines], pa.bool_()),
        }
    )


@settings(deadline=None)
@given(COSINES)
def test_order_is_that_of_the_definition(cosines: list[tuple[int, int, bool]]) -> None:
    raw = raw_of(cosines)
    rows = raw.to_pylist()

    def place(row: dict[str, float], name: str) -> int:
        return sum(other[name] > row[name] for other in rows if other["blind"])

    scores = {
        "clip": lambda row: -row["clip_cos"],
        "gap": lambda row: -row["gap"],
        "mix": lambda row: place(row, "clip_cos") + place(row, "gap"),
    }
    for rank_by, score in scores.items():
        expected = sorted(
            range(len(rows)),
            key=lambda n: (score(rows[n]), *(rows[n][k] for k in ("pair_id", "image_1"))),
        )
        which = SelectSettings(rank_by=rank_by)  # type: ignore[arg-type]
        assert rank_order(raw, which).tolist() == expected
        without = raw.drop_columns(["blind"])
        if all(row["blind"] for row in rows):
            assert rank_order(without, which).tolist() == expected


def test_mix_asks_for_both() -> None:
    # Best by one and worst by the other, against good by both.
    raw = raw_of([(6, 5, True), (5, 1, True), (4, 1, True), (0, 0, True)])
    assert rank_order(raw, SelectSettings(rank_by="mix")).tolist()[0] == 1
