"""What a run keeps of its reviewers' decisions."""

import json
from pathlib import Path

import pytest

from miner.errors import StoreError
from miner.review import encode_decisions
from miner.reviewing.kept import MAX_FILE_BYTES, decisions_of, keep_decisions
from miner.store import Store
from tests.reviews import THREE, said


def test_a_run_keeps_the_latest_of_each_reviewer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert decisions_of(store) == []
    late = said(minutes=5, decision="accept")
    other = said(sha256_2=THREE, decision="reject")
    keep_decisions(store, [late, said("bob", decision="reject")])
    keep_decisions(store, [said(decision="reject"), other])
    assert {(each.reviewer, each.pair_id): each.decision for each in decisions_of(store)} == {
        ("ann", late.pair_id): "accept",
        ("ann", other.pair_id): "reject",
        ("bob", late.pair_id): "reject",
    }
    (tmp_path / "review" / "ann.jsonl").write_bytes(b"{}\n")
    with pytest.raises(StoreError, match=r"ann\.jsonl: line 1 is no decision \(pair_id: Field"):
        decisions_of(store)


def test_the_latest_of_a_reviewer_stands_whatever_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    late, early = said(minutes=5, decision="reject"), said(decision="accept")
    store.files.write("review/a-copy.jsonl", encode_decisions([late]))
    store.files.write("review/ann.jsonl", encode_decisions([early]))
    assert decisions_of(store) == [late]
    # At the same time the content decides, and no order of files or lines.
    other = said(minutes=5, decision="accept")
    store.files.write("review/ann.jsonl", encode_decisions([other]))
    (stands,) = decisions_of(store)
    store.files.write("review/a-copy.jsonl", encode_decisions([other]))
    store.files.write("review/ann.jsonl", encode_decisions([late]))
    assert decisions_of(store) == [stands]
    store.files.delete("review/a-copy.jsonl")
    keep_decisions(store, [other])
    assert decisions_of(store) == [stands]


def test_lines_that_nobody_changes_stay_as_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    # Of a later version; what only this one can read would be lost.
    fields = {**json.loads(said(sha256_1=THREE).line()), "new": 1}
    line = json.dumps(fields).encode() + b"\n"
    store.files.write("review/ann.jsonl", line)
    keep_decisions(store, [said(decision="accept")])
    data = store.files.read("review/ann.jsonl")
    assert line in data
    assert data.count(b"\n") == 2
    with pytest.raises(StoreError, match="is no decision \\(new: Extra inputs"):
        keep_decisions(store, [said(sha256_1=THREE)])
    assert store.files.read("review/ann.jsonl") == data
    store.files.write("review/ann.jsonl", b'{"pair_id":"x"}\n')
    with pytest.raises(StoreError, match="line 1 is no decision \\('reviewer'\\); mend"):
        keep_decisions(store, [said()])


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.files.write("review/ann.jsonl", b"")
    with (tmp_path / "review" / "ann.jsonl").open("r+b") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(StoreError, match=f"{MAX_FILE_BYTES + 1} bytes, limit {MAX_FILE_BYTES}"):
        decisions_of(store)
