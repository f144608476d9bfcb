"""Providers in turn on the same vectors, round after round, and the rows that come of it.

Shape suffixes: P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from bench.growth import Pace
from bench.memory import measure
from bench.providers import Provider, Statistics
from bench.rows import Row, blank_row
from bench.targets import judged
from bench.truth import Truth, WrongPairsError, agreed_truth, check, keys_of, known_truth
from bench.vectors import Vectors

WARM_UP_ROWS = 512

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """What one provider did on one set of vectors.

    Attributes:
        provider: who.
        elapsed_s: by round; a provider that was out of patience has no later rounds.
        peak_bytes: likewise, where the system tells.
        keys_P: the pairs of the last round, from `bench.truth.keys_of`.
        statistics: what the provider said of itself then.
        failures: why it did not finish; one at most, and it is not run again then.
    """

    provider: Provider
    elapsed_s: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    keys_P: list[np.ndarray] = field(default_factory=list)
    statistics: Statistics = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def run_rounds(
    providers: Iterable[Provider],
    vectors: Vectors,
    *,
    repeats: int,
    patience_s: float,
    device: str = "cpu",
) -> list[Runs]:
    """Run every provider once, then every one again, so that all meet the same machine.

    Each is warmed up first, so that no figure holds a library's loading: on a few rows, and on a
    GPU once on all of them, so that no figure holds Triton's compiling either. A provider that
    fails is left out from then on, with the reason.

    Args:
        providers: who takes part, in this order.
        vectors: what they join.
        repeats: rounds.
        patience_s: a provider that has taken longer in all sits out the rounds that are left.
        device: where the vectors lie.
    """
    runs = [Runs(provider=provider) for provider in providers]
    few = (vectors.clip_ND[:WARM_UP_ROWS], vectors.dino_NE[:WARM_UP_ROWS])
    whole = (vectors.clip_ND, vectors.dino_NE)
    thresholds = (vectors.clip_above, vectors.dino_below)
    for run in runs:
        # On a GPU the width, the number of rows and the stage decide what is compiled.
        _attempt(run, partial(run.provider.join, *(whole if _on_gpu(device) else few), *thresholds))
    for round_ in range(repeats):
        for run in runs:
            if run.failures or (round_ and sum(run.elapsed_s) > patience_s):
                continue
            join = partial(run.provider.join, *whole, *thresholds)
            measured = _attempt(run, partial(measure, join, device))
            if measured is None:
                continue
            run.elapsed_s.append(measured.elapsed_s)
            if measured.peak_bytes is not None:
                run.peak_bytes.append(measured.peak_bytes)
            run.keys_P[:] = [keys_of(measured.result, len(vectors))]
            run.statistics.update(run.provider.statistics())
    return runs


def _on_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _attempt(run: Runs, call: Callable[[], Result]) -> Result | None:
    """What a call gives; None where it fails, and the provider is known to have failed."""
    try:
        return call()
    except WrongPairsError:
        raise
    except Exception as error:
        # Out of memory, or a foreign library: the others go on.
        run.failures.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.100}")
        return None


def measure_vectors(
    name: str,
    vectors: Vectors,
    providers: list[Provider],
    pace: Pace,
    *,
    repeats: int,
    patience_s: float,
    device: str = "cpu",
    go_on: bool = False,
) -> list[Row]:
    """All rows of one set of vectors.

    Args:
        name: the benchmark.
        vectors: what is joined.
        providers: who joins.
        pace: who is too slow, which gets a row that says so; told how long the others took.
        repeats: as in `run_rounds`.
        patience_s: likewise.
        device: likewise.
        go_on: whether wrong pairs are a failure of their provider alone, with a row that says so.

    Raises:
        WrongPairsError: somebody's pairs are wrong and `go_on` is not set; there are no rows then.
    """
    blank = replace(blank_row(name, device), data=vectors.data, shape=vectors.shape)
    reasons = {provider.name: pace.why_not(provider, len(vectors)) for provider in providers}
    skipped = [
        _of(provider, blank).measured("time", [], unit="s", note=reasons[provider.name])
        for provider in providers
        if reasons[provider.name]
    ]
    runs = run_rounds(
        [provider for provider in providers if not reasons[provider.name]],
        vectors,
        repeats=repeats,
        patience_s=patience_s,
        device=device,
    )
    done = [run for run in runs if not run.failures]
    for run in done:
        pace.last[run.provider.name] = (len(vectors), min(run.elapsed_s))
    found = {run.provider.name: run.keys_P[0] for run in done}
    truth = agreed_truth(known_truth(vectors), found, vectors)
    recalls = {}
    for run in done:
        try:
            recalls[run.provider.name] = check(run.provider, run.keys_P[0], truth, vectors)
        except WrongPairsError as error:
            if not go_on:
                raise
            run.failures.append(str(error))
    failed = [
        _of(run.provider, blank).measured(
            "time", [], unit="s", note=f"failed at N = {len(vectors)}: {run.failures[0]}"
        )
        for run in runs
        if run.failures
    ]
    runs = [run for run in runs if not run.failures]
    rows = []
    for run in runs:
        recall = recalls[run.provider.name]
        base = _of(run.provider, blank)
        rows += _own_rows(run, recall, truth, base, on_gpu=vectors.clip_ND.is_cuda)
        rows += _ratio_rows(run, runs, base)
    return [judged(row) for row in rows] + skipped + failed


def _of(provider: Provider, blank: Row) -> Row:
    return replace(blank, provider=provider.name, dtype=provider.dtype)


def _own_rows(run: Runs, recall: float, truth: Truth, base: Row, *, on_gpu: bool) -> list[Row]:
    """Time, memory, pairs, recall and statistics of one provider."""
    peaks = [peak / 1e6 for peak in run.peak_bytes]
    counted = ", of torch's allocator" if on_gpu else ", of the process"
    return [
        base.measured("time", run.elapsed_s, unit="s", note=run.provider.note),
        base.measured("peak memory", peaks, unit="MB", note=f"above the vectors{counted}"),
        base.measured("pairs", [len(run.keys_P[0])]),
        base.measured("recall", [recall], note=f"truth: {truth.source}"),
        *(
            base.measured(metric, [] if value is None else [value], note=note)
            for metric, (value, note) in run.statistics.items()
        ),
    ]


def _ratio_rows(run: Runs, runs: list[Runs], base: Row) -> list[Row]:
    """One provider's time over every other's, round by round."""
    return [
        base.measured(
            f"time / {peer.provider.name}",
            [a / b for a, b in zip(run.elapsed_s, peer.elapsed_s, strict=False)],
            unit="ratio",
        )
        for peer in runs
        if peer is not run
    ]
