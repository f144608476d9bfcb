from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from miner.law import Refusal
from miner.samples import Sample, ShardReader
from miner.schema import Reason
from tests.cases import CASES, Case
from tests.reading import KEYS, LIMITS, read, rows_of
from tests.tars import (
    BLOCK,
    END,
    flip,
    good_tar,
    header_of,
    jpeg,
    member,
    noise,
    overwrite,
    sample,
    shard_of,
)

NAMES = ("a.jpg", "b.jpg", "a.txt", "b.txt", "a.png", "c.txt")
SIX = tuple(f"{number:03d}" for number in range(6))
SIX_TAR = good_tar(SIX)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_law_of_the_shard(case: Case, tmp_path: Path) -> None:
    shard = shard_of(case.tar, tmp_path)
    kept, refusals, report = read(shard)
    assert tuple(kept) == case.kept
    assert rows_of(refusals) == sorted(case.rows)
    assert report.sha256 == hashlib.sha256(case.tar).hexdigest()
    assert case.note in " ".join(report.notes)
    assert bool(report.notes) >= bool(case.note)
    is_damage = {Reason.DAMAGED_HEADER, Reason.TRUNCATED_SHARD, Reason.TRAILING_BYTES}
    assert report.damaged == any(reason in is_damage for _, reason in case.rows)


def test_the_law_has_enough_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 30


def law_holds(tar: bytes, folder: Path) -> tuple[dict[str, Sample], list[Refusal]]:
    """Every key is kept or named, or a row says that something unknown is lost."""
    kept, refusals, report = read(shard_of(tar, folder))
    named = {refusal.key for refusal in refusals}
    unknown = "" in named or any(r.reason is Reason.TRUNCATED_SHARD for r in refusals)
    assert unknown or set(SIX) <= kept.keys() | named
    if refusals:
        assert report.damaged
    return kept, refusals


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flips_and_cuts_anywhere(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    # One flip a block is always seen by a header's checksum; two can cancel out.
    blocks = st.sets(st.integers(0, len(SIX_TAR) // BLOCK - 1), max_size=4)
    tar = SIX_TAR
    for block in sorted(data.draw(blocks)):
        offset = data.draw(st.integers(0, BLOCK - 1))
        tar = flip(tar, block * BLOCK + offset, data.draw(st.integers(0, 7)))
    cut = data.draw(st.none() | st.integers(0, len(tar)))
    kept, refusals = law_holds(tar[:cut], tmp_path_factory.mktemp("flips"))
    if not any(refusal.key == "" for refusal in refusals):
        assert all(
            found.caption and (found.url or "_error" in found.meta) for found in kept.values()
        )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pages_overwritten_anywhere(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    start = data.draw(st.integers(0, len(SIX_TAR) - 1))
    length = data.draw(st.sampled_from([16, 512, 1024, 4096]))
    page = noise(length) if data.draw(st.booleans()) else bytes(length)
    # Zeros up to the end mark leave a shorter tar that is whole.
    assume(any(page) or start + length < header_of(SIX_TAR, "005.json") + BLOCK)
    tar = overwrite(SIX_TAR, start, page)[: len(SIX_TAR)]
    law_holds(tar, tmp_path_factory.mktemp("pages"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(NAMES), max_size=9))
def test_members_in_any_order(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    tar = b"".join(member(name, jpeg(seed)) for seed, name in enumerate(names)) + END
    kept, refusals, report = read(shard_of(tar, tmp_path_factory.mktemp("order")))
    named = {refusal.key for refusal in refusals}
    assert {name[0] for name in names} == kept.keys() | named
    assert "" not in named
    assert not report.damaged
    for key in kept.keys() & named:
        assert {r.reason for r in refusals if r.key == key} == {Reason.DUPLICATE_KEY}


def test_one_row_for_one_lost_sample_and_what_it_says(tmp_path: Path) -> None:
    tar = good_tar()
    start = header_of(tar, "001.json")
    _, (refusal,), _ = read(shard_of(flip(tar, start + 101), tmp_path))
    assert refusal == Refusal(
        key="001",
        member="001.json",
        reason=Reason.DAMAGED_HEADER,
        detail=f"bad checksum, bytes {start} to {start + 2 * BLOCK}",
        retracts=False,
    )


def test_late_damage_takes_a_sample_back(tmp_path: Path) -> None:
    tar = sample("a", 1) + sample("b", 2) + flip(member("a.extra.json", b"{}"), 101) + END
    items = list(ShardReader(shard_of(tar, tmp_path), LIMITS))
    assert [(item.key, getattr(item, "retracts", None)) for item in items] == [
        ("a", None),
        ("a", True),
        ("b", None),
    ]


def test_zeros_over_the_end_leave_a_note(tmp_path: Path) -> None:
    tar = good_tar()
    start = header_of(tar, "002.txt")
    kept, refusals, report = read(shard_of(tar[:start] + bytes(2**21), tmp_path))
    assert (tuple(kept), refusals) == (KEYS, [])
    assert report.notes == (
        "2097152 zero bytes at the end, as of an unfinished copy",
        "002.jpg: the shard's last sample, without the usual json, txt",
    )
