"""The commands that look: at a run, at a corpus before it is mined, at this machine.

A command imports what it runs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from miner.config import MineSettings
from pipelines.command_line import PARTIAL, folder, join_option, out_console, shards
from pipelines.options import RUN, settings_from, settings_options


@click.command()
@shards
@click.option("--out", type=RUN, help="A run on the same corpus, to learn from.")
@settings_options(MineSettings)
def plan(
    patterns: Sequence[str], out: Path | str | None, config_file: Path | None, **flags: Any
) -> int:
    """Estimate images, bytes, hours, memory and pairs beforehand."""
    from miner.store import Store
    from pipelines import show
    from pipelines.plan import make_plan

    settings = settings_from(MineSettings, flags, config_file)
    store = Store(out) if out else None
    show.facts(out_console, make_plan(patterns, settings, settings, settings, store))
    return 0


@click.command()
@folder
def status(folder: Path | str) -> int:
    """Show what is done, missing and rejected."""
    from miner.store import Store
    from pipelines import show, show_review

    store = Store(folder)
    show.status(out_console, store)
    show_review.reviews_and_joins(out_console, store)
    return 0


@click.command()
@folder
@click.argument("image_1")
@click.argument("image_2", required=False)
@join_option
def why(folder: Path | str, image_1: str, image_2: str | None, name: str | None) -> int:
    """Explain why two images are, or are not, a blind pair.

    IMAGE_1 and IMAGE_2 are image_ids; a pair_id in their place names a pair of the join.
    """
    from miner.store import Store
    from pipelines import joins, show

    show.explanation(out_console, joins.why(Store(folder), name, image_1, image_2))
    return 0


@click.command(name="verify")
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


@click.command()
def encoders() -> int:
    """List the registry: weights, sizes, licences."""
    from pipelines import show

    show.encoders(out_console)
    return 0


@click.command()
def doctor() -> int:
    """Show versions and devices, what would be used, and why."""
    from pipelines import show
    from pipelines.doctor import examine

    show.facts(out_console, examine())
    return 0
