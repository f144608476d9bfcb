"""The `blindpairs` command.

A command imports what it runs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler

from export.__main__ import export_engine
from miner.config import (
    EmbedSettings,
    ExecutorSettings,
    JoinSettings,
    MineSettings,
    ReadSettings,
    SelectSettings,
)
from miner.errors import MinerError, ResourceError
from pipelines.metrics import metrics_options
from pipelines.options import RUN, settings_from, settings_options
from pipelines.shares import WHOLE, Share, part_option

PARTIAL = 3
INTERRUPTED = 130

out_console = Console(highlight=False, soft_wrap=True)
folder = click.argument("folder", metavar="DIR", type=RUN)
shards = click.argument("patterns", metavar="SHARD...", nargs=-1, required=True)
out = click.option(
    "--out", required=True, type=RUN, help="The run directory, or its s3:// or gs:// URL."
)
join_option = click.option(
    "--name", default=None, help="The join's name; default: the one that was made last."
)


class JoinEncoders(ExecutorSettings, JoinSettings, SelectSettings):
    """What `join` may be told: thresholds, and which of the run's encoders."""

    clip: str | None = None
    """Encoder whose cosine is to be high: a name or an encoder_id; default: the last run's."""

    dino: str | None = None
    """Encoder whose cosine is to be low: a name or an encoder_id; default: the last run's."""


class EmbedOnly(ReadSettings, EmbedSettings, ExecutorSettings):
    """What `embed` may be told."""


class Commands(click.Group):
    """Commands that take `-v` before their name or after it."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, with `-v`."""
        cmd.params.append(verbose_option())
        super().add_command(cmd, name)


def verbose_option() -> click.Option:
    """`-v` of a command."""

    def say_more(ctx: click.Context, param: click.Parameter, verbose: bool) -> None:
        if verbose:
            configure_logging(verbose)

    return click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=say_more,
        help="Say what is being done.",
    )


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("-v", "--verbose", is_flag=True, help="Say what is being done.")
@click.version_option(package_name="blindpairs")
def cli(verbose: bool) -> None:
    """Mine CLIP-blind pairs: images that CLIP calls the same and DINOv2 calls different."""
    configure_logging(verbose)


def configure_logging(verbose: bool) -> None:
    """Warnings to stderr; with `verbose` what is being done, too."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
        force=True,
    )


@cli.command()
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
    show.joined(out_console, out, record)
    _write_report(out, record["name"], None)
    return PARTIAL if embedded.partial else 0


@cli.command()
@click.option(
    "--out",
    default=Path("runs/demo"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="The run directory.",
)
def demo(out: Path) -> int:
    """Mine rendered scenes with the bundled encoders; the answers are known."""
    from pipelines import show
    from pipelines.demo import run_demo

    embedded, record = run_demo(out)
    show.embedded(out_console, embedded)
    show.joined(out_console, out, record)
    _write_report(out, record["name"], None)
    return PARTIAL if embedded.partial else 0


@cli.command()
@folder
@join_option
@click.option(
    "--limit", type=click.IntRange(min=0), help="Pairs to show, best first; 0 all.  [default: 2000]"
)
def report(folder: Path | str, name: str | None, limit: int | None) -> int:
    """Write a join's report: one folder that opens in a browser, with no network."""
    _write_report(folder, name, limit)
    return 0


def _write_report(root: Path | str, name: str | None, limit: int | None) -> None:
    from miner.report import DEFAULT_LIMIT, write_report
    from miner.store import Store
    from pipelines import joins, show
    from pipelines.demo import tables_of

    store = Store(root)
    name = joins.pick_join(store, name)
    tables = tables_of(store, name)
    most = DEFAULT_LIMIT if limit is None else limit or None
    page = write_report(store, name, limit=most, tables=tables)
    show.facts(out_console, [("report", f"{page} (open it in a browser)")])


@cli.command()
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
    """Embed shards with both encoders; what is committed already is not done again."""
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


@cli.command()
@folder
@metrics_options
@settings_options(JoinEncoders)
def join(folder: Path | str, config_file: Path | None, **flags: Any) -> int:
    """Join what was embedded into blind pairs, and select from them."""
    from miner.store import Store
    from pipelines import driver, joins, show

    settings = settings_from(JoinEncoders, flags, config_file)
    store = Store(folder)
    clip, dino = joins.encoders_of(store, settings.clip, settings.dino)
    log = driver.command_of("join", settings.model_dump(mode="json", exclude_defaults=True))
    store.log_command({**log, "encoders": [clip, dino]})
    how, which = settings.part(JoinSettings), settings.part(SelectSettings)
    who = settings.part(ExecutorSettings)
    show.joined(out_console, folder, driver.join_again(store, clip, dino, how, which, who))
    show.next_step(out_console, f"blindpairs report {folder}", "to look at the pairs")
    return 0


@cli.command()
@folder
@join_option
@settings_options(SelectSettings)
def select(folder: Path | str, name: str | None, config_file: Path | None, **flags: Any) -> int:
    """Select again from a join's pairs: near-copies, cap, ranking."""
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


@cli.command()
@shards
@click.option("--out", type=RUN, help="A run on the same corpus, to learn from.")
@settings_options(MineSettings)
def plan(
    patterns: Sequence[str], out: Path | str | None, config_file: Path | None, **flags: Any
) -> int:
    """Estimate images, bytes, hours, memory and pairs before anything runs."""
    from miner.store import Store
    from pipelines import show
    from pipelines.plan import make_plan

    settings = settings_from(MineSettings, flags, config_file)
    store = Store(out) if out else None
    show.facts(out_console, make_plan(patterns, settings, settings, settings, store))
    return 0


@cli.command()
@folder
def status(folder: Path | str) -> int:
    """Show what is done, missing and rejected."""
    from miner.store import Store
    from pipelines import show

    show.status(out_console, Store(folder))
    return 0


@cli.command()
@folder
@click.argument("image_1")
@click.argument("image_2")
@join_option
def why(folder: Path | str, image_1: str, image_2: str, name: str | None) -> int:
    """Explain why two images are, or are not, a blind pair."""
    from miner.store import Store
    from pipelines import joins, show

    show.explanation(out_console, joins.why(Store(folder), name, image_1, image_2))
    return 0


@cli.command(name="verify")
@folder
@click.option("--gc", is_flag=True, help="Remove files that no commit names.")
def verify_command(folder: Path | str, gc: bool) -> int:
    """Check every commit, hash and count of a run."""
    from miner.audit import collect_garbage, verify
    from miner.store import Store

    store = Store(folder)
    findings = verify(store)
    for finding in findings:
        out_console.print(f"{finding.path}: {finding.problem}", markup=False)
    if gc:
        for name in collect_garbage(store):
            out_console.print(f"removed {name}", markup=False)
    with store.alone() as alone:
        leftovers = store.leftovers() if alone and not findings else []
    for path in leftovers:
        out_console.print(f"{path}: no commit names it; --gc removes it", markup=False)
    if not findings and not leftovers:
        out_console.print("all commits, hashes and counts are right")
    return PARTIAL if findings else 0


@cli.command()
def encoders() -> int:
    """List the registry: weights, sizes, licences."""
    from pipelines import show

    show.encoders(out_console)
    return 0


@cli.command()
def doctor() -> int:
    """Show versions and devices, what would be used, and why."""
    from pipelines import show
    from pipelines.doctor import examine

    show.facts(out_console, examine())
    return 0


cli.add_command(export_engine)


def main(
    arguments: list[str] | None = None, command: click.Command = cli, name: str = "blindpairs"
) -> None:
    """Run the command and exit with its code; SIGTERM ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(arguments, command, name))


def run(
    arguments: list[str] | None = None, command: click.Command = cli, name: str = "blindpairs"
) -> int:
    """Run the command; its exit code: 0, 2, 3, 4, 5 or 130, as in DESIGN.

    Args:
        arguments: the words after `blindpairs`; None takes the process's own.
        command: what is run.
        name: what it is called in messages.
    """
    error_console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        return int(command.main(arguments, prog_name=name, standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        error_console.print("interrupted; the same command goes on from here")
        return INTERRUPTED
    except MinerError as error:
        error_console.print(f"{name}: {error}", markup=False)
        return error.exit_code
    except ValueError as error:
        error_console.print(f"{name}: {error}", markup=False)
        return click.UsageError.exit_code
    except OSError as error:
        error_console.print(f"{name}: {error}; see to it and run again", markup=False)
        return ResourceError.exit_code


if __name__ == "__main__":
    main()
