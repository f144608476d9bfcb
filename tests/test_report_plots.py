import csv
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from miner.records import Json
from miner.reporting.plots import MAX_COLUMNS, MAX_SOURCES, write_plots
from miner.review import Decision
from miner.reviewing.kept import keep_decisions
from miner.store import Store
from tests.report_runs import Shot, encoded, make_run, report_of

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
SHOTS = tuple(
    Shot(data=encoded(n), caption=f"a caption {'abc'[n % 3] * 3}", url=f"https://{n}.example.org/a")
    for n in range(24)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A run of 276 blind pairs, of which two people decided on five."""
    store, folder = make_run(tmp_path_factory.mktemp("plots"), SHOTS)
    selected = pq.ParquetFile(folder / "selected.parquet").read().to_pylist()
    for reviewer, verdicts in (("ann", "aaarr"), ("ben", "aaraa")):
        decided = [said(pair, reviewer, v) for pair, v in zip(selected, verdicts, strict=False)]
        keep_decisions(store, decided)
    return store, folder


@pytest.fixture(scope="module")
def page(run: tuple[Store, Path]) -> str:
    return report_of(*run).read_text("utf-8")


def said(pair: Json, reviewer: str, verdict: str) -> Decision:
    return Decision(
        **{name: pair[name] for name in ("pair_id", "sha256_1", "sha256_2")},
        reviewer=reviewer,
        decision={"a": "accept", "r": "reject"}[verdict],  # type: ignore[arg-type]
        pattern=4,
        decided_at=WHEN,
    )


def rows_of(run: tuple[Store, Path], name: str) -> list[dict[str, str]]:
    text = (run[1] / "report" / f"{name}.csv").read_bytes().decode()
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def drawings(page: str) -> Json:
    found = re.search(r'id="plots-data">(.*?)</script>', page)
    assert found
    return dict(json.loads(found[1])["plots"])


def test_every_plot_has_a_title_and_its_numbers_beside_it(
    run: tuple[Store, Path], page: str
) -> None:
    names = re.findall(r'<h3 id="chart-(\w+)">(.+?)</h3>', page)
    assert sorted(name for name, _ in names) == sorted(drawings(page))
    assert len(names) == 7
    for name in (*(name for name, _ in names), "cosines", "thresholds"):
        assert f'href="{name}.csv"' in page
        assert rows_of(run, name)
    written = {path.stem for path in (run[1] / "report").glob("*.csv")}
    assert written == {*(name for name, _ in names), "cosines", "thresholds"}


def test_the_columns_are_those_of_the_readme(run: tuple[Store, Path], page: str) -> None:
    readme = Path("docs/review.md").read_text("utf-8")
    for path in (run[1] / "report").glob("*.csv"):
        columns = path.read_bytes().split(b"\r\n")[0].decode()
        wanted = f"{path.name:<22}{columns.replace(',', ', ')}"
        assert re.sub(r"\s+", " ", wanted) in re.sub(r"[^\S\n]+", " ", readme), wanted


def test_counts_add_up(run: tuple[Store, Path], page: str) -> None:
    def total(name: str, column: str) -> int:
        return sum(int(row[column]) for row in rows_of(run, name))

    assert total("gaps", "num_pairs") == total("thresholds", "num_pairs") == 276
    partners = rows_of(run, "pairs_per_image")
    assert sum(int(row["num_pairs"]) * int(row["num_images"]) for row in partners) == 2 * 276
    for kind in ("clip", "dino"):
        most = max(int(row["num_pairs"]) for row in rows_of(run, f"survival_{kind}"))
        assert most == 276
    assert total("clusters", "num_pairs") == 276
    assert total("sources", "num_pairs") == 2 * 276
    drawn = drawings(page)
    assert sum(column[2] for column in drawn["gaps"]["columns"]) == 276
    assert len(drawn["gaps"]["columns"]) <= MAX_COLUMNS
    assert sum(column[1] for column in drawn["pairs_per_image"]["columns"]) == 24


def test_titles_say_what_is_seen(run: tuple[Store, Path], page: str) -> None:
    raw = run[0].raw(run[1].name)
    gaps = sorted(raw["gap"].to_pylist())
    median = (gaps[137] + gaps[138]) / 2
    assert f"Half of the blind pairs have a gap above {median:.2f}" in page
    assert "0 of 24 images are in one blind pair only" in page
    assert "The selected pairs come from 24 sources" in page
    assert "2 of 5 reviewed pairs are accepted" in page


def test_sources_beyond_the_first_are_drawn_as_one(page: str) -> None:
    bars = drawings(page)["sources"]["bars"]
    assert len(bars) == MAX_SOURCES + 1
    assert bars[-1] == {"label": "4 others", "note": "4 images", "counts": [4 * 23]}


def test_decisions_are_those_of_all_reviewers(run: tuple[Store, Path], page: str) -> None:
    counts = {row["name"]: row for row in rows_of(run, "patterns")}
    assert len(counts) == 9
    assert list(counts["quantity and count"].values())[2:] == ["2", "0", "3"]
    bar = drawings(page)["patterns"]["bars"][3]
    assert bar == {"label": "4 quantity and count", "counts": [2, 3, 0]}


def test_a_decision_makes_the_report_anew(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, SHOTS[:4])
    first = report_of(store, folder)
    assert "patterns.csv" not in first.read_text("utf-8")
    assert not (folder / "report" / "patterns.csv").exists()
    pair = pq.ParquetFile(folder / "selected.parquet").read().to_pylist()[0]
    keep_decisions(store, [said(pair, "ann", "a")])
    assert "1 of 1 reviewed pairs are accepted" in report_of(store, folder).read_text("utf-8")
    assert (folder / "report" / "patterns.csv").exists()


def test_a_report_to_be_decided_in_is_not_written_anew_for_its_decisions(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, SHOTS[:4])
    first = report_of(store, folder).read_bytes()
    pair = pq.ParquetFile(folder / "selected.parquet").read().to_pylist()[0]
    keep_decisions(store, [said(pair, "ann", "a")])
    assert report_of(store, folder, count_decisions=False).read_bytes() == first
    assert report_of(store, folder).read_bytes() != first


def test_a_run_without_pairs_says_so(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, SHOTS[:1])
    page = report_of(store, folder).read_text("utf-8")
    assert page.count("There is no blind pair") == 4
    assert "No pair was selected" in page
    assert "fewer than 20 selected pairs make no groups" in page


def test_hostile_sources_stay_text(tmp_path: Path) -> None:
    store, folder = make_run(
        tmp_path,
        [
            Shot(data=encoded(0), url="https://=cmd|'x'!a/<script>"),
            Shot(data=encoded(1), url="https://</script><script>alert(1)/"),
        ],
    )
    page = report_of(store, folder).read_text("utf-8")
    sources = [row["source"] for row in rows_of((store, folder), "sources")]
    assert "'=cmd|'x'!a" in sources
    assert "<script>alert" not in page
    assert "</script><script" not in page


def test_the_same_run_gives_the_same_plots(run: tuple[Store, Path], tmp_path: Path) -> None:
    store, folder = run
    record = store.read_record(f"pairs/{folder.name}/join.json")
    selected = store.read_table(record["selection"]["file"]["path"])
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found.append(write_plots(store, folder.name, record, selected, [], tmp_path / name))
    assert found[0] == found[1]
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
