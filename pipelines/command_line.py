"""What the commands share: the arguments that several take, where they print, an exit code."""

from __future__ import annotations

import click
from rich.console import Console

from pipelines.options import RUN

PARTIAL = 3
"""Exit code of a command that finished, and that something was wrong in its data."""

out_console = Console(highlight=False, soft_wrap=True)
folder = click.argument("folder", metavar="DIR", type=RUN)
shards = click.argument("patterns", metavar="SHARD...", nargs=-1, required=True)
out = click.option(
    "--out", required=True, type=RUN, help="The run directory, or its s3:// or gs:// URL."
)
join_option = click.option(
    "--name", default=None, help="The join's name; default: the one that was made last."
)
