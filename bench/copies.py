"""Near-copies: many re-encoded copies of one picture must not slow their collapse down.

python -m bench.copies --rows 200000 --copies 100000
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np

from bench.memory import measure
from bench.rows import Row, append_rows, blank_row
from bench.targets import judged
from bench.terminal import show
from bench.vectors import Vectors, crowd, synthetic
from miner.copies import near_copies_in_buckets

NAME = "copies"
OUT = Path(__file__).parent / "results" / "copies.csv"
NEAR_CLIP, NEAR_DINO = 0.99, 0.95


def leaders_of(vectors: Vectors) -> np.ndarray:
    """[N] the row that stands for each row: the one place that knows how near-copies are found."""
    return near_copies_in_buckets(
        vectors.clip_ND, vectors.dino_NE, near_clip=NEAR_CLIP, near_dino=NEAR_DINO
    )


def check(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Compare leaders.

    Raises:
        click.ClickException: they differ; no row is written then.
    """
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        row = wrong[0]
        raise click.ClickException(
            f"{what}: {len(wrong)} of {len(found)} rows have another leader than they should, "
            f"such as row {row} with {found[row]} instead of {expected[row]}; no row is written"
        )


def compare(without: Vectors, num_copies: int, repeats: int) -> list[Row]:
    """Time and memory with the copies and without, in turn.

    Args:
        without: vectors among which there are no near-copies.
        num_copies: how many of them are replaced by copies of one picture.
        repeats: rounds.
    """
    num_rows = len(without)
    with_copies, places = crowd(without, num_copies)
    alone = np.arange(num_rows)
    crowded = alone.copy()
    crowded[places.numpy()] = int(places[0])
    cases = {
        "without copies": (without, alone),
        f"{num_copies} copies": (with_copies, crowded),
    }
    seconds: dict[str, list[float]] = {case: [] for case in cases}
    peaks: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case, (vectors, expected) in cases.items():
            measured = measure(partial(leaders_of, vectors))
            check(measured.result, expected, case)
            seconds[case].append(measured.elapsed_s)
            if measured.peak_bytes is not None:
                peaks[case].append(measured.peak_bytes / 1e6)
    blank = replace(
        blank_row(NAME), provider="collapse near", data=without.data, shape=without.shape
    )
    rows = []
    for case in cases:
        rows.append(blank.measured(f"time, {case}", seconds[case], unit="s"))
        rows.append(blank.measured(f"peak memory, {case}", peaks[case], unit="MB"))
    plain, crowd_s = seconds.values()
    ratios = [b / a for a, b in zip(plain, crowd_s, strict=True)]
    note = f"with {num_copies} copies"
    rows.append(blank.measured("time / without copies", ratios, unit="ratio", note=note))
    return [judged(row) for row in rows]


@click.command()
@click.option("--rows", "num_rows", default=200_000, show_default=True, help="N")
@click.option("--copies", default=100_000, show_default=True, help="how many show one picture")
@click.option("--dim", default=768, show_default=True, help="D")
@click.option("--dino-dim", default=1024, show_default=True, help="E")
@click.option("--repeats", default=3, show_default=True, help="rounds")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(num_rows: int, copies: int, dim: int, dino_dim: int, repeats: int, out: Path) -> None:
    """Measure the collapse of near-copies with a crowd of them and without."""
    without = synthetic("anisotropic", num_rows, dim=dim, dino_dim=dino_dim)
    rows = compare(without, copies, repeats)
    append_rows(out, rows)
    show(rows)


if __name__ == "__main__":
    main()
