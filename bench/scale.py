"""What Ray costs beside doing the same work inline, and what a second worker gives.

    python -m bench.scale --shards 60
    python -m bench.scale --shards 4 --shard-size 100 --repeats 1      # quick, to see it run

Inline, one Ray worker and two take turns on the same shards of rendered scenes, each worker bound
to a core of its own. The inline run has a fresh process, as every actor has: one that has run
before has its libraries loaded and its memory warm. Time runs from the moment at which a first
worker is ready to the last commit, so that neither starting actors nor loading weights is in it.
Exit code 1, and no row, where a run's vectors are not those of the inline one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np
import torch

from bench.rows import Row, append_rows, blank_row
from bench.targets import judged
from bench.terminal import show
from miner.config import EmbedSettings, ExecutorSettings, ReadSettings
from miner.embed import reading_fingerprint
from miner.shards import list_shards
from miner.store import Store
from pipelines.embed_work import EmbedShards, EmbedWorker, ShardReport, ShardTask
from pipelines.executors import Work, open_executor
from pipelines.loading import Encoders
from pipelines.scene_shards import write_shards

NAME = "scale"
OUT = Path(__file__).parent / "results" / "scale.csv"
PROVIDERS = {"inline": None, "ray, 1 worker": 1, "ray, 2 workers": 2}
SETTINGS = EmbedSettings(
    clip="demo-clip", dino="demo-dino", device="cpu", decoders="thread", num_decoders=1
)


@dataclass(frozen=True, kw_only=True)
class Timed(Work[ShardTask, ShardReport]):
    """The work, for a worker with one core, and a file that says when it was ready."""

    work: EmbedShards
    folder: Path

    def open(self, num_cores: int | None = None) -> EmbedWorker:
        """Open the worker, then look at the clock, which all processes of a machine share."""
        core = self._take_core()
        worker = self.work.open(num_cores)
        (self.folder / str(core)).write_text(repr(time.time()))
        return worker

    def _take_core(self) -> int:
        """Bind this thread, and those that it starts, to a core that no other worker has."""
        for core in sorted(os.sched_getaffinity(0)):
            try:
                (self.folder / str(core)).touch(exist_ok=False)
            except FileExistsError:
                continue
            os.sched_setaffinity(0, {core})
            return core
        raise click.ClickException("there are fewer cores than workers; take another machine")


def embed(corpus: Path, folder: Path, num_workers: int | None) -> float:
    """One run into a new folder; its seconds from the first worker's readiness on."""
    opened = folder / "opened"
    opened.mkdir(parents=True)
    read = ReadSettings()
    Store(folder / "run").update_run(reading_fingerprint(read), {}, {"command": NAME})
    shards = list_shards([str(corpus)], dataset="scale")
    records = Encoders(SETTINGS).records
    work = EmbedShards(
        root=folder / "run",
        read=read,
        encode=SETTINGS,
        how=None,
        records=records,
        wanted=[record.encoder_id for record in records],
        first_shards=shards[:1],
    )
    settings = ExecutorSettings()
    if num_workers is not None:
        settings = ExecutorSettings(executor="ray", num_workers=num_workers, cores_per_worker=1)
    cores = os.sched_getaffinity(0)
    try:
        with open_executor(settings) as executor:
            tasks = (ShardTask(shard=shard) for shard in shards)
            for outcome in executor.run(Timed(work=work, folder=opened), tasks):
                if outcome.report is None or outcome.report.error:
                    raise click.ClickException(f"{outcome.task.name} failed; no row is written")
            end_s = time.time()
    finally:
        os.sched_setaffinity(0, cores)
    # A worker that was not needed may not be ready yet.
    ready_s = [float(text) for path in opened.iterdir() if (text := path.read_text())]
    return end_s - min(ready_s)


def embed_alone(corpus: Path, folder: Path) -> float:
    """One inline run, with the threads that an actor with one core has."""
    torch.set_num_threads(1)
    return embed(corpus, folder, None)


def check(inline: Path, other: Path) -> None:
    """Compare the vectors of two runs.

    Raises:
        click.ClickException: they are not equal.
    """
    stores = Store(inline), Store(other)
    ids = [store.encoder_ids() for store in stores]
    shards = [[store.committed(f"vectors/{each}") for each in ids[0]] for store in stores]
    if ids[0] != ids[1] or shards[0] != shards[1] or not ids[0]:
        raise click.ClickException(f"{other} lacks shards that {inline} has; no row is written")
    for encoder_id, names in zip(ids[0], shards[0], strict=True):
        for shard_id in names:
            (a_ids, a_ND), (b_ids, b_ND) = (s.vectors(encoder_id, shard_id) for s in stores)
            if a_ids != b_ids or not np.array_equal(a_ND, b_ND):
                raise click.ClickException(
                    f"{shard_id}: vectors of {encoder_id} differ; no row is written"
                )


def compare(num_shards: int, shard_size: int, repeats: int) -> list[Row]:
    """Time all in turn.

    Args:
        num_shards: all with the same images, under names of their own.
        shard_size: images of each.
        repeats: rounds.
    """
    times: dict[str, list[float]] = {provider: [] for provider in PROVIDERS}
    with tempfile.TemporaryDirectory() as name:
        folder, corpus = Path(name), Path(name) / "corpus"
        (first,) = write_shards(folder / "first", num_scenes=shard_size, seed=0, shard_size=10_000)
        corpus.mkdir()
        for number in range(num_shards):
            shutil.copy(first, corpus / f"{number:05d}.tar")
        for number in range(repeats):
            for provider, num_workers in PROVIDERS.items():
                out = folder / f"{number} {provider}"
                if num_workers is None:
                    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                        elapsed_s = fresh.submit(embed_alone, corpus, out).result()
                else:
                    elapsed_s = embed(corpus, out, num_workers)
                times[provider].append(elapsed_s)
                check(folder / f"{number} inline" / "run", out / "run")
                if provider != "inline":
                    shutil.rmtree(out)
    return rows_of(times, f"{num_shards}x{shard_size}")


def rows_of(times: dict[str, list[float]], shape: str) -> list[Row]:
    """What was measured."""
    blank = replace(blank_row(NAME), data="scenes", shape=shape, dtype="float32")
    rows = [
        replace(blank, provider=provider).measured("time", elapsed_s, unit="s")
        for provider, elapsed_s in times.items()
    ]
    inline, one, two = times.values()
    for provider, base, own, others in (
        ("ray, 1 worker", "inline", one, inline),
        ("ray, 2 workers", "1 worker", two, one),
    ):
        ratios = [a / b for a, b in zip(own, others, strict=True)]
        row = replace(blank, provider=provider)
        rows.append(judged(row.measured(f"time / {base}", ratios, unit="ratio")))
    return rows


@click.command()
@click.option("--shards", "num_shards", default=60, show_default=True)
@click.option("--shard-size", default=500, show_default=True, help="images of a shard")
@click.option("--repeats", default=3, show_default=True, help="rounds")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(num_shards: int, shard_size: int, repeats: int, out: Path) -> None:
    """Measure an embedding inline, with one Ray worker and with two."""
    rows = compare(num_shards, shard_size, repeats)
    append_rows(out, rows)
    show(rows)


if __name__ == "__main__":
    main()
