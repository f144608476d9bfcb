"""The join on a GPU: the device's ceilings first, then the own kernel against its peers up to 4 M.

    python -m bench.join_gpu --out results/join_gpu.csv

Rows are appended after every N. Run again with the same file, it does only what is not in it yet.
`--device cpu` with small numbers runs every part without a GPU. torch, triton, numpy and click are
enough; peers that are not installed get a row that says so.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import torch

from bench.choices import numbers
from bench.growth import Pace, growth_rows
from bench.own_kernel import kernel_provider, stage_providers
from bench.peers_gpu import gpu_peers
from bench.providers import Provider
from bench.roofline import NAME as CEILING
from bench.roofline import ceilings, roofline_rows
from bench.rounds import measure_vectors
from bench.rows import Row, append_rows, blank_row, read_rows
from bench.terminal import show
from bench.vectors import SYNTHETIC, synthetic

NAME = "join-gpu"
ROWS = "50000,200000,500000,1000000,2000000,4000000"


def loading(
    peers: list[Provider], device: str, dim: int, dino_dim: int
) -> tuple[list[Provider], list[Row]]:
    """Peers that answer a small join on a device, and a row for each other that says why not."""
    few = synthetic("anisotropic", 256, dim=dim, dino_dim=dino_dim, device=device)
    good, rows = [], []
    for peer in peers:
        blank = replace(blank_row(NAME, device), provider=peer.name, dtype=peer.dtype)
        reason = "" if peer.is_here else f"{peer.needs} is not installed"
        try:
            if not reason:
                peer.join(few.clip_ND, few.dino_NE, few.clip_above, few.dino_below)
        except Exception as error:
            # A foreign library fails in its own way on a machine it was not built for.
            reason = f"{type(error).__name__}: {str(error).partition('.')[0]:.100}"
        if reason:
            rows.append(blank.measured("time", [], unit="s", note=f"does not run here: {reason}"))
        else:
            good.append(peer)
    return good, rows


def resumed(known: list[Row], limit_s: float) -> tuple[set[tuple[str, str, str]], Pace]:
    """What a file already holds of this device and version: data, shape and provider; the pace."""
    done, pace = set(), Pace(limit_s=limit_s)
    for row in known:
        if row.name == NAME and row.metric == "time" and row.shape:
            done.add((row.data, row.shape, row.provider))
            if row.median is not None:
                pace.last[row.provider] = (row.num_rows, row.median)
    return done, pace


def known_rows(out: Path, device: str) -> list[Row]:
    """Rows of a file that were measured on this device by this version."""
    here = blank_row(NAME, device)
    rows = read_rows(out) if out.exists() else []
    return [row for row in rows if (row.device, row.commit) == (here.device, here.commit)]


@click.command()
@click.option("--device", default="cuda", show_default=True)
@click.option("--data", type=click.Choice(SYNTHETIC), default=SYNTHETIC[0])
@click.option("--rows", "sizes", default=ROWS, show_default=True, help="N, comma-separated")
@click.option("--dim", default=768, show_default=True, help="D")
@click.option("--dino-dim", default=1024, show_default=True, help="E")
@click.option("--matmul", default=8192, show_default=True, help="rows of the ceilings' products")
@click.option("--copy-bytes", default=1 << 32, show_default=True, help="of the ceilings' copy")
@click.option("--repeats", default=3, show_default=True, help="rounds")
@click.option("--patience-s", default=10.0, show_default=True, help="as in bench.join")
@click.option("--limit-s", default=60.0, show_default=True, help="longer runs are skipped")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(
    device: str,
    data: str,
    sizes: str,
    dim: int,
    dino_dim: int,
    matmul: int,
    copy_bytes: int,
    repeats: int,
    patience_s: float,
    limit_s: float,
    out: Path,
) -> None:
    """Measure the join of N images on a GPU; what the file holds already is not done again."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError(
            "there is no CUDA device here; --device cpu runs every part, at small N"
        )
    known = known_rows(out, device)
    if not any(row.name == CEILING for row in known):
        rows = ceilings(device, size=matmul, width=dim, copy_bytes=copy_bytes, repeats=10)
        _keep(out, rows)
        known += rows
    own = kernel_provider(device)
    if own is None:
        click.echo("this version has no kernel for GPUs: the peers are measured alone")
    peers, absent = loading(gpu_peers(), device, dim, dino_dim)
    told = {row.provider for row in known if not row.shape}
    _keep(out, [row for row in absent if row.provider not in told])
    # The own kernel and its strongest peer first, in case the time runs out.
    peers.sort(key=lambda peer: peer.name != "torch-fp16")
    providers = [own, *peers, *stage_providers(device)] if own else peers
    done, pace = resumed(known, limit_s)
    grown = False
    for num_rows in numbers(sizes):
        shape = f"{num_rows}x{dim}+{dino_dim}"
        missing = [one for one in providers if (data, shape, one.name) not in done]
        if missing:
            vectors = synthetic(data, num_rows, dim=dim, dino_dim=dino_dim, device=device)
            rows = measure_vectors(
                NAME, vectors, missing, pace,
                repeats=repeats, patience_s=patience_s, device=device, go_on=True,
            )  # fmt: skip
            _keep(out, rows + roofline_rows(rows, known))
            grown = True
    if grown:
        _keep(out, [row for row in growth_rows(known_rows(out, device)) if row.data == data])
    for row in known_rows(out, device):
        if own and row.provider == own.name and row.note.startswith("failed at"):
            raise click.ClickException(f"{own.name} {row.note}")


def _keep(out: Path, rows: list[Row]) -> None:
    append_rows(out, rows)
    show(rows)


if __name__ == "__main__":
    main()
