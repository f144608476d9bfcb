"""The commands that mine: the whole run, its steps, and the demo.

A command imports what it runs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from miner.config import (
    EmbedSettings,
    ExecutorSettings,
    JoinSettings,
    MineSettings,
    ReadSettings,
    SelectSettings,
)
from miner.records import Json
from pipelines.command_line import PARTIAL, folder, join_option, out, out_console, shards
from pipelines.metrics import metrics_options
from pipelines.options import settings_from, settings_options
from pipelines.shares import WHOLE, Share, part_option


class JoinEncoders(ExecutorSettings, JoinSettings, SelectSettings):
    """What `join` may be told: thresholds, and which of the run's encoders."""

    clip: str | None = None
    """Encoder whose cosine is to be high: a name or an encoder_id; default: the last run's."""

    dino: str | None = None
    """Encoder whose cosine is to be low: a name or an encoder_id; default: the last run's."""


class EmbedOnly(ReadSettings, EmbedSettings, ExecutorSettings):
    """What `embed` may be told."""


@click.command()
@shards
@out
@part_option
@metrics_options
@settings_options(MineSettings)
def mine(
    patterns: Sequence[str],
    out: Path | str,
    share: Share | None,
    config_file: Path | None,
    **flags: Any,
) -> int:
    """Mine the whole way: embed, join, select, report. Run again, it does only what is missing."""
    return mine_all(patterns, out, share, settings_from(MineSettings, flags, config_file))


def mine_all(
    patterns: Sequence[str], out: Path | str, share: Share | None, settings: MineSettings
) -> int:
    """Mine the whole way, or embed a share of the shards, and say what was found; the exit code."""
    from pipelines import driver, show

    if share not in (None, WHOLE):
        embedded = driver.mine_share(patterns, out, settings, share)
        show.embedded(out_console, embedded)
        show.next_step(
            out_console, f"blindpairs join {out}", f"when all {share.of} parts are embedded"
        )
        return PARTIAL if embedded.partial else 0
    embedded, record = driver.mine(patterns, out, settings)
    show.embedded(out_console, embedded)
    _show_join(out, record)
    _write_report(out, record["name"], None)
    return PARTIAL if embedded.partial else 0


def _show_join(root: Path | str, record: Json) -> None:
    from miner.reporting.nothing_found import why_nothing
    from miner.store import Store
    from pipelines import show

    show.joined(out_console, root, record)
    if why := why_nothing(Store(root), record["name"], record):
        show.facts(out_console, [("next", why)])


@click.command()
@click.option(
    "--out",
    default=Path("runs/demo"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="The run directory.",
)
def demo(out: Path) -> int:
    """Mine rendered scenes whose answers are known."""
    from miner.store import Store
    from pipelines import show
    from pipelines.demo import found_of_planted, planted_rows, run_demo

    embedded, record = run_demo(out, say=lambda said: out_console.print(said, markup=False))
    show.embedded(out_console, embedded)
    _show_join(out, record)
    rows = planted_rows(Store(out), record["name"], record)
    if rows:
        show.facts(out_console, [("found", found_of_planted(rows))])
    _write_report(out, record["name"], None)
    show.next_step(out_console, "docs/tutorial.md", "from here to a small benchmark")
    return PARTIAL if embedded.partial else 0


@click.command()
@folder
@join_option
@click.option(
    "--limit", type=click.IntRange(min=0), help="Pairs to show, best first; 0 all.  [default: 2000]"
)
@click.option(
    "--suggestions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON lines of pair_id and pattern, difference, question, options, statements to offer.",
)
@click.option("--serve", is_flag=True, help="Serve it to this machine; decisions go into the run.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Of --serve; 0 takes a free one.  [default: the run's own, or the next free one]",
)
def report(
    folder: Path | str,
    name: str | None,
    limit: int | None,
    suggestions: Path | None,
    serve: bool,
    port: int | None,
) -> int:
    """Write a join's report, which opens in a browser.

    It is one folder, and needs no network.
    """
    from pipelines import review_commands

    if port is not None and not serve:
        raise click.UsageError("--port is for --serve; give both or neither")
    _write_report(folder, name, limit, suggestions, is_served=serve)
    return review_commands.serve(folder, name, port) if serve else 0


def _write_report(
    root: Path | str,
    name: str | None,
    limit: int | None,
    suggestions: Path | None = None,
    *,
    is_served: bool = False,
) -> None:
    from miner.report import DEFAULT_LIMIT, write_report
    from miner.reviewing.suggestions import parse_suggestions
    from miner.store import Store
    from pipelines import joins, show
    from pipelines.demo import tables_of

    store = Store(root)
    name = joins.pick_join(store, name)
    tables = tables_of(store, name)
    most = DEFAULT_LIMIT if limit is None else limit or None
    said = parse_suggestions(suggestions.read_bytes(), str(suggestions)) if suggestions else None
    page = write_report(
        store,
        name,
        limit=most,
        tables=tables,
        suggestions=said,
        count_decisions=not is_served,
    )
    if not is_served:
        show.facts(out_console, [("report", f"{page} (open it in a browser)")])


@click.command()
@shards
@out
@part_option
@metrics_options
@settings_options(EmbedOnly)
def embed(
    patterns: Sequence[str],
    out: Path | str,
    share: Share | None,
    config_file: Path | None,
    **flags: Any,
) -> int:
    """Embed shards with both encoders, what is missing of them."""
    from miner.store import Store
    from pipelines import driver, show
    from pipelines.executors import open_executor

    settings = settings_from(EmbedOnly, flags, config_file)
    encode = settings.part(EmbedSettings)
    with open_executor(settings.part(ExecutorSettings), encode.device) as executor:
        embedded = driver.embed(
            patterns,
            Store(out),
            settings.part(ReadSettings),
            encode,
            driver.command_of("embed", settings.model_dump(mode="json", exclude_defaults=True)),
            executor=executor,
            share=share or WHOLE,
        )
    show.embedded(out_console, embedded)
    if embedded.choice.mode == "lazy":
        show.next_step(
            out_console,
            f"blindpairs join {out}",
            "to let DINO see the images with a candidate, and to find the pairs",
        )
    return PARTIAL if embedded.partial else 0


@click.command()
@folder
@metrics_options
@settings_options(JoinEncoders)
def join(folder: Path | str, config_file: Path | None, **flags: Any) -> int:
    """Join what was embedded into blind pairs, and select."""
    from miner.store import Store
    from pipelines import driver, joins, show

    settings = settings_from(JoinEncoders, flags, config_file)
    store = Store(folder)
    clip, dino = joins.encoders_of(store, settings.clip, settings.dino)
    log = driver.command_of("join", settings.model_dump(mode="json", exclude_defaults=True))
    store.log_command({**log, "encoders": [clip, dino]})
    how, which = settings.part(JoinSettings), settings.part(SelectSettings)
    who = settings.part(ExecutorSettings)
    _show_join(folder, driver.join_again(store, clip, dino, how, which, who))
    show.next_step(out_console, f"blindpairs report {folder}", "to look at the pairs")
    return 0


@click.command()
@folder
@join_option
@settings_options(SelectSettings)
def select(folder: Path | str, name: str | None, config_file: Path | None, **flags: Any) -> int:
    """Select again from a join's pairs.

    By filters, near-copies, subject, pairs per image, ranking and diversity.
    """
    from miner.store import Store
    from pipelines import driver, joins, show

    settings = settings_from(SelectSettings, flags, config_file)
    store = Store(folder)
    record = joins.select_again(store, name, settings)
    log = driver.command_of("select", settings.model_dump(mode="json", exclude_defaults=True))
    store.log_command(log)
    show.joined(out_console, folder, record)
    show.next_step(out_console, f"blindpairs report {folder}", "to look at this selection")
    return 0
