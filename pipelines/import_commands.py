"""`blindpairs import`: embeddings that were made elsewhere become a run.

It imports what it runs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.command_line import PARTIAL, out, out_console

if TYPE_CHECKING:
    from miner.importing.into_run import Imported

FORMATS = ("clip-retrieval", "npy", "parquet")
_FILE = click.Path(exists=True, path_type=Path)


@click.command(name="import")
@click.argument("format", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("source", metavar="SRC", type=_FILE)
@out
@click.option("--encoder", "name", required=True, help="Whose vectors: a name of the registry.")
@click.option("--dim", type=click.IntRange(min=1), help="Vectors' length, of any other encoder.")
@click.option("--weights-sha256", help="Of the weights file that made the vectors, if known.")
@click.option("--dataset", help="Name of the corpus; default: the run's only one, or SRC's name.")
@click.option("--ids", type=_FILE, help="npy: ids of all rows, one a line, or CSV or Parquet.")
@click.option("--id-column", help="Column by which an image is known; default: key, id, path, ...")
@click.option("--vector-column", help="parquet: column of the vectors; default: the only lists.")
@click.option("--by-position", is_flag=True, help="Images are their row numbers in their parts.")
@click.option(
    "--max-bad-fraction",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of refused rows above which the import counts as partial (exit code 3).",
)
def import_command(
    format: str,
    source: Path,
    out: Path | str,
    name: str,
    dim: int | None,
    weights_sha256: str | None,
    dataset: str | None,
    ids: Path | None,
    id_column: str | None,
    vector_column: str | None,
    by_position: bool,
    max_bad_fraction: float,
) -> int:
    """Import embeddings of one encoder.

    FORMAT is clip-retrieval, npy or parquet.

    The first encoder brings the images, a second one is matched to them by their ids.
    """
    from miner.importing.encoder import imported_encoder
    from miner.importing.into_run import dataset_of, import_embeddings
    from miner.importing.sources import open_source
    from miner.names import safe_name
    from miner.store import Store
    from pipelines.driver import command_of
    from pipelines.progress import ImportProgress

    parts = open_source(
        format,
        source,
        ids=ids,
        id_column=id_column,
        vector_column=vector_column,
        by_position=by_position,
    )
    encoder = imported_encoder(
        name, parts[0].vectors.dim, weights_sha256=weights_sha256, declared_dim=dim
    )
    store = Store(out)
    dataset = dataset_of(store, dataset, safe_name(source.absolute().name.split(".")[0]))
    said = {"format": format, "encoder": name, "dataset": dataset}
    how = "position" if by_position else "list" if ids else parts[0].id_column
    with ImportProgress() as progress:
        done = import_embeddings(
            store,
            parts,
            encoder,
            dataset=dataset,
            origin={"format": format, "source": str(source.absolute()), "ids": how},
            command=command_of("import", said),
            by_position=by_position,
            max_bad_fraction=max_bad_fraction,
            progress=progress.at,
        )
    _show(out, done)
    return PARTIAL if done.is_partial else 0


def _show(folder: Path | str, done: Imported) -> None:
    from miner.errors import StoreError
    from miner.store import Store
    from pipelines import show
    from pipelines.joins import encoders_of

    new, known = done.shards["new"], done.shards["known"]
    lines = [
        ("encoder", done.encoder_id),
        ("rows", f"{done.num_rows} in the source"),
        ("images", f"{done.num_images} of dataset {done.dataset}, {done.new_samples} rows new"),
        ("vectors", f"{done.new_vectors} new, in {new} shards; {known} shards had theirs"),
        *((f"  {reason}", str(number)) for reason, number in done.refused.most_common() if number),
    ]
    show.facts(out_console, lines)
    if done.num_missing:
        out_console.print(f"partial: {done.num_missing} images of the run are not in the source")
    if done.num_unknown:
        out_console.print(f"partial: {done.num_unknown} ids of the source are not in the run")
    if done.num_repeated:
        out_console.print(f"partial: {done.num_repeated} rows repeat an id; the first one counts")
    if done.num_bad and done.is_partial:
        out_console.print("refused rows: quarantine/*.parquet says which and why")
    try:
        clip, dino = encoders_of(Store(folder), None, None)
    except StoreError:
        # One is still to come, or nobody but the user knows which is which.
        clip, dino = "NAME", "NAME"
    why = "when both encoders are imported" if clip == "NAME" else "both encoders are imported"
    show.next_step(out_console, f"blindpairs join {folder} --clip {clip} --dino {dino}", why)
