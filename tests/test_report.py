"""A report as a folder: made, made again, left alone, cut at its limit, or refused."""

import shutil
from pathlib import Path

import pytest

from miner.errors import StoreError
from miner.report import DEFAULT_LIMIT
from miner.store import Store
from tests.commands import Commands
from tests.handoff_runs import tree
from tests.report_pages import Page, page_of
from tests.report_runs import Shot, encoded, make_large_run, make_run, report_of
from tests.runs import make_store
from tests.small import write_corpus


def test_a_mined_run_becomes_a_page(commands: Commands, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", num_shards=2)
    assert commands.mine(*corpus, "--out", tmp_path / "run").code == 0
    store = Store(tmp_path / "run")
    page = page_of(store, store.root / "pairs" / store.joins()[0])
    samples = {
        r["image_id"]: r for s in store.committed("samples") for r in store.samples(s).to_pylist()
    }
    assert page.rows("images")
    for image in page.rows("images"):
        recorded = samples[image["image_id"]]
        file = page.path.parent / "images" / f"{image['sha256']}.jpg"
        start = recorded["offset"]
        in_shard = Path(recorded["shard"]).read_bytes()[start : start + recorded["num_bytes"]]
        assert file.read_bytes() == in_shard


def test_equal_runs_give_equal_bytes(page_run: tuple[Store, Path], page: Page) -> None:
    store, folder = page_run
    first = tree(page.path.parent)
    shutil.rmtree(folder / "report")
    assert tree(report_of(store, folder).parent) == first
    assert {"index.html", "cosines.csv", "cosines-light.svg", "cosines-dark.svg"} < first.keys()


def test_a_whole_report_is_left_alone_and_another_one_replaced(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(4)])
    index = report_of(store, folder)
    made = index.stat().st_ino
    assert report_of(store, folder).stat().st_ino == made
    assert report_of(store, folder, limit=2).stat().st_ino != made
    index.write_text("edited")
    assert "edited" not in report_of(store, folder, limit=2).read_text("utf-8")
    stray = folder / "report" / "images" / "stray"
    stray.touch()
    assert report_of(store, folder, limit=2)
    assert not stray.exists()
    (folder / "report" / "report.json").write_text("{}")
    made = index.stat().st_ino
    assert report_of(store, folder, limit=2).stat().st_ino != made
    assert [path.name for path in folder.glob("report*")] == ["report"]


def test_a_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(3)])
    before = tree(report_of(store, folder).parent)

    def fail(*_: object, **__: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("miner.reporting.plots.draw_cosines", fail)
    with pytest.raises(OSError, match="disk full"):
        report_of(store, folder, limit=1)
    assert tree(folder / "report") == before
    assert [path.name for path in folder.glob("report*")] == ["report"]


def test_the_limit_cuts_and_says_so(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(5)])
    page = page_of(store, folder, limit=3)
    assert [pair["rank"] for pair in page.rows("pairs")] == [1, 2, 3]
    assert "best 3 of 10 selected pairs" in page.path.read_text("utf-8")
    assert "selected pairs. <code>" not in page_of(store, folder).path.read_text("utf-8")


def test_the_default_limit_holds(tmp_path: Path) -> None:
    store, folder = make_large_run(tmp_path, DEFAULT_LIMIT + 1)
    assert len(page_of(store, folder).rows("pairs")) == DEFAULT_LIMIT
    assert len(page_of(store, folder, limit=None).rows("pairs")) == DEFAULT_LIMIT + 1


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(2)])
    with pytest.raises(ValueError, match="limit is 0; give at least 1"):
        report_of(store, folder, limit=0)


def test_a_join_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(2)])
    (folder / "selected.parquet").unlink()
    with pytest.raises(StoreError, match="no whole selection; run `blindpairs select"):
        report_of(store, folder)
    (folder / "histogram.parquet").unlink()
    with pytest.raises(StoreError, match="no whole join; run `blindpairs join"):
        report_of(store, folder)


def test_pairs_of_unknown_images_are_refused(tmp_path: Path) -> None:
    store, folder = make_run(tmp_path, [Shot(data=encoded(n)) for n in range(2)])
    other = make_store(tmp_path / "other", num_shards=1, rows=2)
    shutil.copytree(other.root / "commits", store.root / "commits", dirs_exist_ok=True)
    (store.root / store.commit_path("samples", "set.00000")).unlink()
    with pytest.raises(StoreError, match="name 2 images that are no samples"):
        report_of(store, folder)
