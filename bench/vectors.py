"""The vectors that a join is measured on: seeded, float16, with a stated shape and known pairs.

`anisotropic`: CLIP-like rows in a cone of common cosine 0.5 with eigenvalues k^-1 around its mean,
DINO-like rows in one of 0.05 with k^-0.5. `clustered`: the same spaces, but every row belongs to
one of 1,000 classes, at random places, with cosines of about 0.85 (CLIP) and 0.6 (DINO) within a
class. `clustered-flat`: likewise, but what tells members of a class apart is spread over all axes
alike, so that no short code sees it. `demo`: what the bundled encoders say of the demo's rendered
scenes, at their own thresholds.

Shape suffixes: N rows, D clip width, E dino width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from bench.cones import Cone, make_cone, seeded
from bench.planting import plant, turned
from kernels.reference import Pairs, concatenate

CHUNK_ROWS = 16_384
"""Rows that are made at a time, so that little more than the result is held."""

CLIP_COMMON, CLIP_ALPHA, CLIP_WITHIN = 0.5, 1.0, 0.85
DINO_COMMON, DINO_ALPHA, DINO_WITHIN = 0.05, 0.5, 0.6
NUM_CLASSES = 1000

SYNTHETIC = ("anisotropic", "clustered", "clustered-flat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Both vectors of N images, and what is known about their pairs.

    Attributes:
        data: one of `SYNTHETIC`, or `demo`.
        clip_ND: [N, D] float16 of unit length.
        dino_NE: [N, E] float16 of unit length, same device.
        clip_above: the thresholds to join them with.
        dino_below: likewise.
        planted: pairs whose cosines were set.
    """

    data: str
    clip_ND: torch.Tensor
    dino_NE: torch.Tensor
    clip_above: float = 0.95
    dino_below: float = 0.6
    planted: Pairs

    def __len__(self) -> int:
        return len(self.clip_ND)

    @property
    def shape(self) -> str:
        """As in the rows: N x D + E."""
        return f"{len(self)}x{self.clip_ND.shape[1]}+{self.dino_NE.shape[1]}"


def synthetic(
    data: str,
    num_rows: int,
    *,
    dim: int = 768,
    dino_dim: int = 1024,
    seed: int = 0,
    device: str = "cpu",
) -> Vectors:
    """Vectors of a stated shape, with planted pairs.

    Args:
        data: one of `SYNTHETIC`.
        num_rows: N.
        dim: D.
        dino_dim: E.
        seed: equal arguments give equal vectors, up to the rounding of another machine.
        device: where they are made and lie.

    Raises:
        ValueError: there is no such data.
    """
    if data not in SYNTHETIC:
        raise ValueError(f"data is {data!r}; there are {', '.join(SYNTHETIC)} and demo")
    place = torch.device(device)
    clip = make_cone(dim, common=CLIP_COMMON, alpha=CLIP_ALPHA, seed=seed, stream=1, device=place)
    dino = make_cone(
        dino_dim, common=DINO_COMMON, alpha=DINO_ALPHA, seed=seed, stream=2, device=place
    )
    classes_N = None
    if data != "anisotropic":
        generator = seeded(torch.device("cpu"), seed, 3)
        classes_N = torch.randint(NUM_CLASSES, (num_rows,), generator=generator).to(place)
    flat = data == "clustered-flat"
    clip_ND = _rows(clip, num_rows, classes_N, CLIP_WITHIN, flat=flat, seed=(seed, 4))
    dino_NE = _rows(dino, num_rows, classes_N, DINO_WITHIN, flat=flat, seed=(seed, 5))
    planted = plant(clip_ND, dino_NE, seed=seed)
    return Vectors(data=data, clip_ND=clip_ND, dino_NE=dino_NE, planted=planted)


def _rows(
    cone: Cone,
    num_rows: int,
    classes_N: torch.Tensor | None,
    within: float,
    *,
    flat: bool,
    seed: tuple[int, int],
) -> torch.Tensor:
    """[N, D] float16, made chunk by chunk; around the centres of classes where there are any."""
    device = cone.mean_D.device
    rows_ND = torch.empty(num_rows, len(cone.mean_D), dtype=torch.float16, device=device)
    centres_CD = cone.rows(NUM_CLASSES, seeded(device, *seed, 0))
    for chunk, start in enumerate(range(0, num_rows, CHUNK_ROWS), start=1):
        part = slice(start, min(start + CHUNK_ROWS, num_rows))
        generator = seeded(device, *seed, chunk)
        if classes_N is None:
            rows_ND[part] = cone.rows(part.stop - start, generator)
        else:
            centres_ND = centres_CD[classes_N[part]]
            rows_ND[part] = cone.near(centres_ND, within, generator, flat=flat)
    return rows_ND


def crowd(vectors: Vectors, num_copies: int, *, seed: int = 0) -> tuple[Vectors, torch.Tensor]:
    """The same vectors with some rows replaced by re-encoded copies of one picture.

    A copy has a CLIP cosine of 0.998 to 0.9999 and a DINO cosine of 0.99 to 0.9999 with the
    picture, which is the first of them, and so more than 0.99 and 0.95 with every other copy.

    Args:
        vectors: what to start from; stays as it is.
        num_copies: how many rows show the picture.
        seed: of the places and cosines.

    Returns:
        The vectors, without any planted pairs known, and the [num_copies] int64 places, ascending.
    """
    generator = seeded(torch.device("cpu"), seed, 11)
    places = torch.randperm(len(vectors), generator=generator)[:num_copies].sort().values
    rows = []
    for stored, least in ((vectors.clip_ND, 0.998), (vectors.dino_NE, 0.99)):
        copied = stored.clone()
        span = torch.rand(num_copies, generator=generator, dtype=torch.float64)
        cosine = (least + (0.9999 - least) * span).to(stored.device)
        picture = copied[places[:1]]
        for start in range(1, num_copies, CHUNK_ROWS):
            part = places[start : start + CHUNK_ROWS]
            wanted = cosine[start : start + CHUNK_ROWS]
            copied[part] = turned(picture.expand(len(part), -1), copied[part], wanted, attempts=1)
        rows.append(copied)
    return (
        Vectors(data=vectors.data, clip_ND=rows[0], dino_NE=rows[1], planted=concatenate([])),
        places,
    )


def demo(num_scenes: int, folder: Path) -> Vectors:
    """The demo's vectors: rendered scenes through the bundled encoders; a run that resumes.

    Args:
        num_scenes: scenes to render.
        folder: the run directory to make or to read again.
    """
    from miner.rows import load_rows
    from miner.store import Store
    from pipelines.demo import run_demo

    _, record = run_demo(folder, num_scenes=num_scenes)
    rows = load_rows(Store(folder), record["clip"], record["dino"])
    return Vectors(
        data="demo",
        clip_ND=rows.clip_ND,
        dino_NE=rows.dino_NE,
        clip_above=record["clip_above"],
        dino_below=record["dino_below"],
        planted=concatenate([]),
    )
