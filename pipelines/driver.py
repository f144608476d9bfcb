"""The run: embed, join, select; and its join alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from miner.config import (
    EmbedSettings,
    FeedSettings,
    JoinSettings,
    MineSettings,
    ReadSettings,
    SelectSettings,
)
from miner.errors import FingerprintError, StoreError
from miner.partial import Late
from miner.records import Json
from miner.reread import committed_shards
from miner.store import Store
from pipelines.embedded import Embedded
from pipelines.embedding import command_of, embed
from pipelines.joins import join_and_select
from pipelines.loading import Encoders, append_metrics, device_of
from pipelines.modes import embedding_of, reading_of

__all__ = ["Embedded", "Encoders", "command_of", "device_of", "embed", "join_again", "mine"]


def mine(patterns: Sequence[str], out: Path, settings: MineSettings) -> tuple[Embedded, Json]:
    """The whole run: embed, join, select. Run again, it does only what is missing.

    Args:
        patterns: shards, as `miner.shards.list_shards` takes them.
        out: the run directory.
        settings: everything.

    Returns:
        What was embedded, and the content of join.json.

    Raises:
        MinerError: see `embed`, `miner.join.join` and `miner.select.select`.
    """
    store = Store(out)
    command = command_of("mine", settings.model_dump(mode="json", exclude_defaults=True))
    encode, how = settings.part(EmbedSettings), settings.part(JoinSettings)
    if how.recheck and (encode.backend, encode.precision) == ("torch", "fp32"):
        _refuse_idle_recheck(store)
    embedded = embed(patterns, store, settings.part(ReadSettings), encode, command, how)
    record = join_and_select(
        store,
        embedded.clip,
        embedded.dino,
        how,
        settings.part(SelectSettings),
        lazy=embedded.choice.mode == "lazy",
        late=embedded.encoders.late(),
    )
    return embedded, record


def _refuse_idle_recheck(store: Store) -> None:
    """Refuse before hours of work what the join would refuse after them."""
    if not store.encoder_ids():
        raise ValueError(
            "--recheck has no effect on vectors that torch computes in fp32, which is what it "
            "would compare with; leave it out, or give another --backend or --precision"
        )


def join_again(
    store: Store, clip: str, dino: str, how: JoinSettings, which: SelectSettings
) -> Json:
    """Join what a run has; images that encoders still have to see are seen as they were before.

    Args:
        store: the run directory.
        clip: encoder_id.
        dino: encoder_id.
        how: thresholds and implementation.
        which: what is selected.

    Raises:
        StoreError: encoders are wanted, and no command tells how both were used.
        FingerprintError: the weights that were used then are others now.
        MinerError: see `miner.join.join` and `miner.select.select`.
    """
    last = embedding_of(store, clip, dino)
    lazy = last is not None and last[1] == "lazy"
    if not lazy and not how.recheck:
        return join_and_select(store, clip, dino, how, which)
    if last is None:
        raise StoreError(
            f"no command embedded {store.root} with {clip} and {dino}, so --recheck does not know "
            "their weights; run `blindpairs embed` with both"
        )
    late = _late_as_before(store, last[0], (clip, dino), how)
    return join_and_select(store, clip, dino, how, which, lazy=lazy, late=late)


def _late_as_before(
    store: Store, settings: EmbedSettings, ids: tuple[str, str], how: JoinSettings
) -> Late:
    """The encoders of an earlier command, found when they are needed."""
    # A trace was asked of that command.
    settings = settings.model_copy(update={"profile": None})

    @cache
    def found() -> Late:
        read = reading_of(store, *ids)
        encoders = Encoders(settings, committed_shards(store), read=read, how=how)
        now = tuple(record.encoder_id for record in encoders.records)
        if now != ids:
            raise FingerprintError(
                f"{store.root} was embedded with {' and '.join(ids)}, and their weights files are "
                f"those of {' and '.join(now)} now; restore them"
            )
        return encoders.late()

    return Late(
        load=lambda encoder_id, kind: found().load(encoder_id, kind),
        feeding=settings.part(FeedSettings),
        on_shard=append_metrics,
    )
