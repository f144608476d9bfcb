from pathlib import Path

import pytest
from pydantic import ValidationError

from miner.settings import FileOrUrl, Folder, RatingSettings, RunOrUrl, Settings


class Places(Settings):
    folder: Folder = None
    run: RunOrUrl = None
    file: FileOrUrl = None


def test_paths_are_made_absolute_and_urls_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Places(folder=Path("a"), run="b", file="s3://bucket/c")
    assert (found.folder, found.run) == (tmp_path / "a", str(tmp_path / "b"))
    assert found.file == "s3://bucket/c"


def test_ratings_of_no_effect() -> None:
    with pytest.raises(ValidationError, match="--unrated keep has no effect without"):
        RatingSettings(unrated="keep")
    assert RatingSettings(unrated="keep", nsfw="UNLIKELY").asks_for_ratings
