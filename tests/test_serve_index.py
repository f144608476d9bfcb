"""What the service opens of a run, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from miner.errors import StoreError
from miner.reporting.images import EXTENSIONS
from miner.store import Store
from pipelines.serving.errors import HttpError
from pipelines.serving.index import MIME_TYPES, Index
from tests.runs import make_store


@pytest.fixture(scope="module")
def opened(index: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    found = Index(index, None, tmp_path_factory.mktemp("scratch"))
    yield found
    found.close()


def test_every_format_has_a_safe_type() -> None:
    assert MIME_TYPES.keys() == EXTENSIONS.keys()
    assert not any("html" in kind or "svg" in kind for kind in MIME_TYPES.values())


def test_a_run_without_a_join_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no join yet; run `blindpairs join"):
        Index(make_store(tmp_path / "run"), None, tmp_path)


def test_a_join_without_its_files_is_refused(opened: Index, tmp_path: Path) -> None:
    shutil.copytree(opened.store.root, tmp_path / "run")
    (raw,) = (tmp_path / "run" / "pairs" / opened.name / "raw").iterdir()
    raw.unlink()
    with pytest.raises(StoreError, match="holds no whole join with a selection"):
        Index(Store(tmp_path / "run"), None, tmp_path)


def test_other_encoders_are_refused(opened: Index) -> None:
    own = [opened.record["clip"], opened.record["dino"]]
    opened.refuse_others(own)
    with pytest.raises(ValueError, match=f"--index holds vectors of {own[0]} and {own[1]}, and"):
        opened.refuse_others(["clip-vit-l-14-00000000", own[1]])


def test_bytes_that_changed_or_went_are_not_shown(
    opened: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = opened.lookup.rows(["scenes/00002/zz"]).values()
    tar = Path(row["shard"].removeprefix("file://"))
    data = tar.read_bytes()
    moved = tmp_path / "moved.tar"
    moved.write_bytes(data[: row["offset"]] + b"x" + data[row["offset"] + 1 :])
    monkeypatch.setattr(
        opened.lookup, "rows", lambda ids: {i: row | {"shard": str(moved)} for i in ids}
    )
    with pytest.raises(HttpError, match="holds other bytes now") as caught:
        opened.image("scenes/00002/zz")
    assert (caught.value.status, caught.value.code) == (404, "image_changed")
    gone = str(tmp_path / "gone.tar")
    monkeypatch.setattr(opened.lookup, "rows", lambda ids: {i: row | {"shard": gone} for i in ids})
    with pytest.raises(HttpError, match="cannot be read where the index saw it last") as caught:
        opened.image("scenes/00002/zz")
    assert (caught.value.status, caught.value.code) == (404, "image_gone")
    monkeypatch.setattr(opened.lookup, "rows", lambda ids: {})
    with pytest.raises(HttpError, match="no image with that id"):
        opened.image("scenes/00002/zz")


@pytest.mark.parametrize(
    "name",
    ["report.json", "../join.json", "images/../../join.json", "index.html/", "images/a", "\0"],
)
def test_only_files_of_a_report_are_read(opened: Index, name: str) -> None:
    with pytest.raises(HttpError, match="the report has no such file"):
        opened.report_file(name)


def test_a_file_that_is_not_there(opened: Index) -> None:
    with pytest.raises(HttpError, match="the report has no such file"):
        opened.report_file(f"images/{'0' * 64}.jpg")
