from pathlib import Path

import pytest
from pydantic import ValidationError

from miner.config import (
    EmbedSettings,
    ExcludeSettings,
    JoinSettings,
    MineSettings,
    ReadSettings,
    SelectSettings,
)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        JoinSettings().clip_above = 0.5  # type: ignore[misc]


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        JoinSettings(clip_abve=0.5)  # type: ignore[call-arg]


def test_part_takes_one_stages_fields() -> None:
    settings = MineSettings(clip_above=0.9, max_per_image=5, limit=7)
    assert settings.part(JoinSettings) == JoinSettings(clip_above=0.9)
    assert settings.part(SelectSettings) == SelectSettings(max_per_image=5)
    assert settings.part(ReadSettings) == ReadSettings(limit=7)


def test_every_field_has_a_sentence() -> None:
    for name, field in MineSettings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep_clip": 0.96}, "keep_clip is 0.96, above clip_above"),
        ({"keep_dino": 0.5}, "keep_dino is 0.5, below dino_below"),
        ({"clip_above": float("nan")}, "finite number"),
        ({"clip_above": 2}, "less than or equal to 1"),
    ],
)
def test_thresholds_that_make_no_sense(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JoinSettings(**fields)  # type: ignore[arg-type]


def test_keeping_the_unrated_takes_a_filter() -> None:
    with pytest.raises(ValidationError, match="--unrated keep has no effect without"):
        ExcludeSettings(unrated="keep", exclude_ids="ids.txt")
    for name, value in (("max_punsafe", 0.0), ("max_pwatermark", 1.0), ("nsfw", "UNLIKELY")):
        settings = ExcludeSettings(unrated="keep", **{name: value})  # type: ignore[arg-type]
        assert settings.asks_for_ratings


@pytest.mark.parametrize("nsfw", ["", " ", ",", "UNLIKELY,", "UN LIKELY"])
def test_words_that_are_no_list(nsfw: str) -> None:
    with pytest.raises(ValidationError, match="nsfw"):
        ExcludeSettings(nsfw=nsfw)


def test_files_are_paths_or_urls() -> None:
    # Absolute, for workers and later commands that stand in other folders.
    there = str(Path.cwd() / "a" / "b#sha256=00")
    for given in ("a/b#sha256=00", Path("a/../a/b#sha256=00")):
        assert EmbedSettings(clip_weights=given).clip_weights == there  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="at least 1 character"):
        ReadSettings(exclude_ids="")
    url = "s3://bucket/clip.safetensors#sha256=00"
    assert EmbedSettings(dino_weights=url).dino_weights == url


@pytest.mark.parametrize("backend", ["torch", "compile"])
def test_engines_take_a_backend_that_loads_them(backend: str) -> None:
    with pytest.raises(ValidationError, match=f"--engines has no effect with --backend {backend}"):
        EmbedSettings(engines="engines.tar", backend=backend)  # type: ignore[arg-type]
    assert EmbedSettings(engines="engines.tar", backend="onnx").engines
