"""The encoders: images a second of every engine and precision, against stock open_clip and timm.

    python -m bench.encode                                    both L/14 towers on CPU cores
    python -m bench.encode --device cuda --batch-size 256 --out results/encode_gpu.csv

All providers of a tower run in one process on the same pixels, in turn. First the ceilings: the
tower's own matrix products and attention, measured one by one at its shapes, whose sum is a time
that no engine can beat without leaving work out. Weights are seeded, so that nothing has to be
fetched; they are drawn so that every block matters. A provider whose pair cosines are further from
those of float32 than its precision may be gets a row that says so, and no time. Run again with the
same file, it does only what is not in it yet.

Shape suffixes: B images of a batch, D width of a vector.
"""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from pathlib import Path

import click
import torch

from bench.encode_providers import Encode, EncodeProvider, providers
from bench.encode_rows import NAME, Runs, both_rows, ceiling_rows, known_rows, tower_rows
from bench.roofline import timed
from bench.rows import Row, append_rows, blank_row
from bench.terminal import show
from bench.towers import TOWERS, load_seeded, scratch, seeded, work_of
from miner.engines import PAIR_LIMITS
from tests.towers import scenes

OUT = Path(__file__).parent / "results" / "encode.csv"
CHECKED = 16
"""Images whose pair cosines are compared with those of float32."""


def prepare(run: Runs, name: str, weights: Path, device: str, batch_size: int) -> None:
    """Build an encoder and hold its pair cosines against float32's."""
    provider = run.provider
    try:
        encode = provider.make(name, weights, device, batch_size)
        # The first call compiles, or finds algorithms.
        run.deviation = deviation(encode, name, weights, device, batch_size)
    except Exception as error:
        # A foreign library fails in its own way; the others go on.
        run.failure = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]:.120}"
        return
    limit = PAIR_LIMITS[provider.precision].max
    if not run.deviation <= limit:
        run.failure = f"pair cosines are off by {run.deviation:.2e}, limit {limit:.0e}"
        return
    run.encode = encode


def deviation(encode: Encode, name: str, weights: Path, device: str, batch_size: int) -> float:
    """Largest difference of a pair's cosine from that of `TorchEncoder` in float32."""
    truth = load_seeded(name, device, "fp32", weights)
    pixels_BCHW = torch.stack([truth.preprocess(image) for image in scenes(CHECKED)])
    shown_BCHW = pixels_BCHW.repeat(-(-batch_size // CHECKED), 1, 1, 1)[:batch_size].to(device)
    both = []
    for each in (truth, encode):
        vectors_BD = each(shown_BCHW)[:CHECKED].double().cpu()
        both.append(vectors_BD @ vectors_BD.T)
    return float((both[0] - both[1]).abs().max())


def measure(runs: list[Runs], pixels_BCHW: torch.Tensor, repeats: int, patience_s: float) -> None:
    """Rounds in which every provider that is ready encodes the batch once."""
    device = str(pixels_BCHW.device)
    ready = [run for run in runs if run.encode is not None]
    for round_ in range(repeats):
        for run in ready:
            if round_ and sum(run.elapsed_s) > patience_s:
                continue
            assert run.encode is not None
            run.elapsed_s.append(_seconds(run.encode, pixels_BCHW, device))


def _seconds(encode: Encode, pixels_BCHW: torch.Tensor, device: str) -> float:
    """Of one batch; on a GPU the mean of as many as take a moment, as in a long run."""
    if torch.device(device).type == "cuda":
        return timed(lambda: encode(pixels_BCHW), device, 1)[0]
    began = time.perf_counter()
    encode(pixels_BCHW)
    return time.perf_counter() - began


def chosen(names: str, device: str) -> list[EncodeProvider]:
    """Providers by name, comma-separated; all that can run here where it is empty.

    Raises:
        click.UsageError: a name is unknown, or it cannot run here.
    """
    known = {provider.name: provider for provider in providers()}
    if not names:
        for provider in known.values():
            if reason := provider.why_not(device):
                click.echo(f"{provider.name} is left out: {reason}")
        return [provider for provider in known.values() if not provider.why_not(device)]
    for name in names.split(","):
        if name not in known:
            raise click.UsageError(f"provider {name!r} is unknown; there are {', '.join(known)}")
        if reason := known[name].why_not(device):
            raise click.UsageError(f"{name} cannot run on {device}: {reason}")
    return [known[name] for name in names.split(",")]


def measure_tower(
    name: str,
    missing: list[EncodeProvider],
    known: list[Row],
    device: str,
    *,
    batch_size: int,
    repeats: int,
    patience_s: float,
) -> list[Row]:
    """All rows of one tower: ceilings where the file has none, then every missing provider."""
    # Compiled encoders of another tower count against dynamo's limit.
    torch.compiler.reset()
    with scratch() as folder:
        weights = seeded(name, Path(folder))
        truth = load_seeded(name, device, "fp32", weights)
        size = truth.record.image_size
        blank = replace(blank_row(NAME, device), data=name, shape=f"{batch_size}x3x{size}x{size}")
        rows = []
        if not any(row.provider == "bound" and row.data == name for row in known):
            work = work_of(truth.record, truth.module.tower)
            for dtype in ("fp32", "bf16", "fp16") if device != "cpu" else ("fp32", "bf16"):
                rows += ceiling_rows(work, blank, batch_size, dtype, device)
        bounds = {
            row.dtype: row.median
            for row in [*known, *rows]
            if row.provider == "bound" and row.data == name and row.median
        }
        pixels_BCHW = torch.stack([truth.preprocess(each) for each in scenes(batch_size, seed=1)])
        del truth
        runs = [Runs(provider=provider) for provider in missing]
        for run in runs:
            prepare(run, name, weights, device, batch_size)
            gc.collect()
        measure(runs, pixels_BCHW.to(device), repeats, patience_s)
        return rows + tower_rows(runs, blank, batch_size, bounds)


@click.command()
@click.option("--device", default="cpu", show_default=True)
@click.option("--towers", default=",".join(TOWERS), show_default=True, help="registry names")
@click.option("--providers", "names", default="", help="comma-separated; all by default")
@click.option("--batch-size", default=8, show_default=True, help="B")
@click.option("--repeats", default=3, show_default=True, help="rounds")
@click.option(
    "--patience-s",
    default=60.0,
    show_default=True,
    help="a provider that has taken longer sits out the rounds that are left",
)
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(
    device: str,
    towers: str,
    names: str,
    batch_size: int,
    repeats: int,
    patience_s: float,
    out: Path,
) -> None:
    """Measure the encoders; what the file holds already is not done again."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("there is no CUDA device here; give --device cpu")
    wanted = chosen(names, device)
    measured = 0
    for name in towers.split(","):
        known = known_rows(out, device, batch_size)
        done = {row.provider for row in known if row.data == name and row.metric == "images/s"}
        missing = [provider for provider in wanted if provider.name not in done]
        if not missing:
            continue
        rows = measure_tower(
            name, missing, known, device,
            batch_size=batch_size, repeats=repeats, patience_s=patience_s,
        )  # fmt: skip
        _keep(out, rows)
        measured += len(rows)
    if measured:
        known = known_rows(out, device, batch_size)
        shape = next(row.shape for row in known if row.data in TOWERS)
        _keep(out, both_rows(known, replace(blank_row(NAME, device), shape=shape)))


def _keep(out: Path, rows: list[Row]) -> None:
    append_rows(out, rows)
    show(rows)


if __name__ == "__main__":
    main()
