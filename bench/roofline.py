"""Ceilings of a device: the fastest matrix products and copies that torch makes of random data.

A join of N rows of width D has N (N - 1) / 2 useful products of D multiplications and additions;
its share of the roofline is that work over its time, over the product of the same width K = D.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from bench.rows import Row, blank_row
from kernels.tiles import CODE_WIDTH

NAME = "ceiling"

LEAST_S = 0.05
"""How long a timed stretch on a GPU lasts at least: launches then count for nothing."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)


def ceilings(device: str, *, size: int, width: int, copy_bytes: int, repeats: int) -> list[Row]:
    """Rows of products [size, K] x [K, size] for K = size and K = width, and of a copy.

    int8 also for the width of a code, K = 128.

    Args:
        device: torch's name.
        size: rows and columns of a product; 8192 fills a large GPU.
        width: K of the narrow products, the D of a join.
        copy_bytes: how much is copied.
        repeats: timed calls of each.
    """
    blank = blank_row(NAME, device)
    rows = []
    for dtype in DTYPES:
        inners = (size, width, CODE_WIDTH) if dtype == torch.int8 else (size, width)
        for inner in dict.fromkeys(inners):
            a, b = (_random(size, inner, dtype, device) for _ in range(2))
            multiply = torch._int_mm if dtype == torch.int8 else torch.mm
            seconds = timed(partial(multiply, a, b.T), device, repeats)
            work = 2 * size * size * inner
            rows.append(
                _on(blank, dtype, f"{size}x{inner}").measured(
                    "matmul", [work / s / 1e12 for s in seconds], unit="TFLOP/s"
                )
            )
    source = torch.randint(0, 100, (copy_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = timed(partial(target.copy_, source), device, repeats)
    rates = [2 * copy_bytes / s / 1e12 for s in seconds]
    note = "bytes read and written"
    rows.append(_on(blank, torch.uint8, "").measured("copy", rates, unit="TB/s", note=note))
    return rows


def _on(blank: Row, dtype: torch.dtype, shape: str) -> Row:
    return replace(blank, provider="torch", dtype=str(dtype).removeprefix("torch."), shape=shape)


def _random(rows: int, columns: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    if dtype == torch.int8:
        return torch.randint(-127, 128, (rows, columns), dtype=dtype, device=device)
    return torch.randn(rows, columns, device=device).to(dtype)


def timed(call: Callable[[], torch.Tensor], device: str, repeats: int) -> list[float]:
    """Seconds of every call, after one that does not count."""
    if torch.device(device).type == "cuda":
        return _timed_by_events(call, repeats)
    seconds = []
    for repeat in range(repeats + 1):
        began = time.perf_counter()
        call()
        if repeat:
            seconds.append(time.perf_counter() - began)
    return seconds


def _timed_by_events(call: Callable[[], torch.Tensor], repeats: int) -> list[float]:
    """Seconds of a call on the device, each over as many calls as take `LEAST_S`."""

    def elapsed_s(num_calls: int) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(num_calls):
            call()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1000

    elapsed_s(1)
    num_calls = max(1, math.ceil(LEAST_S / max(elapsed_s(1), 1e-6)))
    return [elapsed_s(num_calls) / num_calls for _ in range(repeats)]


def roofline_rows(rows: list[Row], known: list[Row]) -> list[Row]:
    """For every time of a join, its share of the product's ceiling at the same width.

    Args:
        rows: of a join.
        known: rows that hold the ceilings of the same device.
    """
    ceiling = {
        (row.device, row.dtype, int(row.shape.split("x")[1])): row.median
        for row in known
        if row.name == NAME and row.metric == "matmul" and row.median
    }
    found = []
    for row in rows:
        if row.metric != "time" or not row.median:
            continue
        dim = int(row.shape.partition("x")[2].partition("+")[0])
        # Providers that mix number formats, or for whose format there is none, meet bfloat16's.
        dtype = row.dtype if (row.device, row.dtype, dim) in ceiling else "bfloat16"
        limit = ceiling.get((row.device, dtype, dim))
        if limit is not None:
            rate = row.num_rows * (row.num_rows - 1) * dim / row.median / 1e12
            note = f"{rate:.4g} useful TFLOP/s of {limit:.4g} ({dtype} product, K = {dim})"
            found.append(row.measured("roofline", [100 * rate / limit], unit="%", note=note))
    return found
