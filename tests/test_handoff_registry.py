from pathlib import Path

from miner.handoff.registry import FORMATS
from miner.handoff.settings import HandoffSettings
from pipelines.handoff_commands import FORMAT_NAMES

PACKAGE = Path(__file__).parents[1] / "miner" / "handoff"


def test_commands_know_every_format() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES


def test_options_of_formats_are_settings() -> None:
    for format in FORMATS.values():
        assert format.options <= set(HandoffSettings.model_fields)
        assert format.has_images is ("images" in format.options)
        assert format.usage.endswith("\n")
        assert format.summary
