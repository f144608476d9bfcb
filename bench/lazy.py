"""Eager and lazy runs on one corpus, in turn: what lazy mode saves, and that no pair changes.

python -m bench.lazy --towers l14 --images 60 --pairs 3

The corpus holds pairs of pictures that only differ by compression; the threshold is put between
their CLIP cosines and all others', so that exactly these images have a candidate.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch

from bench.rows import Row, append_rows, blank_row
from bench.targets import judged
from bench.terminal import show
from kernels.reference import candidates
from miner.config import JoinSettings, MineSettings, SelectSettings
from miner.registry import REGISTRY
from miner.store import Store
from miner.vectors import EncoderVectors
from pipelines.driver import mine
from pipelines.joins import join_and_select
from tests.small import write_tar, write_weights
from tests.towers import (
    clip_record,
    dino_record,
    scenes,
    write_clip_weights,
    write_dino_weights,
)

NAME = "lazy"
OUT = Path(__file__).parent / "results" / "lazy.csv"
QUALITIES = (95, 60)
"""JPEG qualities of the two pictures of a pair; all others have the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One `mine`.

    Attributes:
        store: what it wrote.
        record: join.json.
        elapsed_s: of all of it, loading the weights included.
        dino_s: of that, in DINO.
    """

    store: Store
    record: dict[str, object]
    elapsed_s: float
    dino_s: float


def write_corpus(folder: Path, num_images: int, num_pairs: int, num_shards: int = 2) -> list[Path]:
    """Shards of pictures, the two of a pair in different shards."""
    pictures = scenes(num_images - num_pairs)
    members: dict[int, list[tuple[str, bytes]]] = defaultdict(list)
    for number, image in enumerate(pictures):
        for copy, quality in enumerate(QUALITIES if number < num_pairs else QUALITIES[:1]):
            buffer = io.BytesIO()
            large = image.resize((2 * image.width, 2 * image.height))
            large.save(buffer, "JPEG", quality=quality)
            shard = (number + copy) % num_shards
            members[shard].append((f"{number:06d}-{copy}.jpg", buffer.getvalue()))
    return [write_tar(folder / f"{shard:05d}.tar", members[shard]) for shard in sorted(members)]


def settings_of(towers: str, folder: Path, batch_size: int) -> MineSettings:
    """The encoders, with seeded weights in a folder."""
    if towers == "small":
        REGISTRY.update({record.name: record for record in (clip_record(), dino_record())})
        clip, dino = write_weights(folder)
        names = {"clip": "small-clip", "dino": "small-dino"}
    else:
        names = {"clip": "clip-vit-l-14", "dino": "dinov2-vit-l-14"}
        model = REGISTRY[names["clip"]].model
        clip = write_clip_weights(folder / "clip.safetensors", model, layout="visual")
        model = REGISTRY[names["dino"]].model
        dino = write_dino_weights(folder / "dino.safetensors", model, grid=37)
    return MineSettings(
        **names, clip_weights=clip, dino_weights=dino, batch_size=batch_size, device="cpu"
    )


def run_once(corpus: Path, out: Path, settings: MineSettings) -> Run:
    """Mine a corpus into a new folder, and time it."""
    began = time.perf_counter()
    embedded, record = mine([str(corpus)], out, settings)
    elapsed_s = time.perf_counter() - began
    dino_s = embedded.stats.seconds.get("dino", 0.0)
    return Run(store=Store(out), record=record, elapsed_s=elapsed_s, dino_s=dino_s)


def threshold(run: Run, num_pairs: int) -> float:
    """Halfway between the planted pairs' CLIP cosines and the next one.

    Raises:
        click.ClickException: other pairs are as much alike.
    """
    vectors = EncoderVectors(run.store, str(run.record["clip"]))
    found = [vectors.read(shard_id) for shard_id in sorted(vectors.whole)]
    names = [name for ids, _ in found for name in ids]
    clip_ND = torch.from_numpy(np.concatenate([rows for _, rows in found]))
    ones_N1 = torch.ones(len(names), 1)
    pairs = next(candidates((clip_ND, None), (ones_N1, None), clip_above=-1.0))
    best = torch.argsort(pairs.clip_cos, descending=True)[: num_pairs + 1]
    for pair in best[:num_pairs]:
        one, other = (names[int(side[pair])] for side in (pairs.i, pairs.j))
        if one.split("/")[-1][:6] != other.split("/")[-1][:6]:
            raise click.ClickException(
                f"{one} and {other} are more alike to CLIP than a planted pair; no row is written"
            )
    return float((pairs.clip_cos[best[-2]] + pairs.clip_cos[best[-1]]) / 2)


def raw_parts(run: Run, name: str) -> list[bytes]:
    """The parts of `raw` of a join."""
    return [path.read_bytes() for path in sorted(run.store.root.glob(f"pairs/{name}/raw/*"))]


def check(eager: Run, lazy: Run, num_pairs: int) -> None:
    """Compare what both runs found.

    Raises:
        click.ClickException: other pairs, or DINO saw other images than it had to.
    """
    name = str(lazy.record["name"])
    parts = [raw_parts(run, name) for run in (eager, lazy)]
    said = lazy.record["lazy"]
    if parts[0] != parts[1] or not parts[0]:
        raise click.ClickException("lazy and eager runs found other pairs; no row is written")
    if not isinstance(said, dict) or said["covered"] != 2 * num_pairs:
        raise click.ClickException(
            f"DINO was to see {2 * num_pairs} images and saw others ({said}); no row is written"
        )


def moved_vectors(eager: Run, lazy: Run) -> tuple[int, float]:
    """DINO's stored vectors that differ between the runs, and by how much at most."""
    dino = str(eager.record["dino"])
    whole, parts = EncoderVectors(eager.store, dino), EncoderVectors(lazy.store, dino)
    num_moved, most = 0, 0.0
    for shard_id in sorted(whole.whole):
        names, rows = whole.read(shard_id)
        at = {name: row for row, name in enumerate(names)}
        for name, row in zip(*parts.read(shard_id), strict=True):
            moved = np.abs(row.astype(np.float64) - rows[at[name]].astype(np.float64)).max()
            num_moved, most = num_moved + bool(moved), max(most, float(moved))
    return num_moved, most


def compare(
    towers: str, num_images: int, num_pairs: int, batch_size: int, repeats: int
) -> list[Row]:
    """Time both modes in turn, in new folders every time.

    Args:
        towers: `l14`, or `small` ones.
        num_images: in the corpus.
        num_pairs: of them that only differ by compression.
        batch_size: images to a batch.
        repeats: rounds.
    """
    runs: dict[str, list[Run]] = {"eager": [], "lazy": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "corpus", num_images, num_pairs)
        (folder / "weights").mkdir()
        settings = settings_of(towers, folder / "weights", batch_size)
        for number in range(repeats):
            eager = run_once(folder / "corpus", folder / f"eager{number}", settings)
            how = JoinSettings(clip_above=threshold(eager, num_pairs), dino_below=1.0)
            given = {name: getattr(settings, name) for name in settings.model_fields_set}
            asked = MineSettings(
                **given, dino_mode="lazy", clip_above=how.clip_above, dino_below=how.dino_below
            )
            lazy = run_once(folder / "corpus", folder / f"lazy{number}", asked)
            both = str(eager.record["clip"]), str(eager.record["dino"])
            join_and_select(eager.store, *both, how, SelectSettings())
            check(eager, lazy, num_pairs)
            runs["eager"].append(eager)
            runs["lazy"].append(lazy)
        moved = moved_vectors(runs["eager"][-1], runs["lazy"][-1])
    return rows_of(runs, towers, f"{num_images}", num_pairs, moved)


def rows_of(
    runs: dict[str, list[Run]], towers: str, shape: str, num_pairs: int, moved: tuple[int, float]
) -> list[Row]:
    """What was measured."""
    blank = replace(blank_row(NAME), provider=towers, data="scenes", shape=shape, dtype="float32")
    note = f"{2 * num_pairs} of {shape} images have a candidate"
    eager, lazy = runs["eager"], runs["lazy"]
    bound = [run.elapsed_s - 0.9 * run.dino_s for run in eager]
    ratios = [run.elapsed_s / bound_s for run, bound_s in zip(lazy, bound, strict=True)]
    saved = [a.elapsed_s / b.elapsed_s for a, b in zip(eager, lazy, strict=True)]
    rows = [
        blank.measured("time, eager", [run.elapsed_s for run in eager], unit="s"),
        blank.measured("time of DINO, eager", [run.dino_s for run in eager], unit="s"),
        blank.measured("time, lazy", [run.elapsed_s for run in lazy], unit="s", note=note),
        blank.measured("time of eager / lazy", saved, unit="ratio"),
        blank.measured("time / (eager - 90 % of DINO)", ratios, unit="ratio", note=note),
        blank.measured(
            "vectors that differ",
            [float(moved[0])],
            note=f"of {2 * num_pairs} that DINO gave in other batches; by {moved[1]:.2g} at most",
        ),
    ]
    return [judged(row) for row in rows]


@click.command()
@click.option("--towers", type=click.Choice(["l14", "small"]), default="l14", show_default=True)
@click.option("--images", "num_images", default=60, show_default=True, help="in the corpus")
@click.option("--pairs", "num_pairs", default=3, show_default=True, help="planted among them")
@click.option("--batch-size", default=16, show_default=True, help="images to a batch")
@click.option("--repeats", default=2, show_default=True, help="rounds")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(
    towers: str, num_images: int, num_pairs: int, batch_size: int, repeats: int, out: Path
) -> None:
    """Measure eager and lazy runs on one corpus."""
    rows = compare(towers, num_images, num_pairs, batch_size, repeats)
    append_rows(out, rows)
    show(rows)


if __name__ == "__main__":
    main()
