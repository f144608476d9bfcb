"""What settings are made of: their base, paths in them, and ratings that two stages ask for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SettingsT = TypeVar("SettingsT", bound="Settings")


def _absolute(value: object) -> object:
    """A path from the root on; a URL, and what is neither, as it is."""
    if isinstance(value, Path) or (isinstance(value, str) and value and "://" not in value):
        return os.path.abspath(value)
    return value


Folder = Annotated[Path | None, BeforeValidator(_absolute)]
"""A local folder, likewise made absolute where it is given."""

RunOrUrl = Annotated[str | None, BeforeValidator(_absolute)]
"""A run directory or its URL, likewise."""

FileOrUrl = Annotated[str | None, Field(min_length=1), BeforeValidator(_absolute)]
"""A local file, or a URL with its `#sha256=` (see `miner/staging.py`).

Made absolute where it is given, since workers and later commands stand in other folders.
"""


class Settings(BaseModel):
    """Base of all settings: immutable, keyword-only, no unknown field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    def part(self, of: type[SettingsT]) -> SettingsT:
        """These settings, narrowed to one stage's; what was not given stays not given."""
        given = self.model_fields_set & of.model_fields.keys()
        return of(**{name: getattr(self, name) for name in given})


class RatingSettings(Settings):
    """Which ratings an image may have; LAION's tables carry them."""

    max_punsafe: float | None = Field(default=None, ge=0, le=1)
    """Exclude samples whose `punsafe` (LAION's probability of unsafe content) is above this."""

    max_pwatermark: float | None = Field(default=None, ge=0, le=1)
    """Exclude samples whose `pwatermark` (probability of a watermark) is above this."""

    nsfw: str | None = Field(default=None, pattern=r"^\s*\w+(\s*,\s*\w+)*\s*$")
    """Exclude samples whose `NSFW` is none of these words, with commas: UNLIKELY,UNSURE."""

    unrated: Literal["exclude", "keep"] = "exclude"
    """What becomes of samples without a rating that one of these filters asks for."""

    @model_validator(mode="after")
    def _unrated_has_an_effect(self) -> Self:
        if self.unrated == "keep" and not self.asks_for_ratings:
            raise ValueError(
                "--unrated keep has no effect without --max-punsafe, --max-pwatermark or --nsfw; "
                "give one of them, or leave it out"
            )
        return self

    @property
    def asks_for_ratings(self) -> bool:
        """Whether a rating decides over some samples."""
        return (self.max_punsafe, self.max_pwatermark, self.nsfw) != (None, None, None)
