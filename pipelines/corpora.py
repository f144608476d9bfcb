"""The run with a corpus's own defaults, as a command of its own: what a Ray job submits."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from miner.config import MineSettings
from pipelines.cli import configure_logging
from pipelines.command_line import out
from pipelines.metrics import metrics_options
from pipelines.mining_commands import mine_all
from pipelines.options import settings_from, settings_options
from pipelines.shares import Share, part_option


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What is known of a corpus before it is looked at.

    Attributes:
        name: of the script that mines it.
        about: what its command says of itself; the first line is its summary.
        defaults: of `MineSettings`, in the place of its own; flags and `--config` win over them.
        shards: patterns of all its shards, taken where none are named; empty where it has no home.
    """

    name: str
    about: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    shards: tuple[str, ...] = ()


def corpus_command(corpus: Corpus) -> click.Command:
    """The command that mines a corpus: the options of `blindpairs mine` with its defaults."""
    defaults = {**corpus.defaults, **executor_default()}
    metavar = "[SHARD]..." if corpus.shards else "SHARD..."

    @click.command(
        name=corpus.name,
        help=corpus.about,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    @click.option("-v", "--verbose", is_flag=True, help="Say what is being done.")
    @click.argument("patterns", metavar=metavar, nargs=-1, required=not corpus.shards)
    @out
    @part_option
    @metrics_options
    @settings_options(MineSettings, defaults)
    def command(
        verbose: bool,
        patterns: Sequence[str],
        out: Path | str,
        share: Share | None,
        config_file: Path | None,
        **flags: Any,
    ) -> int:
        configure_logging(verbose)
        settings = settings_from(MineSettings, flags, config_file, defaults)
        return mine_all(patterns or corpus.shards, out, share, settings)

    return command


def executor_default() -> dict[str, str]:
    """Ray where a Ray cluster is what this process was started on, by what Ray itself sets.

    `ray job submit` gives its entrypoint RAY_ADDRESS; `cluster/aws.yaml` sets it for `ray submit`.
    The executor decides where work is done, never what comes out.
    """
    on_ray = bool(os.environ.get("RAY_ADDRESS"))
    return {"executor": "ray"} if on_ray else {}
