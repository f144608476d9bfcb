"""The join on CPU cores: time, memory and recall of the own implementations against their peers.

    python -m bench.join --data anisotropic --rows 1000,10000,50000

All providers run in one process on the same vectors, in turn. Rows are appended to a CSV file after
every N; the terminal gets the ones a person wants at once. Exit code 1, and no row, where a
provider's pairs are wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from bench.choices import chosen, numbers
from bench.growth import Pace, growth_rows
from bench.own import own_providers
from bench.peers import PEERS
from bench.rounds import measure_vectors
from bench.rows import AMX_LIMIT, append_rows, read_rows
from bench.terminal import show
from bench.truth import WrongPairsError
from bench.vectors import SYNTHETIC, Vectors, demo, synthetic

NAME = "join"
ROWS = "1000,2000,5000,10000,20000,50000"
OUT = Path(__file__).parent / "results" / "join.csv"
DEMO = Path("runs") / "bench"

WITHOUT_AMX = "AVX512_CORE_VNNI"
"""The widest set of instructions that oneDNN knows below bfloat16's and AMX."""


def rerun_without_amx() -> int:
    """This command again in a process that is told to use no AMX; its exit code."""
    environment = {**os.environ, AMX_LIMIT: WITHOUT_AMX}
    words = [word for word in sys.argv[1:] if word != "--without-amx"]
    return subprocess.run(
        [sys.executable, "-m", "bench.join", *words], env=environment, check=False
    ).returncode


def vectors_of(data: str, num_rows: int, *, dim: int, dino_dim: int, seed: int) -> Vectors:
    """The vectors that the options name."""
    if data == "demo":
        return demo(num_rows, DEMO / f"scenes-{num_rows}")
    return synthetic(data, num_rows, dim=dim, dino_dim=dino_dim, seed=seed)


@click.command()
@click.option("--data", type=click.Choice([*SYNTHETIC, "demo"]), default=SYNTHETIC[0])
@click.option("--rows", "sizes", default=ROWS, show_default=True, help="N, comma-separated")
@click.option("--providers", "names", default="", help="comma-separated; all by default")
@click.option("--dim", default=768, show_default=True, help="D")
@click.option("--dino-dim", default=1024, show_default=True, help="E")
@click.option("--seed", default=0, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="rounds")
@click.option(
    "--patience-s",
    default=60.0,
    show_default=True,
    help="a provider that has taken longer at one N sits out the rounds that are left",
)
@click.option("--limit-s", default=1800.0, show_default=True, help="longer runs are skipped")
@click.option("--without-amx", is_flag=True, help="in a process that is told to use no AMX")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(
    data: str,
    sizes: str,
    names: str,
    dim: int,
    dino_dim: int,
    seed: int,
    repeats: int,
    patience_s: float,
    limit_s: float,
    without_amx: bool,
    out: Path,
) -> None:
    """Measure the join of N images: own implementations and peers, in turn."""
    if without_amx:
        raise SystemExit(rerun_without_amx())
    providers = chosen(names, [*own_providers(), *PEERS])
    pace = Pace(limit_s=limit_s)
    measured: set[tuple[str, str, str]] = set()
    for num_rows in numbers(sizes):
        vectors = vectors_of(data, num_rows, dim=dim, dino_dim=dino_dim, seed=seed)
        try:
            rows = measure_vectors(
                NAME, vectors, providers, pace, repeats=repeats, patience_s=patience_s
            )
        except WrongPairsError as error:
            raise click.ClickException(str(error)) from error
        append_rows(out, rows)
        show(rows)
        measured |= {(row.provider, row.device, row.commit) for row in rows}
    # The file also holds what other machines and versions did; their exponents are in it already.
    grown = [
        row
        for row in growth_rows(read_rows(out))
        if row.data == data and (row.provider, row.device, row.commit) in measured
    ]
    append_rows(out, grown)
    show(grown)


if __name__ == "__main__":
    main()
