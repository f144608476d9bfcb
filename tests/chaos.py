"""Faults, injected for real and by a seed: `make chaos` goes on with them as long as it is told.

    python -m tests.chaos --seed 7 --minutes 30
    python -m tests.chaos --seed 7 --only driver-killed      one of them again

Each fault is done to a small run, which is then finished by the same command; whatever was done,
the run has to end with the bytes of one that nobody disturbed, and with nothing too much or lost.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import click

from miner.audit import verify
from miner.store import Store
from tests.chaos_world import (
    FINISHED_S,
    PARTIAL,
    WELL,
    Trouble,
    World,
    committed,
    flip,
    kill,
    wait_for_commits,
    wait_for_workers,
)
from tests.failing import HOWS

RPC_METHODS = (
    "CoreWorkerService.grpc_client.PushTask",
    "NodeManagerService.grpc_client.RequestWorkerLease",
    "ActorInfoGcsService.grpc_client.CreateActor",
    "*",
)
"""What fails: Ray's core knows its calls by these names."""

# ---- what is done to a run

Fault = Callable[[World, random.Random, Path], str]
FAULTS: dict[str, Fault] = {}
ON_RAY: set[str] = set()


def fault(name: str, *, on_ray: bool = False) -> Callable[[Fault], Fault]:
    """Register a fault; it says in a few words what it did."""

    def register(function: Fault) -> Fault:
        FAULTS[name] = function
        if on_ray:
            ON_RAY.add(name)
        return function

    return register


@fault("driver-killed")
def driver_killed(world: World, moments: random.Random, run: Path, num_kills: int = 4) -> str:
    """The command is killed again and again, from before its first commit to after its last."""
    number_of = len(world.commits)
    num_cut_short = 0
    for number in sorted(moments.randrange(number_of + 1) for _ in range(num_kills)):
        process = world.start(run)
        wait_for_commits(process, run, number)
        time.sleep(0.03 * moments.random())
        num_cut_short += process.is_alive() and 0 < len(committed(run)) < number_of
        kill(process.pid)
        process.join(30)
    world.finish_and_check(run)
    return f"{num_kills} kills, {num_cut_short} in the middle of the work"


@fault("drivers-race")
def drivers_race(world: World, moments: random.Random, run: Path) -> str:
    """Several commands on one run at once, of which one is killed."""
    racers = [world.start(run) for _ in range(3)]
    wait_for_commits(racers[0], run, moments.randrange(len(world.commits)))
    kill(racers[0].pid)
    for racer in racers:
        racer.join(FINISHED_S)
    assert [racer.exitcode for racer in racers[1:]] == [WELL, WELL]
    world.finish_and_check(run)
    return "3 commands, 1 of them killed"


@fault("disk-full")
def disk_full(world: World, moments: random.Random, run: Path) -> str:
    """The system refuses to write more to any file than so many bytes."""
    # Its own words have to fit too.
    most_bytes = moments.choice((2500, 4000, 6000))
    process = world.start(run, Trouble(most_bytes=most_bytes))
    process.join(FINISHED_S)
    assert process.exitcode not in (None, WELL), "it went well without writing its files"
    told = run.with_suffix(".err").read_text()
    assert "Traceback" not in told, told
    assert "File too large" in told, told
    world.finish_and_check(run)
    return f"no file over {most_bytes} bytes; exit code {process.exitcode}"


@fault("storage-fails")
def storage_fails(world: World, moments: random.Random, run: Path) -> str:
    """Some operation on the run's files fails, or its answer is lost."""
    trouble = Trouble(k=moments.randrange(1, 160), how=moments.choice(HOWS))
    process = world.start(run, trouble)
    process.join(FINISHED_S)
    told = run.with_suffix(".err").read_text()
    # Whoever asked again and found his own answer may go on.
    well = (WELL,) if trouble.how == "timeout after success" else ()
    assert process.exitcode in (*well, PARTIAL, 4), (process.exitcode, told)
    assert "Traceback" not in told, told
    world.finish_and_check(run)
    return f"operation {trouble.k}: {trouble.how}; exit code {process.exitcode}"


@fault("file-damaged")
def file_damaged(world: World, moments: random.Random, run: Path) -> str:
    """A committed file is cut, flipped or removed: `verify` names it; put back, all is well."""
    world.finish(run)
    files = [path for path in run.rglob("*") if path.suffix in (".parquet", ".json")]
    files = [path for path in files if path.name != "run.json" and "report" not in path.parts]
    path = moments.choice(sorted(files))
    data = path.read_bytes()
    # Without the line feed at its end a record says what it said.
    place = moments.randrange(len(data) - 1)
    flipped = flip(data, place, 1 << moments.randrange(8))
    damages = {"cut": data[:place], "flipped": flipped, "removed": None}
    how, damaged = moments.choice(list(damages.items()))
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    name = path.relative_to(run).as_posix()
    findings = verify(Store(run))
    # A record that is gone leaves its files without a name.
    named = [finding.path for finding in findings] or Store(run).leftovers()
    is_record = path.suffix == ".json"
    assert named, f"{name} was {how} at {place} and nobody noticed"
    assert is_record or any(each.endswith(name) for each in named), (name, named)
    path.write_bytes(data)
    world.finish_and_check(run)
    return f"{name} {how} at byte {place}"


@fault("shard-changed")
def shard_changed(world: World, moments: random.Random, run: Path) -> str:
    """A shard that was committed is another one now: refused until it is as it was."""
    world.finish(run)
    path = moments.choice(sorted((world.folder / "corpus").glob("*.tar")))
    data, status = path.read_bytes(), path.stat()
    try:
        place = moments.randrange(512, len(data) - 2048)
        path.write_bytes(flip(data, place, 255))
        process = world.start(run)
        process.join(FINISHED_S)
        told = run.with_suffix(".err").read_text()
        assert process.exitcode == 2, (process.exitcode, told)
        assert path.stem in told, told
    finally:
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    world.finish_and_check(run)
    return f"{path.name} changed at byte {place}"


@fault("workers-killed", on_ray=True)
def workers_killed(
    world: World, moments: random.Random, run: Path, num_kills: int = 3, num_driver_kills: int = 1
) -> str:
    """Workers are killed at their work, and now and then the driver."""
    victims = ["worker"] * num_kills + ["driver"] * num_driver_kills
    moments.shuffle(victims)
    process = world.start(run)
    killed = []
    for place, victim in enumerate(victims):
        wait_for_commits(process, run, place * len(world.commits) // len(victims))
        time.sleep(0.02 * moments.random())
        workers = wait_for_workers(process, run)
        if not process.is_alive():
            break
        killed.append(process.pid if victim == "driver" else moments.choice(workers))
        kill(killed[-1])
        if victim == "driver":
            process.join(30)
            process = world.start(run)
    process.join(FINISHED_S)
    assert process.exitcode in (WELL, PARTIAL), run.with_suffix(".err").read_text()
    world.finish_and_check(run)
    return f"{len(killed)} processes killed, {num_driver_kills} of them drivers"


@fault("rpc-failures", on_ray=True)
def rpc_failures(world: World, moments: random.Random, run: Path) -> str:
    """Calls between the processes of a Ray cluster of the command's own fail, or their answers."""
    method = moments.choice(RPC_METHODS)
    # The first of every kind for certain, then by chance, so many in each process.
    failures = {"num_failures": 20}
    for kind in ("req", "resp", "in_flight"):
        failures |= {f"{kind}_failure_prob": 5, f"num_lower_bound_{kind}_failures": 1}
    told_ray = {"RAY_testing_rpc_failure": json.dumps({method: failures})}
    environment = {"RAY_ADDRESS": "local", **told_ray}
    disturbed = replace(world, environment=environment)
    process = disturbed.start(run)
    process.join(FINISHED_S)
    told = run.with_suffix(".err").read_text()
    assert process.exitcode in (WELL, PARTIAL, 4), (process.exitcode, told)
    assert "Traceback" not in told, told
    num_lost = " ".join(told.split()).count("a Ray worker was taken away")
    assert num_lost > 0 or "PushTask" not in method, told
    world.finish_and_check(run)
    return f"{method}; {num_lost} workers lost, exit code {process.exitcode}"


# ---- the command


@contextmanager
def ray_cluster() -> Iterator[str]:
    """The address of a cluster of two cores that ends with the block."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


@click.command()
@click.option("--seed", type=int, default=None, help="Of the first round; default: by the clock.")
@click.option("--minutes", type=float, default=10.0, show_default=True, help="How long.")
@click.option("--only", type=click.Choice(sorted(FAULTS)), default=None, help="One kind of fault.")
def main(seed: int | None, minutes: float, only: str | None) -> None:
    """Do faults to small runs until the time is over, or one of them is not survived."""
    first = int(time.time()) if seed is None else seed
    names = [only] if only else sorted(FAULTS)
    num_done = 0
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        worlds = {}
        if not ON_RAY.issuperset(names):
            worlds[False] = World.make(folder / "inline")
        if not ON_RAY.isdisjoint(names):
            address = held.enter_context(ray_cluster())
            calm = World.make(folder / "ray", num_shards=24, images=4)
            worlds[True] = calm.on_ray(address)
        end_s = time.monotonic() + 60 * minutes
        while num_done == 0 or time.monotonic() < end_s:
            for kind in names:
                this = first + num_done // len(names)
                run = folder / f"{kind}-{this}"
                start_s = time.monotonic()
                try:
                    did = FAULTS[kind](worlds[kind in ON_RAY], random.Random(f"{kind} {this}"), run)
                except AssertionError:
                    click.echo(f"NOT SURVIVED: python -m tests.chaos --seed {this} --only {kind}")
                    raise
                num_done += 1
                took_s = round(time.monotonic() - start_s, 1)
                click.echo(json.dumps({"fault": kind, "seed": this, "did": did, "s": took_s}))
                shutil.rmtree(run)
    last = first + (num_done - 1) // len(names)
    click.echo(f"{num_done} faults survived, seeds {first} to {last}")


if __name__ == "__main__":
    sys.exit(main())
