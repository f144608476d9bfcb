"""Faults, injected for real and by a seed: `make chaos` goes on with them as long as it is told.

    python -m tests.chaos --seed 7 --minutes 30
    python -m tests.chaos --seed 7 --only driver-killed      one of them again

Each fault is done to a small run, which is then finished by the same command; whatever was done,
the run has to end with the bytes of one that nobody disturbed, and with nothing too much or lost.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import click

from miner.audit import verify
from miner.files import LocalFiles
from miner.store import Store
from tests.failing import HOWS, FailingFiles, How
from tests.small import write_corpus, write_weights

PRELOAD = ("tests.mine_small", "open_clip", "timm")
"""What a command's process has imported, so that a fault hits its work and not its start."""

FINISHED_S = 180.0
"""Nothing here takes so long, in seconds; what does, hangs."""

WELL = 0
PARTIAL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What goes wrong with a command's storage.

    Attributes:
        most_bytes: no file may be larger; 0 for any size.
        k: the k-th operation on the run's files fails; 0 for none.
        how: it fails, as in `tests.failing`.
    """

    most_bytes: int = 0
    k: int = 0
    how: How = "EIO"


def command(words: list[str], environment: dict[str, str], errors: str, trouble: Trouble) -> None:
    """One whole command, in a process of its own."""
    import torch

    import miner.run_place
    from tests.mine_small import main

    os.environ.update(environment)
    torch.set_num_threads(1)
    with Path(errors).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if trouble.most_bytes:
        # Files that would be larger are refused by the system.
        resource.setrlimit(resource.RLIMIT_FSIZE, (trouble.most_bytes, trouble.most_bytes))
    if trouble.k:
        # One storage for all that the command opens on the run.
        files = cache(lambda root: FailingFiles(LocalFiles(root), trouble.k, trouble.how))
        assert "LocalFiles" in vars(miner.run_place)
        vars(miner.run_place)["LocalFiles"] = files
    main(words)


NO_TROUBLE = Trouble()


@dataclass(frozen=True, kw_only=True)
class World:
    """A corpus, and what comes of it.

    Attributes:
        folder: of everything.
        options: the command's words, but for `--out`.
        truth: the parts of `raw` and the selection of a run that nobody disturbed, by path.
        commits: the names of its commit records.
        environment: of the commands.
    """

    folder: Path
    options: tuple[str, ...]
    truth: dict[str, bytes]
    commits: frozenset[str]
    environment: dict[str, str]

    @classmethod
    def make(cls, folder: Path, *, num_shards: int = 6, images: int = 8) -> World:
        """Write a corpus and mine it undisturbed, in one process.

        Args:
            folder: where to.
            num_shards: of the corpus.
            images: to a shard; one of eight is broken.
        """
        write_corpus(folder / "corpus", num_shards=num_shards, images=images)
        clip, dino = write_weights(folder / "weights")
        options = (
            *("mine", str(folder / "corpus"), "--max-bad-fraction", "0.5", "--batch-size", "4"),
            *("--clip", "small-clip", "--clip-weights", str(clip), "--clip-above", "0.9"),
            *("--dino", "small-dino", "--dino-weights", str(dino), "--dino-below", "0.8"),
            *("--decoders", "thread"),
        )
        calm = cls(folder=folder, options=options, truth={}, commits=frozenset(), environment={})
        undisturbed = folder / "undisturbed"
        calm.finish(undisturbed)
        return replace(calm, truth=tables(undisturbed), commits=frozenset(committed(undisturbed)))

    def on_ray(self, address: str) -> World:
        """The same, but that the commands have two workers of a Ray cluster do their work."""
        on_ray = ("--executor", "ray", "--num-workers", "2", "--cores-per-worker", "1")
        environment = {"RAY_ADDRESS": address}
        return replace(self, options=(*self.options, *on_ray), environment=environment)

    def start(self, run: Path, trouble: Trouble = NO_TROUBLE) -> BaseProcess:
        """Begin the command on a run."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOAD))
        words = [*self.options, "--out", str(run)]
        run.parent.mkdir(parents=True, exist_ok=True)
        errors = str(run.with_suffix(".err"))
        process = context.Process(target=command, args=(words, self.environment, errors, trouble))
        process.start()
        return process

    def finish(self, run: Path) -> int:
        """The command, to its end; on Ray again where a shard was given up, it has to end well."""
        for _ in range(3 if "ray" in self.options else 1):
            process = self.start(run)
            process.join(FINISHED_S)
            told = run.with_suffix(".err").read_text()
            assert process.exitcode is not None, f"{run}: hangs; it said {told}"
            if process.exitcode == WELL:
                return process.exitcode
            assert process.exitcode == PARTIAL, f"{run}: exit {process.exitcode}; it said {told}"
        raise AssertionError(f"{run}: a shard is given up again and again; it said {told}")

    def check(self, run: Path) -> None:
        """The run is what it would be had nobody disturbed it."""
        assert "Traceback" not in (told := run.with_suffix(".err").read_text()), told
        assert committed(run).keys() == self.commits
        assert tables(run) == self.truth
        assert verify(Store(run)) == []
        assert Store(run).leftovers() == []

    def finish_and_check(self, run: Path) -> None:
        """Go on with the run as it was left, to its end, and check it."""
        before = committed(run)
        self.finish(run)
        after = committed(run)
        assert {name: after[name] for name in before} == before, "a commit was written again"
        self.check(run)


def tables(run: Path) -> dict[str, bytes]:
    """The parts of `raw` and the selection of every join, by path."""
    paths = [*run.glob("pairs/*/raw/*.parquet"), *run.glob("pairs/*/selected.parquet")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


def committed(run: Path) -> dict[str, bytes]:
    """Every commit record by its path."""
    records = sorted((run / "commits").rglob("[!.]*.json")) if run.exists() else []
    return {path.relative_to(run / "commits").as_posix(): path.read_bytes() for path in records}


def wait_for_commits(process: BaseProcess, run: Path, number: int) -> None:
    """Wait until a run has so many commits, or its command is over."""
    end_s = time.monotonic() + FINISHED_S
    while process.is_alive() and len(committed(run)) < number:
        assert time.monotonic() < end_s, f"{run}: hangs at {len(committed(run))} commits"
        time.sleep(0.005)


def workers_of(run: Path) -> list[int]:
    """Ray workers that are at work on a run: those that hold its lock of writers."""
    lock = str((run / ".locks" / "writers").resolve())
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cmdline").read_bytes().startswith(b"ray::") and any(
                os.readlink(descriptor) == lock for descriptor in (process / "fd").iterdir()
            ):
                found.append(int(process.name))
        except OSError:
            # It ended meanwhile, or is somebody else's.
            continue
    return found


def wait_for_workers(process: BaseProcess, run: Path) -> list[int]:
    """Wait until there are workers at work on a run, or its command is over."""
    end_s = time.monotonic() + FINISHED_S
    while process.is_alive() and not (workers := workers_of(run)):
        assert time.monotonic() < end_s, f"{run}: no worker comes"
        time.sleep(0.02)
    return workers if process.is_alive() else []


def flip(data: bytes, place: int, bits: int) -> bytes:
    """The same bytes, with other bits at one place."""
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def kill(pid: int | None) -> None:
    """End a process as an impatient system does."""
    assert pid is not None
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


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
