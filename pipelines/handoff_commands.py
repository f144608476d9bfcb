"""The commands that hand off: pairs to those who build benchmarks, and images to such a hand-off.

A command imports what it runs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from miner.handoff.settings import HandoffSettings
from pipelines.command_line import PARTIAL, folder, join_option, out_console
from pipelines.options import settings_from, settings_options

FORMAT_NAMES = (
    *("mmvp", "mmvp-vlm", "hf", "label-studio", "fiftyone", "webdataset"),
    *("clip-retrieval", "csv", "jsonl"),
)
_SHOWN = 5
_LOCAL = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("format_name", metavar="FORMAT", type=click.Choice(FORMAT_NAMES))
@folder
@click.option("--out", required=True, type=_LOCAL, help="The folder to make; a local one.")
@join_option
@click.option("--overwrite", is_flag=True, help="Replace another hand-off that lies there.")
@click.option(
    "--skip-missing", is_flag=True, help="Leave out pairs with an image that cannot be read."
)
@settings_options(HandoffSettings)
def handoff(
    format_name: str,
    folder: Path | str,
    out: Path,
    name: str | None,
    overwrite: bool,
    skip_missing: bool,
    config_file: Path | None,
    **flags: Any,
) -> int:
    """Hand pairs off to those who build benchmarks.

    FORMAT is mmvp, mmvp-vlm, hf, label-studio, fiftyone, webdataset, clip-retrieval, csv or jsonl.
    """
    from miner.handoff.deliver import hand_off
    from miner.handoff.folder import MISSING
    from miner.store import Store
    from pipelines import joins, show

    settings = settings_from(HandoffSettings, flags, config_file)
    store = Store(folder)
    done = hand_off(
        store,
        joins.pick_join(store, name),
        format_name,
        settings,
        out,
        overwrite=overwrite,
        skip_missing=skip_missing,
    )
    facts, written, source = done.source.handoff.facts, done.written, done.source
    reviews = (
        "nobody has reviewed any"
        if facts.num_accepted is None
        else f"reviewers accepted {facts.num_accepted}"
    )
    lines = [
        ("selected", f"{facts.num_selected} pairs, {reviews}; taken: {source.reviewed}"),
        ("handed off", f"{written.num_pairs} pairs of {written.num_images} images"),
    ]
    if source.num_elsewhere:
        lines.append(("accepted", f"{source.num_elsewhere} more, which this join does not select"))
    if source.num_repeated:
        lines.append(("left out", f"{source.num_repeated} pairs of the same bytes as earlier ones"))
    if done.missing:
        lines.append(
            (
                "left out",
                f"{done.num_left_out} pairs, as {len(done.missing)} images cannot be read; see "
                f"{out / MISSING}",
            )
        )
    lines.append(("folder", f"{out}{'' if written.is_new else ' (was there already)'}"))
    show.facts(out_console, lines)
    if settings.images == "none":
        show.next_step(out_console, f"blindpairs hydrate {out} --shards SHARD", "to add the images")
    return PARTIAL if done.missing else 0


@click.command()
@click.argument("folder", metavar="FOLDER", type=_LOCAL)
@click.option(
    "--shards",
    multiple=True,
    metavar="SHARD",
    help="Your copy of the corpus, as `mine` takes it; may be given several times.",
)
@click.option("--images-dir", type=_LOCAL, help="A folder of image files, whatever their names.")
@click.option("--out", type=_LOCAL, help="Make another folder; FOLDER keeps the ids.")
@click.option(
    "--skip-missing", is_flag=True, help="Leave out pairs with a missing image (needs --out)."
)
def hydrate(
    folder: Path,
    shards: Sequence[str],
    images_dir: Path | None,
    out: Path | None,
    skip_missing: bool,
) -> int:
    """Fill a hand-off of ids with your own copy's images.

    Each is checked by its sha256.
    """
    from miner.handoff.folder import MISSING
    from miner.handoff.hydrate import hydrate as fill
    from pipelines import show

    done = fill(folder, shards=shards, images_dir=images_dir, skip_missing=skip_missing, out=out)
    if done.was_whole:
        show.facts(out_console, [("folder", f"{folder} has its images already")])
        return 0
    num_found = done.num_images - len(done.missing)
    show.facts(out_console, [("found", f"{num_found} of {done.num_images} images")])
    for image in done.missing[:_SHOWN]:
        where = f"{image['shard']}: {image['member']}"
        url = f", or {image['url']!r}" if image["url"] else ""
        out_console.print(f"missing: {image['sha256']}, once at {where!r}{url}", markup=False)
    if len(done.missing) > _SHOWN:
        out_console.print(f"... and {len(done.missing) - _SHOWN} more")
    if done.written is None:
        show.facts(
            out_console,
            [
                ("all missing", str(folder / MISSING)),
                ("folder", f"{folder} stays as it is; give more shards, or --skip-missing --out"),
            ],
        )
        return PARTIAL
    left_out = f", {done.num_left_out} left out" if done.num_left_out else ""
    show.facts(
        out_console,
        [
            ("handed off", f"{done.written.num_pairs} pairs{left_out}"),
            ("folder", str(done.written.folder)),
        ],
    )
    return PARTIAL if done.missing else 0
