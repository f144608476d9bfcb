"""The `blindpairs` command: its parts put together, its log, its exit codes."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Mapping, Sequence

import click
from rich.console import Console
from rich.logging import RichHandler

from export.__main__ import export_engine
from miner.exits import run_command
from pipelines.calibrate_command import calibrate
from pipelines.handoff_commands import handoff, hydrate
from pipelines.import_commands import import_command
from pipelines.looking_commands import doctor, encoders, plan, status, verify_command, why
from pipelines.measuring_commands import compare_command, evaluate_command
from pipelines.mining_commands import demo, embed, join, mine, report, select
from pipelines.review_commands import review
from pipelines.serve import serve

SHORT_HELP_CHARS = 60
"""Of the line that the help has for each command."""


STAGES: Mapping[str, Sequence[click.Command]] = {
    "Mine": (demo, plan, mine, embed, join, import_command, calibrate),
    "Choose": (select, report, review, why),
    "Hand off": (handoff, hydrate),
    "Measure": (evaluate_command, compare_command),
    "Look": (status, verify_command, encoders, doctor),
    "Serve": (serve, export_engine),
}
"""The commands, in the order in which a benchmark is built."""


class Commands(click.Group):
    """Commands that take `-v` before their name or after it; a help by stage."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands of each stage."""
        for stage, commands in STAGES.items():
            rows = [
                (each.name or "", each.get_short_help_str(SHORT_HELP_CHARS)) for each in commands
            ]
            with formatter.section(stage):
                formatter.write_dl(rows)

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


for _command in (command for commands in STAGES.values() for command in commands):
    cli.add_command(_command)


def main(
    arguments: list[str] | None = None, command: click.Command = cli, name: str = "blindpairs"
) -> None:
    """Run the command and exit with its code; SIGTERM ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(arguments, command, name))


def run(
    arguments: list[str] | None = None, command: click.Command = cli, name: str = "blindpairs"
) -> int:
    """Run the command; its exit code: 0, 2, 3, 4, 5 or 130.

    Args:
        arguments: the words after `blindpairs`; None takes the process's own.
        command: what is run.
        name: what it is called in messages.
    """
    error_console = Console(stderr=True, highlight=False, soft_wrap=True)
    return run_command(
        command,
        arguments,
        called=name,
        name=name,
        say=lambda line: error_console.print(line, markup=False),
    )


if __name__ == "__main__":
    main()
