"""A command of ours run to its end, with the exit code that its end deserves."""

from __future__ import annotations

from collections.abc import Callable

import click

from miner.errors import MinerError, exit_of

INTERRUPTED = 130


def run_command(
    command: click.Command,
    arguments: list[str] | None,
    *,
    called: str,
    name: str,
    say: Callable[[str], None],
) -> int:
    """Run a command; its exit code: what it returns, 2, 3, 4, 5 or 130.

    Args:
        command: what is run.
        arguments: the words after its name; None takes the process's own.
        called: how its usage calls it.
        name: who speaks where it fails.
        say: tells a line to whoever runs it.
    """
    try:
        return int(command.main(arguments, prog_name=called, standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        say("interrupted; the same command goes on from here")
        return INTERRUPTED
    except (MinerError, ValueError, OSError) as error:
        code, said = exit_of(error)
        say(f"{name}: {said}")
        return code
