"""The run: embed, join, select; and its join alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from miner.config import (
    EmbedSettings,
    ExecutorSettings,
    FeedSettings,
    JoinSettings,
    MineSettings,
    ReadSettings,
    SelectSettings,
)
from miner.errors import FingerprintError, StoreError
from miner.implementations import implementation, why_chosen
from miner.partial import Late
from miner.records import Json
from miner.reread import committed_shards
from miner.selecting.image_lists import check_is_there
from miner.store import Store
from pipelines.embedded import Embedded
from pipelines.embedding import command_of, embed
from pipelines.executors import Executor, open_executor
from pipelines.join_work import hand_out_by
from pipelines.joins import join_and_select
from pipelines.loading import Encoders, append_metrics, device_of
from pipelines.modes import embedding_of, reading_of
from pipelines.shares import WHOLE, Share

log = logging.getLogger(__name__)

__all__ = [
    "Embedded",
    "Encoders",
    "command_of",
    "device_of",
    "embed",
    "join_again",
    "mine",
    "mine_share",
]


def mine(patterns: Sequence[str], out: Path | str, settings: MineSettings) -> tuple[Embedded, Json]:
    """The whole run: embed, join, select. Run again, it does only what is missing.

    Args:
        patterns: shards, as `miner.shards.list_shards` takes them.
        out: the run directory, or its URL.
        settings: everything.

    Returns:
        What was embedded, and the content of join.json.

    Raises:
        MinerError: see `embed`, `miner.join.join` and `miner.select.select`.
        ValueError: workers compute on GPUs, and the driver, which has none, is to choose for them.
    """
    who = settings.part(ExecutorSettings)
    _say_who_joins(settings.join, who, settings.device)
    if settings.not_in is not None:
        check_is_there(settings.not_in)
    with open_executor(who, settings.device) as executor:
        embedded = _embed(patterns, out, settings, WHOLE, executor)
        record = join_and_select(
            Store(out),
            embedded.clip,
            embedded.dino,
            settings.part(JoinSettings),
            settings.part(SelectSettings),
            hand_out=hand_out_by(executor),
            lazy=embedded.choice.mode == "lazy",
            late=embedded.encoders.late(),
        )
    return embedded, record


def mine_share(
    patterns: Sequence[str], out: Path | str, settings: MineSettings, share: Share
) -> Embedded:
    """The embedding of a share of a run; pairs are sought when all shards have theirs.

    Args:
        patterns: shards, as `miner.shards.list_shards` takes them.
        out: the run directory.
        settings: everything.
        share: which of the shards.

    Raises:
        MinerError: see `embed`.
    """
    with open_executor(settings.part(ExecutorSettings), settings.device) as executor:
        return _embed(patterns, out, settings, share, executor)


def _embed(
    patterns: Sequence[str],
    out: Path | str,
    settings: MineSettings,
    share: Share,
    executor: Executor,
) -> Embedded:
    store = Store(out)
    command = command_of("mine", settings.model_dump(mode="json", exclude_defaults=True))
    encode, how = settings.part(EmbedSettings), settings.part(JoinSettings)
    if how.recheck and (encode.backend, encode.precision) == ("torch", "fp32"):
        _refuse_idle_recheck(store)
    read = settings.part(ReadSettings)
    return embed(patterns, store, read, encode, command, how, executor=executor, share=share)


def _say_who_joins(join: str, who: ExecutorSettings, device: str) -> None:
    """Say what `--join auto` means to Ray workers, for which this machine chooses."""
    if who.executor == "inline" or join != "auto":
        return
    impl = implementation(join)
    if impl == "cpu" and device == "cuda":
        raise ValueError(
            "--join auto is chosen by this machine, where triton cannot run, and --device cuda has "
            "workers with GPUs; give --join triton, or --join cpu for their cores"
        )
    log.warning("--join auto: %s for all workers, %s", impl, why_chosen(join, impl))


def _refuse_idle_recheck(store: Store) -> None:
    """Refuse before hours of work what the join would refuse after them."""
    if not store.encoder_ids():
        raise ValueError(
            "--recheck has no effect on vectors that torch computes in fp32, which is what it "
            "would compare with; leave it out, or give another --backend or --precision"
        )


def join_again(
    store: Store,
    clip: str,
    dino: str,
    how: JoinSettings,
    which: SelectSettings,
    who: ExecutorSettings | None = None,
) -> Json:
    """Join what a run has; images that encoders still have to see are seen as they were before.

    Args:
        store: the run directory.
        clip: encoder_id.
        dino: encoder_id.
        how: thresholds and implementation.
        which: what is selected.
        who: does the search; default: this process.

    Raises:
        StoreError: encoders are wanted, and no command tells how both were used.
        FingerprintError: the weights that were used then are others now.
        MinerError: see `miner.join.join` and `miner.select.select`.
    """
    last = embedding_of(store, clip, dino)
    lazy = last is not None and last[1] == "lazy"
    late = None
    if lazy or how.recheck:
        if last is None:
            raise StoreError(
                f"no command embedded {store.root} with {clip} and {dino}, so --recheck does not "
                "know their weights; run `blindpairs embed` with both"
            )
        late = _late_as_before(store, last[0], (clip, dino), how)
    device = "cuda" if implementation(how.join) == "triton" else "cpu"
    who = who or ExecutorSettings()
    _say_who_joins(how.join, who, device)
    with open_executor(who, device) as executor:
        return join_and_select(
            store, clip, dino, how, which, hand_out=hand_out_by(executor), lazy=lazy, late=late
        )


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
