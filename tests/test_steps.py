from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miner.config import SelectSettings
from miner.select import judge
from miner.selecting.raw_pairs import RawPairs
from miner.selecting.steps import (
    STEP_OF,
    STEPS,
    VERDICTS,
    asked_for,
    columns_of,
    settings_of,
    step_counts,
)
from miner.selecting.verdicts import KEPT
from miner.store import Store
from tests.blind_runs import blind_run, name_of

WISHES = {
    "labels": st.sampled_from(["any", "same", "different"]),
    "sources": st.sampled_from(["any", "within", "across"]),
    "rank_by": st.sampled_from(["clip", "gap", "mix"]),
    "min_side": st.sampled_from([None, 150]),
    "max_elongation": st.sampled_from([None, 2.0]),
    "min_caption_similarity": st.sampled_from([None, 0.4]),
    "max_phash_bits": st.sampled_from([None, 3]),
    "max_punsafe": st.sampled_from([None, 0.5]),
    "max_per_image": st.sampled_from([None, 1, 2]),
    "max_pairs": st.integers(1, 30),
    "diverse": st.booleans(),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    generator = np.random.default_rng(0)
    fields = [
        {
            "label": str(generator.integers(2)) if generator.random() < 0.9 else None,
            "dataset": "ab"[generator.integers(2)],
            "width": int(generator.integers(100, 400)),
            "height": 200,
            "caption": " ".join(generator.choice(["a", "dog", "cat", "red"], 3)),
            "phash": int(generator.integers(8, 32)),
            "meta": f'{{"punsafe": {generator.random():.3f}}}',
        }
        for _ in range(16)
    ]
    return blind_run(tmp_path_factory.mktemp("steps"), fields)


def cut(raw: pa.Table, borders: list[int]) -> pa.Table:
    """The same rows in other parts."""
    edges = [0, *sorted(border % (len(raw) + 1) for border in borders), len(raw)]
    return pa.concat_tables(raw.slice(a, b - a) for a, b in pairwise(edges))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries(WISHES), st.lists(st.integers(0, 200), max_size=4))
def test_counts_add_up_however_raw_is_cut(
    store: Store, wishes: dict[str, object], borders: list[int]
) -> None:
    which = SelectSettings(**wishes)  # type: ignore[arg-type]
    raw, record = store.raw(name_of(store)), store.join_record(name_of(store))
    assert record is not None

    def judged(table: pa.Table) -> tuple[list[str], list[int]]:
        found = judge(RawPairs(store, table, record, columns=columns_of(which)), which)
        return found.words.tolist(), found.kept.tolist()

    words, kept = judged(raw)
    assert judged(cut(raw, borders)) == (words, kept)
    assert sorted(kept) == [row for row, word in enumerate(words) if word == KEPT]
    counts = Counter(words)
    assert counts.total() == len(raw)
    left = len(raw)
    for each in step_counts(counts, which):
        assert each.left == left - sum(each.dropped.values())
        assert {STEP_OF[word].name for word in each.dropped} <= {each.step}
        left = each.left
    assert left == counts[KEPT] == len(kept)


def test_every_word_stands_once() -> None:
    words = [word for step in STEPS for word in step.verdicts]
    assert len(words) == len({*words}) == len(VERDICTS)
    assert KEPT not in words
    assert len({step.name for step in STEPS}) == len(STEPS)
    assert len({verdict.counted for verdict in VERDICTS.values()}) == len(words)


def test_plain_selection_reads_no_samples() -> None:
    assert columns_of(SelectSettings()) == set()
    assert columns_of(SelectSettings(labels="same", min_side=5)) == {"label", "width", "height"}


def test_settings_of_an_older_selection() -> None:
    older = {"near_clip": 0.99, "near_dino": 0.95, "max_per_image": 3}
    assert settings_of({"settings": older}) == SelectSettings(max_per_image=3)


def test_what_was_asked_for_is_told_without_folders_and_on_one_line() -> None:
    settings = SelectSettings(
        about='a "dog"\n\u202e', not_in="/home/me/list.csv", max_pairs=3, diverse=True
    )
    assert asked_for(settings) == (
        '--not-in "list.csv" --about "a \\"dog\\"\\n\\u202e" --max-pairs 3 --diverse'
    )
    assert asked_for(SelectSettings()) == ""
