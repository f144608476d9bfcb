"""`blindpairs review merge` and `blindpairs report --serve`, as people give them."""

from __future__ import annotations

import io
import json
import os
import queue
import re
import signal
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from miner.reviewing.server import ReviewServer
from miner.store import Store
from pipelines import show_review
from tests.commands import Commands
from tests.report_runs import Shot, encoded, make_run
from tests.reviews import said_of, said_of_number, selected_rows, write_review


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    return make_run(tmp_path_factory.mktemp("commands"), [Shot(data=encoded(n)) for n in range(8)])


@pytest.fixture
def run(made: tuple[Store, Path]) -> tuple[Store, Path]:
    made[0].files.delete_folder("review")
    return made


def test_merge_says_who_agrees_and_what_is_in_dispute(
    commands: Commands, run: tuple[Store, Path], tmp_path: Path
) -> None:
    store, folder = run
    rows = selected_rows(folder)
    assert len(rows) == 28
    files = [
        write_review(
            tmp_path / f"{who}.jsonl",
            *(
                said_of(row, who, decision=word(place), pattern=1 + place % 3)
                for place, row in enumerate(rows)
            ),
        )
        for who, word in (
            ("ann", lambda place: "accept" if place < 14 else "reject"),
            ("bob", lambda place: "accept" if place < 7 else "reject"),
            ("cyd", lambda place: "reject" if place < 26 else "accept"),
        )
    ]
    ran = commands("review", "merge", *files, store.root)
    assert ran.code == 0, ran.err
    lines = [re.split(r"\s{2,}", line) for line in ran.out.splitlines()]
    assert ["ann", "14", "14", "0", "28"] in lines
    assert ["bob", "7", "21", "0", "28"] in lines
    assert ["together", "7", "21", "0", "28"] in lines
    # 21 of 28 the same; by chance (14 * 7 + 14 * 21) / 28**2 = 0.5.
    assert ["ann, bob", "decision", "28", "75.0%", "0.500"] in lines
    # Both rejected the others, which then have no pattern.
    assert ["ann, bob", "pattern", "7", "100.0%", "1.000"] in lines
    assert any(line[:2] == ["mean of those defined", "decision"] for line in lines)
    assert (
        f"16 in dispute (16 on decision, 0 on pattern), listed in {store.root}/review/disputes.csv"
        in ran.out
    )
    assert len(re.findall(r"^  [0-9a-f]{16} decision: ann: ", ran.out, re.MULTILINE)) == 5
    assert "the majority decides on a pair" in ran.out
    listed = (store.root / "review" / "disputes.csv").read_text().splitlines()
    assert len(listed) == 1 + 16 * 3
    assert commands("review", "merge", *files, store.root).out == ran.out


def test_merge_lists_no_more_than_fits_a_screen(
    commands: Commands, run: tuple[Store, Path], tmp_path: Path
) -> None:
    store, folder = run
    rows = selected_rows(folder)
    ann = write_review(tmp_path / "a", *(said_of(row, "ann", decision="accept") for row in rows))
    bob = write_review(tmp_path / "b", *(said_of(row, "bob", decision="reject") for row in rows))
    unknown = [said_of_number(number, "bob", decision="accept") for number in range(21)]
    write_review(tmp_path / "c", *unknown)
    ran = commands("review", "merge", ann, bob, tmp_path / "c", store.root)
    assert ran.code == 0, ran.err
    assert "28 in dispute" in ran.out
    assert "  ... and 23 more" in ran.out
    assert "warning: 21 pairs are in no join of this run; what was said of them is kept" in ran.out
    assert ran.out.rstrip().endswith(", ... and 1 more")


def test_kappa_that_is_undefined_is_no_number(
    commands: Commands, run: tuple[Store, Path], tmp_path: Path
) -> None:
    store, folder = run
    row = selected_rows(folder)[0]
    both = [said_of(row, who, decision="accept") for who in ("ann", "bob")]
    ran = commands("review", "merge", write_review(tmp_path / "a", *both), store.root)
    assert "undefined: both said one word" in ran.out
    assert "undefined: no pair of both" in ran.out
    assert "nan" not in ran.out.lower()
    assert "nothing is in dispute" in ran.out


def test_one_reviewer_agrees_with_nobody(
    commands: Commands, run: tuple[Store, Path], tmp_path: Path
) -> None:
    store, folder = run
    one = said_of(selected_rows(folder)[0], "ann", decision="accept")
    ran = commands("review", "merge", write_review(tmp_path / "a", one), store.root)
    assert ran.code == 0, ran.err
    assert "kappa" not in ran.out
    assert "together" not in ran.out


def test_what_cannot_be_merged_says_why(
    commands: Commands, run: tuple[Store, Path], tmp_path: Path
) -> None:
    store, _ = run
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    ran = commands("review", "merge", bad, store.root)
    assert (ran.code, "bad.jsonl: line 1 is no decision" in ran.err) == (4, True)
    assert commands("review", "merge", tmp_path / "nowhere", store.root).code == 2
    assert commands("review", "merge", store.root).code == 2
    ran = commands("review", "merge", bad, tmp_path / "nowhere")
    assert (ran.code, "holds no run" in ran.err) == (4, True)


def test_report_is_served_until_it_is_interrupted(
    commands: Commands, run: tuple[Store, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = run
    row = selected_rows(folder)[0]
    offered = tmp_path / "suggestions.jsonl"
    offered.write_text(json.dumps({"pair_id": row["pair_id"], "question": "offered?"}))
    body = said_of(row, "ann", decision="accept").line().encode()
    started: queue.Queue[ReviewServer] = queue.Queue()
    found: list[object] = []

    class Started(ReviewServer):
        def __init__(self, *words: Any, **settings: Any) -> None:
            super().__init__(*words, **settings)
            started.put(self)

    def visit() -> None:
        url = started.get(timeout=120).url
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                found.append(answer.read().decode())
            headers = {"Origin": url.rsplit("/", 2)[0], "Content-Type": "application/x-ndjson"}
            request = urllib.request.Request(url + "review.jsonl", body, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                found.append(answer.status)
        finally:
            # It is served already, so that Ctrl-C ends the serving and nothing else.
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("miner.reviewing.server.ReviewServer", Started)
    # A shell ignores SIGINT for what it starts in the background, and so would these tests.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    visitor = threading.Thread(target=visit)
    visitor.start()
    ran = commands("report", store.root, "--serve", "--port", "0", "--suggestions", offered)
    visitor.join()
    signal.signal(signal.SIGINT, before)
    page, status = found
    assert '"question":"offered?"' in str(page)
    assert status == 204
    assert ran.code == 0
    assert re.search(r"serving +http://127\.0\.0\.1:\d+/\S{20,}/ ", ran.out)
    assert f"decisions are saved to {store.root}/review/; Ctrl-C ends" in ran.out
    assert "stopped; what the page had sent is saved" in ran.out
    assert (store.root / "review" / "ann.jsonl").read_bytes() == body + b"\n"


def test_options_of_report_that_have_no_effect_are_refused(
    commands: Commands, run: tuple[Store, Path], tmp_path: Path
) -> None:
    store, _ = run
    ran = commands("report", store.root, "--port", "8000")
    assert (ran.code, "--port is for --serve; give both or neither" in ran.err) == (2, True)
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    ran = commands("report", store.root, "--suggestions", bad)
    assert (ran.code, "bad.jsonl: line 1 is no suggestion" in ran.err) == (4, True)


def test_status_counts_reviews_and_what_each_join_selected(reviewed: Store) -> None:
    console = Console(file=io.StringIO(), width=200)
    show_review.reviews_and_joins(console, reviewed)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"^reviews  64 accepted, \d+ rejected$", said, re.M), said
    (name,) = reviewed.joins()
    number = reviewed.join_record(name)["selection"]["counts"]["kept"]  # type: ignore[index]
    assert f"join: {name}  {number} selected\n" in said
