"""What an embedding run did and found."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

from miner.stats import Stats
from pipelines.loading import Encoders
from pipelines.modes import Choice

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Embedded:
    """What an embedding run did and found.

    Attributes:
        clip: encoder_id.
        dino: encoder_id.
        stats: of the work done in this run only.
        num_shards: listed shards.
        new: ids of shards on which there was work to do.
        failed: shard_id to error, of shards that could not be read.
        damaged: ids of committed shards that are damaged.
        num_samples: over all listed and committed shards.
        num_quarantined: likewise.
        excluded: of them, those that the user's filters left out, by cause.
        unrated: embedded images without a rating that a filter asks for, by its name.
        max_bad_fraction: the limit above which a run is partial.
        encoders: both; those that were used are loaded.
        choice: whether DINO saw every image, and why.
    """

    clip: str
    dino: str
    encoders: Encoders
    choice: Choice = field(default=Choice(mode="eager", because="asked for"))
    stats: Stats = field(default_factory=Stats)
    num_shards: int = 0
    new: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    num_samples: int = 0
    num_quarantined: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    unrated: Counter[str] = field(default_factory=Counter)
    max_bad_fraction: float

    @property
    def num_bad(self) -> int:
        """Samples that were refused, those aside that were not wanted."""
        return self.num_quarantined - self.excluded.total()

    @property
    def num_wanted(self) -> int:
        """Samples that no filter left out."""
        return self.num_samples - self.excluded.total()

    @property
    def bad_fraction(self) -> float:
        """Share of the wanted samples that was refused."""
        return self.num_bad / max(self.num_wanted, 1)

    @property
    def partial(self) -> bool:
        """Whether something is missing that was asked for (exit code 3)."""
        too_many = self.bad_fraction > self.max_bad_fraction
        return bool(self.failed or self.damaged) or too_many

    def fail(self, shard_id: str, error: str, stats: Stats) -> None:
        """Report a shard that cannot be read, and what was done of it."""
        log.error("shard %s failed: %s", shard_id, error)
        self.failed[shard_id] = error
        self.stats += stats
