"""The whole embedding of shards, from tar to Parquet, against the encoders alone and a peer.

    python -m bench.pipeline --data generated
    python -m bench.pipeline --device cuda --towers l14 --images 20000 --batch-size 256

Own run, clip-retrieval-style loop and the encoders on ready pixels take turns in one process on the
same shards: with the demo's encoders in float32 (`--backend compile`: ours compiled), or with both
L/14 towers, seeded, in bfloat16 (ours compiled, the peer's as their libraries write them). Exit
code 1, and no row, where the own run lacks an image or its vectors are not the peer's.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np
import torch

from bench.pictures import pictures_of
from bench.retrieval import retrieve
from bench.rows import Row, append_rows, blank_row
from bench.targets import judged
from bench.terminal import show
from bench.towers import TOWERS, load_seeded, seeded
from miner.config import FeedSettings, ReadSettings
from miner.embed import ROLES, embed_shards
from miner.encoders import Encoder, TorchEncoder, load_encoder
from miner.engine_compile import CompiledEncoder
from miner.shards import list_shards
from miner.stats import STAGES, Stats
from miner.store import Store
from tests.small import write_tar

NAME = "pipeline"
OUT = Path(__file__).parent / "results" / "pipeline.csv"
DEMO = ("demo-clip", "demo-dino")
LEAST_COSINE = {"demo": 0.999, "l14": 0.99}
"""Of an own vector and the peer's: both resize a little differently, and ours is float16; both
round to bfloat16 in their own places on the way."""


class WrongVectorsError(Exception):
    """The own run's vectors are not the peer's."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is run, on what.

    Attributes:
        shards: paths of tars.
        num_images: in all of them.
        towers: `demo` or `l14`.
        encoders: clip's and dino's, of the own run.
        peers: the same for the peer.
        feeding: batch size and decode workers of the own run.
        num_workers: decode workers of the peer.
        folder: for what is written; a new one inside for each run.
    """

    shards: Sequence[str]
    num_images: int
    towers: str
    encoders: Sequence[Encoder]
    peers: Sequence[TorchEncoder]
    feeding: FeedSettings
    num_workers: int
    folder: Path
    own_stats: list[Stats] = field(default_factory=list)

    def own(self) -> list[dict[str, np.ndarray]]:
        """From tars to committed Parquet."""
        store = Store(Path(tempfile.mkdtemp(dir=self.folder)))
        (store.root / "commits").mkdir()
        total = Stats()
        for done in embed_shards(
            [(shard, None) for shard in list_shards(self.shards, dataset="bench")],
            dict(zip(ROLES, self.encoders, strict=True)),
            store=store,
            settings=ReadSettings(),
            feeding=self.feeding,
        ):
            total += done.stats
        self.own_stats.append(total)
        found = []
        for encoder in self.encoders:
            vectors: dict[str, np.ndarray] = {}
            for shard_id in store.committed("samples"):
                image_ids, vectors_ND = store.vectors(encoder.encoder_id, shard_id)
                keys = [image_id.rpartition("/")[2] for image_id in image_ids]
                vectors |= dict(zip(keys, vectors_ND.astype(np.float32), strict=True))
            found.append(vectors)
        return found

    def peer(self) -> list[dict[str, np.ndarray]]:
        """From tars to what clip-retrieval writes, for one encoder after the other."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return [
            retrieve(
                self.shards,
                encoder,
                folder / encoder.record.name,
                batch_size=self.feeding.batch_size,
                num_workers=self.num_workers,
            )
            for encoder in self.peers
        ]

    def encoders_alone(self) -> None:
        """As many images as there are, from ready pixels."""
        for encoder in self.encoders:
            size = encoder.record.image_size
            shape = (self.feeding.batch_size, 3, size, size)
            pixels_BCHW = torch.zeros(shape, dtype=torch.uint8, device=encoder.device)
            for _ in range(-(-self.num_images // self.feeding.batch_size)):
                vectors_BD = encoder(pixels_BCHW)
            vectors_BD.cpu()


def write_shards(folder: Path, pictures: Sequence[bytes], num_shards: int) -> list[str]:
    """Pictures in img2dataset's layout, each with bytes of its own behind its end."""
    paths = []
    for number in range(num_shards):
        members = []
        for place in range(number, len(pictures), num_shards):
            key = f"{number:05d}{place:06d}"
            said = {"key": key, "url": f"https://example.org/{key}.jpg", "caption": f"no. {place}"}
            members.append((f"{key}.jpg", pictures[place] + place.to_bytes(4, "big")))
            members.append((f"{key}.txt", said["caption"].encode()))
            members.append((f"{key}.json", json.dumps(said).encode()))
        paths.append(str(write_tar(folder / f"{number:05d}.tar", members)))
    return paths


def encoders_of(
    towers: str, device: str, batch_size: int, folder: Path, backend: str = "torch"
) -> tuple[list[Encoder], list[TorchEncoder]]:
    """Clip's and dino's encoders of the own run, and the peer's; `backend` is of the own demo's."""
    if towers == "demo":
        demo = [load_encoder(name, device=device) for name in DEMO]
        if backend == "torch":
            return list(demo), demo
        return [CompiledEncoder(e, precision="fp32", batch_size=batch_size) for e in demo], demo
    own: list[Encoder] = []
    peers = []
    for name in TOWERS:
        weights = seeded(name, folder)
        truth = load_seeded(name, device, "fp32", weights)
        own.append(CompiledEncoder(truth, precision="bf16", batch_size=batch_size))
        peers.append(load_seeded(name, device, "bf16", weights))
    return own, peers


def check(
    mine: Sequence[dict[str, np.ndarray]],
    theirs: Sequence[dict[str, np.ndarray]],
    least: float = LEAST_COSINE["demo"],
) -> float:
    """The smallest cosine of an own vector and the peer's of the same image.

    Raises:
        WrongVectorsError: an image is missing, or that cosine is too small.
    """
    cosines = []
    for own, peer in zip(mine, theirs, strict=True):
        if own.keys() != peer.keys():
            raise WrongVectorsError(
                f"{len(own.keys() ^ peer.keys())} images are in one result only"
            )
        for key, vector in own.items():
            length = np.linalg.norm(vector) * np.linalg.norm(peer[key])
            cosines.append(float(vector @ peer[key] / length))
    if not min(cosines) >= least:
        raise WrongVectorsError(f"cosine {min(cosines):.4f} with the peer's, least {least}")
    return min(cosines)


def compare(bench: Bench, blank: Row, repeats: int) -> list[Row]:
    """All rows.

    Raises:
        WrongVectorsError: see `check`.
    """
    runs: dict[str, Callable[[], object]] = {
        "own": bench.own,
        "clip-retrieval-style": bench.peer,
        "encoders alone": bench.encoders_alone,
    }
    # The first round loads what is loaded once, and shows that the results agree.
    least = check(bench.own(), bench.peer(), LEAST_COSINE[bench.towers])
    bench.own_stats.clear()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start_s = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start_s)
    rows = []
    for name, elapsed_s in seconds.items():
        base = replace(blank, provider=name)
        speeds = [bench.num_images / each for each in elapsed_s]
        rows.append(base.measured("images per second", speeds, unit="1/s"))
        rows += [
            base.measured(
                f"time / {other}",
                [a / b for a, b in zip(elapsed_s, seconds[other], strict=True)],
                unit="ratio",
            )
            for other in runs
            if other != name
        ]
    base = replace(blank, provider="own")
    shares = [stats.shares() for stats in bench.own_stats]
    rows += [
        base.measured(f"share of {stage}", [share.get(stage, 0.0) for share in shares])
        for stage in STAGES
    ]
    overhead = [share.get("read", 0.0) + share.get("write", 0.0) for share in shares]
    rows.append(base.measured("share of read and write", overhead))
    rows.append(base.measured("least cosine with the peer", [least]))
    return [judged(row) for row in rows]


@click.command()
@click.option("--data", type=click.Choice(["generated", "photographs"]), default="generated")
@click.option("--device", default="cpu", show_default=True)
@click.option("--towers", type=click.Choice(["demo", "l14"]), default="demo", show_default=True)
@click.option("--images", "num_images", default=1000, show_default=True)
@click.option("--shards", "num_shards", default=4, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--decoders", type=click.Choice(["process", "thread"]), default="process")
@click.option("--backend", type=click.Choice(["torch", "compile"]), default="torch")
@click.option("--num-decoders", type=int, default=None, help="of the own run; default: its own")
@click.option("--num-workers", type=int, default=None, help="of the peer; default: the cores")
@click.option("--threads", default=1, show_default=True, help="of an encoder, in every run")
@click.option("--repeats", default=3, show_default=True, help="rounds")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(
    data: str,
    device: str,
    towers: str,
    num_images: int,
    num_shards: int,
    batch_size: int,
    decoders: str,
    backend: str,
    num_decoders: int | None,
    num_workers: int | None,
    threads: int,
    repeats: int,
    out: Path,
) -> None:
    """Measure the embedding of shards, own and peer in turn."""
    torch.set_num_threads(threads)
    feeding = FeedSettings.model_validate(
        {"batch_size": batch_size, "decoders": decoders, "num_decoders": num_decoders}
    )
    num_cores = len(os.sched_getaffinity(0))
    try:
        pictures = pictures_of(data, num_images)
        with tempfile.TemporaryDirectory() as folder:
            own, peers = encoders_of(towers, device, batch_size, Path(folder), backend)
            bench = Bench(
                shards=write_shards(Path(folder) / "shards", pictures, num_shards),
                num_images=num_images,
                towers=towers,
                encoders=own,
                peers=peers,
                feeding=feeding,
                num_workers=num_workers or num_cores,
                folder=Path(folder),
            )
            shape = f"{num_images}x{sum(map(len, pictures)) / len(pictures) / 1000:.0f} kB"
            note = f"{decoders} decoders, {num_cores} cores, encoders on {threads} thread"
            if towers == "demo" and backend != "torch":
                note += f", own by {backend}"
            dtype = "fp32" if towers == "demo" else "bf16"
            blank = replace(
                blank_row(NAME, device), data=f"{data}, {towers}", shape=shape, dtype=dtype
            )
            rows = compare(bench, blank, repeats)
    except (FileNotFoundError, WrongVectorsError) as error:
        raise click.ClickException(str(error)) from error
    rows = [replace(row, note="; ".join(filter(None, (note, row.note)))) for row in rows]
    append_rows(out, rows)
    show(rows)


if __name__ == "__main__":
    main()
