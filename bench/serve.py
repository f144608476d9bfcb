"""The service under load: throughput and latency, against one by one and against no HTTP at all.

    python -m bench.serve                          with the demo's encoders
    python -m bench.serve --towers b16             with two seeded ViT-B/16
    python -m bench.serve --seconds 3 --warm-s 1 --repeats 1 --loads 0.5 --out /tmp/serve.csv

In each round take turns: bytes to vectors without HTTP, in full batches; the service with batches
in a closed loop; likewise the service with batches of one, and the plainest service that answers
one image after the other (`bench.serve_plain`); and the first service in open loops, at shares of
the throughput that it just had. Each service is a process of its own; one more is by turns the rate
without HTTP and the generator of the load. That has no cores of its own on a small
machine: what it takes is in the rows. Threads of all of them wait without spinning. Exit code 1,
and no row, where a vector is not that of the encoder in float32.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import click

from bench.load import Driven, Load, drive
from bench.pictures import pictures_of
from bench.rows import append_rows
from bench.serve_raw import RawRate, raw_rate, truth_of
from bench.serve_rows import Plan, Round, rows_of
from bench.served import PATIENT, PLAIN, Counts, Served
from bench.terminal import show
from miner.config import EmbedSettings
from miner.encoders import find_record
from tests.towers import write_clip_weights, write_dino_weights

OUT = Path(__file__).parent / "results" / "serve.csv"
B16 = ("clip-vit-b-16", "timm:vit_base_patch16_224:dino")
BATCH = {"demo": 64, "b16": 8}
"""Images of a batch where nothing else is said."""

FARTHEST = {"fp32": 1e-3, "bf16": 5e-2}
"""Of a served vector from that of float32; float16, in which vectors are stored, may take 5e-4."""

OPEN_CONNECTIONS = 512


def settings_of(plan: Plan, folder: Path) -> EmbedSettings:
    """Encoders and batches of the service; seeded weights in a folder."""
    changes: dict[str, str | Path] = {"clip": "demo-clip", "dino": "demo-dino"}
    if plan.towers == "b16":
        clip, dino = (find_record(name) for name in B16)
        changes = {
            "clip": B16[0],
            "dino": B16[1],
            "clip_weights": str(
                write_clip_weights(folder / "clip.safetensors", clip.model, layout="visual")
            ),
            "dino_weights": str(write_dino_weights(folder / "dino.safetensors", dino.model)),
        }
    fixed = {"device": "cpu", "precision": plan.precision, "decoders": plan.decoders}
    return EmbedSettings.model_validate({**changes, **fixed, "batch_size": plan.max_batch})


def arguments_of(settings: EmbedSettings, max_batch: int) -> list[str]:
    """The same for the command."""
    words = ["--max-batch", str(max_batch), "--decoders", settings.decoders]
    if max_batch == 1:
        words += ["--max-wait-ms", "0"]
    return words + encoder_arguments(settings)


def encoder_arguments(settings: EmbedSettings) -> list[str]:
    """Those that say which encoders, and how; every service here knows them."""
    words = []
    for name in ("device", "clip", "dino", "clip_weights", "dino_weights", "precision"):
        if (value := getattr(settings, name)) is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    return words


def measure(plan: Plan, images: list[bytes]) -> list[Round]:
    """Every round.

    Raises:
        click.ClickException: a vector is wrong, or a request of a closed loop fails.
    """
    with tempfile.TemporaryDirectory(prefix="blindpairs-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        settings = settings_of(plan, folder)
        # It stays: to start a process takes seconds, and would take them from the services.
        stack.enter_context(_patient())
        beside = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        batched, single = (
            stack.enter_context(Served(arguments_of(settings, size), folder / f"{size}.log"))
            for size in (plan.max_batch, 1)
        )
        plain = stack.enter_context(
            Served(encoder_arguments(settings), folder / "plain.log", PLAIN)
        )
        click.echo("three services start", err=True)
        truth = truth_of(settings, images)
        for service in (batched, single, plain):
            service.wait()
        rounds = []
        for number in range(plan.repeats):
            load = Load(
                port=batched.port,
                images=images,
                truth=truth,
                connections=plan.connections,
                warm_s=plan.warm_s,
                seconds=plan.seconds,
                seed=number,
            )
            click.echo(f"round {number + 1} of {plan.repeats}: closed loops", err=True)
            one = Round(
                raw=_raw(beside, settings, load),
                batched=_driven(beside, plan, batched, load),
                single=_driven(beside, plan, single, replace(load, port=single.port)),
                plain=_checked(beside, plan, replace(load, port=plain.port)),
            )
            for share in plan.loads:
                click.echo(f"round {number + 1} of {plan.repeats}: load {share:.0%}", err=True)
                rate = share * one.batched[0].images_per_s
                opened = replace(load, rate=rate, connections=OPEN_CONNECTIONS)
                one.opened[share] = _driven(beside, plan, batched, opened)
            rounds.append(one)
    return rounds


@contextmanager
def _patient() -> Iterator[None]:
    """Processes that are started meanwhile are as patient as the services."""
    before = dict(os.environ)
    os.environ.update(PATIENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _raw(pool: Executor, settings: EmbedSettings, load: Load) -> RawRate:
    measured = pool.submit(
        raw_rate, settings, load.images, load.truth, warm_s=load.warm_s, seconds=load.seconds
    ).result()
    check("without HTTP", measured.deviation, settings.precision)
    return measured


def _driven(pool: Executor, plan: Plan, service: Served, load: Load) -> tuple[Driven, Counts]:
    before = service.counts()
    driven = _checked(pool, plan, load)
    return driven, service.counts() - before


def _checked(pool: Executor, plan: Plan, load: Load) -> Driven:
    driven = pool.submit(drive, load).result()
    check("served", driven.deviation, plan.precision)
    if not driven.latencies_s or (load.rate is None and driven.statuses.keys() != {200}):
        raise click.ClickException(
            f"answers came with the statuses {dict(driven.statuses)} (0 is a broken connection); "
            "no row is written"
        )
    return driven


def check(what: str, deviation: float, precision: str) -> None:
    """Refuse vectors that are not the encoders'.

    Raises:
        click.ClickException: one is too far from that of float32.
    """
    if not deviation <= FARTHEST[precision]:
        raise click.ClickException(
            f"{what}: a vector is {deviation:.1e} from that of float32, limit "
            f"{FARTHEST[precision]:.0e}; no row is written"
        )


def shares_of(text: str) -> tuple[float, ...]:
    """Loads from a list with commas.

    Raises:
        click.UsageError: one is no share.
    """
    try:
        shares = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise click.UsageError(f"--loads {text}: {error}") from error
    if not all(share > 0 for share in shares):
        raise click.UsageError(f"--loads {text}: each has to be above 0")
    return shares


@click.command()
@click.option("--towers", type=click.Choice(list(BATCH)), default="demo", show_default=True)
@click.option("--precision", type=click.Choice(list(FARTHEST)), default="fp32", show_default=True)
@click.option("--decoders", type=click.Choice(["process", "thread"]), default="process")
@click.option("--data", type=click.Choice(["generated", "photographs"]), default="generated")
@click.option("--images", "num_images", default=64, show_default=True, help="different ones")
@click.option("--max-batch", type=click.IntRange(2), help="[default: 64, with b16 8]")
@click.option("--connections", type=click.IntRange(1), help="[default: twice --max-batch]")
@click.option("--loads", default="0.3,0.5,0.7,0.9", show_default=True, help="shares")
@click.option("--warm-s", default=5.0, show_default=True, help="seconds that do not count")
@click.option("--seconds", default=30.0, show_default=True, help="that do, of each measurement")
@click.option("--repeats", default=3, show_default=True, help="rounds")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(
    towers: str,
    precision: str,
    decoders: str,
    data: str,
    num_images: int,
    max_batch: int | None,
    connections: int | None,
    loads: str,
    warm_s: float,
    seconds: float,
    repeats: int,
    out: Path,
) -> None:
    """Measure the service under load."""
    size = max_batch or BATCH[towers]
    plan = Plan(
        towers=towers,
        precision=precision,
        decoders=decoders,
        max_batch=size,
        connections=connections or 2 * size,
        loads=shares_of(loads),
        warm_s=warm_s,
        seconds=seconds,
        repeats=repeats,
    )
    rows = rows_of(plan, measure(plan, pictures_of(data, num_images)))
    append_rows(out, rows)
    show(rows)


if __name__ == "__main__":
    main()
