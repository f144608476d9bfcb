"""Engines are judged as the run that uses them reads and decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pipelines.loading
from miner.config import EmbedSettings, JoinSettings, ReadSettings
from miner.shards import list_shards
from pipelines.loading import Encoders
from tests.small import write_corpus

DEMO = EmbedSettings(clip="demo-clip", dino="demo-dino", precision="fp16", device="cpu")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked for each encoder."""
    asked: list[dict[str, Any]] = []

    def open_encoder(*_: object, **wanted: Any) -> object:
        asked.append(wanted)
        return object()

    monkeypatch.setattr(pipelines.loading, "open_encoder", open_encoder)
    return asked


def load_both(encoders: Encoders) -> None:
    for record in encoders.records:
        encoders.load(record.encoder_id)


def test_thresholds_are_those_given_then_the_encoders_own(opened: list[dict[str, Any]]) -> None:
    load_both(Encoders(DEMO, how=JoinSettings(clip_above=0.0)))
    clip, dino = (record for record in Encoders(DEMO).records)
    own = dino.dino_below
    assert [wanted["threshold"] for wanted in opened] == [
        0.0,
        JoinSettings().dino_below if own is None else own,
    ]
    opened.clear()
    own = clip.clip_above
    load_both(Encoders(DEMO, how=JoinSettings(dino_below=0.0)))
    assert [wanted["threshold"] for wanted in opened] == [
        JoinSettings().clip_above if own is None else own,
        0.0,
    ]


def test_first_images_are_read_once_within_the_runs_limits(
    opened: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path, num_shards=2)
    encoders = Encoders(DEMO, list_shards([str(tmp_path)]), read=ReadSettings(limit=3))
    load_both(encoders)
    groups = [wanted["own"]() for wanted in opened]
    assert 2 <= len(groups[0]) == len(groups[1]) <= 3
    sizes = [record.image_size for record in encoders.records]
    assert [group.pixels_NCHW.shape[-1] for group in groups] == sizes
    # Nothing is kept here.
    assert encoders._own == {}


def test_first_images_are_none_that_the_run_excludes(
    opened: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_corpus(tmp_path, num_shards=1)
    (tmp_path / "ids.txt").write_text("000000000\n000000002\n")
    read = ReadSettings(exclude_ids=str(tmp_path / "ids.txt"))
    load_both(Encoders(DEMO, list_shards([str(tmp_path / "00000.tar")]), read=read))
    # One of the twelve is no image.
    assert [len(wanted["own"]()) for wanted in opened] == [9, 9]
