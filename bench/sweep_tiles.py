"""Which tile is fastest on this GPU, and how near does it come to a plain matrix product?

    python -m bench.sweep_tiles --out results/sweep_tiles.csv

Tile by tile, the shipped one first, rows at full width and int8 codes in turn: first the pairs of
a small join are compared with the reference's, then the tile kernel and torch.mm (16-bit rows, at
the same width) take turns over one super-block. Rows are appended after every tile; run again with
the same file, it does only what is not in it yet. Exit code 1 where a tile that ships is not exact
or does not run. With TRITON_INTERPRET=1 and small numbers every
part runs without a GPU, and its figures mean nothing.

Shape suffixes: N rows, D width.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from bench.rows import Row, append_rows, blank_row, read_rows
from kernels import gpu, reference
from kernels.axes import find_axes
from kernels.dual_threshold import INTERPRETED
from kernels.gpu_rows import encode, rows_floor, screen_rows, to_device
from kernels.gpu_screens import CodesScreen, RowsScreen, Screen, room
from kernels.gpu_stages import Limits, Stage
from kernels.reference import Pairs, concatenate
from kernels.tiles import CODE_WIDTH, CODES, ROWS, Tile, architecture

NAME = "sweep-tiles"
ABOVE = 0.95
CHECK_ROWS = 1500

TOO_LARGE = (OutOfResources, CompilationError, PTXASError)
"""What a tile that is too large for the device fails with, in the driver or the compiler."""


def tiles(stage: Stage, arch: int) -> Iterator[Tile]:
    """Tiles worth a try, the shipped one first."""
    shipped = (ROWS if stage == "full" else CODES)[arch]
    yield shipped
    if stage == "full":
        for group in (4, 16):
            yield replace(shipped, group=group)
        for columns, depth, warps, stages in (
            (256, 64, 8, 3), (256, 64, 8, 4), (256, 32, 8, 4), (128, 64, 4, 3), (128, 64, 8, 3),
            (128, 64, 4, 4), (128, 128, 8, 2), (128, 32, 4, 4),
        ):  # fmt: skip
            yield Tile(
                rows=128, columns=columns, depth=depth, group=8, num_warps=warps, num_stages=stages
            )
        return
    for group in (8, 16, 64):
        yield replace(shipped, group=group)
    for rows, columns, warps, stages in (
        (128, 128, 4, 2), (128, 128, 4, 4), (128, 128, 8, 3), (128, 256, 8, 3), (128, 256, 8, 2),
        (256, 128, 8, 3), (128, 64, 4, 4),
    ):  # fmt: skip
        yield Tile(
            rows=rows, columns=columns, depth=CODE_WIDTH, group=32, num_warps=warps,
            num_stages=stages, max_registers=168,
        )  # fmt: skip


def vectors(num_rows: int, dim: int, device: torch.device) -> torch.Tensor:
    """[N, D] float16: random rows of any length, every thousandth nearly a copy of the first."""
    generator = torch.Generator(device=device).manual_seed(0)
    rows_ND = torch.randn(num_rows, dim, generator=generator, device=device)
    noise_ND = 0.2 * torch.randn(num_rows, dim, generator=generator, device=device)
    rows_ND[::1000] = rows_ND[0] + noise_ND[::1000]
    return rows_ND.half()


def is_exact(stage: Stage, tile: Tile, dim: int) -> bool:
    """Whether a small join with this tile gives the reference's pairs."""
    clip_ND = vectors(CHECK_ROWS, dim, torch.device("cpu"))
    clip_ND[::7] = clip_ND[3] * 2
    sets = (clip_ND, None), (clip_ND[:, :8], None)
    how = Limits(tile=tile, block_rows=1024)
    ours = concatenate(list(gpu.candidates(*sets, clip_above=ABOVE, stage=stage, limits=how)))
    truth = concatenate(list(reference.candidates(*sets, clip_above=ABOVE)))
    return _keys(ours) == _keys(truth)


def _keys(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))


def screen(stage: Stage, tile: Tile, rows_ND: torch.Tensor) -> Screen:
    """The screen of a stage over one super-block."""
    rows = to_device(rows_ND, "clip", rows_ND.device)
    if stage == "full":
        a = screen_rows(rows, torch.float16, tile.depth)
        floor = rows_floor(ABOVE, a, a)
        return RowsScreen(a=a, b=a, floor=floor, tile=tile, block_rows=len(rows))
    codes = encode(rows.rows_ND, find_axes(rows.sample(4096), CODE_WIDTH))
    return CodesScreen(
        a=codes, b=codes, num_a=len(rows), num_b=len(rows), above=ABOVE, tile=tile,
        block_rows=len(codes),
    )  # fmt: skip


def elapsed_s(work: Callable[[], object]) -> float:
    """Seconds on the device."""
    if INTERPRETED:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1000


def measure(stage: Stage, tile: Tile, rows_ND: torch.Tensor, blank: Row, rounds: int) -> list[Row]:
    """Rows of one tile: rates of both, and their ratio; or the reason why there is none."""
    try:
        exact = is_exact(stage, tile, rows_ND.shape[1])
    except (*TOO_LARGE, RuntimeError) as error:
        # Triton's own passes fail with a plain RuntimeError.
        if not isinstance(error, TOO_LARGE) and "PassManager::run failed" not in str(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        return [blank.measured("rate", [], unit="TFLOP/s", note=f"does not run: {reason:.120}")]
    if not exact:
        return [blank.measured("rate", [], unit="TFLOP/s", note="wrong pairs: not measured")]
    screening, num_rows = screen(stage, tile, rows_ND), len(rows_ND)
    records = room(num_rows * 4, tile, rows_ND.device)
    products_NN = torch.empty(num_rows, num_rows, dtype=rows_ND.dtype, device=rows_ND.device)

    def ours() -> None:
        records.counter.zero_()
        screening.append(0, 0, records, diagonal=False)

    def theirs() -> None:
        torch.mm(rows_ND, rows_ND.T, out=products_NN)

    for work in (ours, theirs):
        elapsed_s(work)
    times = [(elapsed_s(ours), elapsed_s(theirs)) for _ in range(rounds)]
    # Both at the rows' full width: what a rate means for codes is how much work they save.
    tera = 2 * num_rows**2 * rows_ND.shape[1] / 1e12
    mm = replace(blank, provider="torch.mm")
    return [
        blank.measured("rate", [tera / own for own, _ in times], unit="TFLOP/s"),
        mm.measured("rate", [tera / peer for _, peer in times], unit="TFLOP/s"),
        blank.measured("ratio to torch.mm", [peer / own for own, peer in times]),
    ]


def measured_before(out: Path, device: str) -> set[str]:
    """The tiles that a file has a rate of, from this device and this commit."""
    here = blank_row(NAME, device)
    rows = read_rows(out) if out.exists() else []
    return {
        row.data
        for row in rows
        if row.metric == "rate"
        and row.median is not None
        and (row.device, row.commit) == (here.device, here.commit)
    }


def main() -> None:
    """Measure every tile that the file does not hold yet."""
    parser = argparse.ArgumentParser(description="Tiles of the Triton join against torch.mm.")
    parser.add_argument("--out", type=Path, required=True, help="CSV to append to")
    parser.add_argument("--rows", type=int, default=65_536, help="rows of the super-block")
    parser.add_argument("--dim", type=int, default=768, help="width of a row")
    parser.add_argument("--rounds", type=int, default=9, help="repeats")
    parser.add_argument("--shipped", action="store_true", help="only the tiles that ship")
    options = parser.parse_args()
    device = torch.device("cpu" if INTERPRETED else "cuda")
    arch = 90 if INTERPRETED else architecture(torch.cuda.get_device_capability())
    known = measured_before(options.out, device.type)
    failed = []
    rows_ND = vectors(options.rows, options.dim, device)
    choices = {stage: list(tiles(stage, arch)) for stage in ("full", "int8")}
    for turn in range(1 if options.shipped else max(map(len, choices.values()))):
        for stage in ("full", "int8"):
            if turn >= len(choices[stage]):
                continue
            tile = choices[stage][turn]
            named = " ".join(f"{key}={value}" for key, value in asdict(tile).items())
            blank = replace(
                blank_row(NAME, device.type),
                provider=f"triton {stage}",
                data=f"{stage} {named}" + (" (shipped)" if turn == 0 else ""),
                shape=f"{options.rows}x{options.dim}",
                dtype="float16" if stage == "full" else "int8",
            )
            if blank.data in known:
                continue
            measured = measure(stage, tile, rows_ND, blank, options.rounds)
            append_rows(options.out, measured)
            if turn == 0 and measured[0].median is None:
                failed.append(f"{stage}: {measured[0].note}")
            for row in measured:
                sys.stdout.write(
                    f"{row.data} {row.provider} {row.metric} {row.median} {row.note}\n"
                )
            sys.stdout.flush()
    if failed:
        raise SystemExit(f"tiles that ship failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
