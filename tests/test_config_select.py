import pytest
from pydantic import ValidationError

from miner.config import MineSettings, SelectSettings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"diverse": True}, "--diverse has no effect without --max-pairs"),
        ({"about_share": 0.2}, "--about-share has no effect without --about"),
        ({"not_in_phash": 2}, "--not-in-phash has no effect without --not-in"),
        ({"source_is": "host"}, "--source-is has no effect without --sources"),
        (
            {"min_phash_bits": 9, "max_phash_bits": 8},
            "--min-phash-bits 9 is above --max-phash-bits 8, which leaves no pair",
        ),
        (
            {"min_caption_similarity": 0.5, "max_caption_similarity": 0.4},
            "--min-caption-similarity 0.5 is above --max-caption-similarity 0.4",
        ),
        ({"unrated": "keep"}, "--unrated keep has no effect without"),
    ],
)
def test_settings_without_effect(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SelectSettings(**fields)  # type: ignore[arg-type]


def test_a_cap_of_zero_is_none() -> None:
    assert SelectSettings(max_per_image=0) == SelectSettings(max_per_image=None)
    with pytest.raises(ValidationError, match="max_per_image"):
        SelectSettings(max_per_image=-1)


def test_ratings_are_asked_for_in_reading_and_in_selection() -> None:
    settings = MineSettings(max_punsafe=0.5, unrated="keep", about="a dog", clip_weights="/w")
    assert settings.part(SelectSettings) == SelectSettings(
        max_punsafe=0.5, unrated="keep", about="a dog", clip_weights="/w"
    )


def test_a_selection_is_read_back_from_all_its_settings() -> None:
    for settings in (SelectSettings(), SelectSettings(max_pairs=5, diverse=True, about="x")):
        assert SelectSettings(**settings.model_dump()) == settings
