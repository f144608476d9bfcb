"""The commands about what reviewers say of pairs.

A command imports what it runs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pipelines.command_line import folder, out_console

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def review() -> None:
    """Bring together what reviewers say of pairs."""


@review.command()
@click.argument("files", metavar="FILES...", nargs=-1, required=True, type=FILE)
@folder
def merge(files: Sequence[Path], folder: Path | str) -> int:
    """Keep decisions of reviewers (review.jsonl) in a run, and say how far they agree."""
    from miner.reviewing.merge import merge_reviews
    from miner.store import Store
    from pipelines import show_review

    store = Store(folder)
    merged = merge_reviews(store, files)
    show_review.merged(out_console, store, merged)
    return 0


def serve(root: Path | str, name: str | None, port: int | None) -> int:
    """Serve a report on loopback until Ctrl-C; the exit code."""
    from miner.errors import ResourceError
    from miner.reviewing.server import ReviewServer
    from miner.store import Store
    from pipelines import joins, show

    store = Store(root)
    with ReviewServer(store, joins.pick_join(store, name), port=port) as server:
        show.facts(
            out_console, [("serving", f"{server.url} (open it in a browser on this machine)")]
        )
        out_console.print("decisions are saved to", f"{store.place('review')}/;", "Ctrl-C ends")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            if not server.drain():
                raise ResourceError(
                    "decisions were still being saved when time was up; open the report again, "
                    "and the browser sends what it kept"
                ) from None
            out_console.print("stopped; what the page had sent is saved")
    return 0
