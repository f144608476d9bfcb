"""Trains the two small encoders of the demo on a CPU, from rendered scenes alone.

What the models are and how they learn stands in `pipelines.demo_training`; here are the settings
of both runs, the threshold of demo-dino and the files.

    python -m pipelines.train_demo_encoders --out miner/bundled

    B images, N pictures of the pool, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_bytes
from torch.nn import functional

from pipelines.demo_pictures import (
    IMAGE_SIZE,
    MEAN,
    POOL_SEED,
    STD,
    Views,
    normalise,
    render_pool,
    small,
)
from pipelines.demo_training import (
    BETAS,
    CLIP_CONFIG,
    DINO_CONFIG,
    FIRST_LOGIT_SCALE,
    LEAF,
    MAX_LOGIT_SCALE,
    TEMPERATURE,
    WORDS,
    Training,
    train_clip,
    train_dino,
)
from pipelines.drawing import encode, render
from pipelines.scenes import draw_scene, draw_twin

log = logging.getLogger(__name__)

CLIP_ABOVE = 0.95
"""Threshold of demo-clip: the paper's. That of demo-dino is calibrated (`calibrate`)."""

CALIBRATION_SEED = 1_000_033
"""Of the scenes that demo-dino's threshold comes from."""

NUM_CALIBRATION = 400
"""How many they are, each with a twin."""

NUISANCE_RATE = 0.01
"""Share of nuisance twins that may fall below demo-dino's threshold."""

NUM_SCENES = 16_000
"""Pictures in the training pool."""

CLIP = Training(
    seed=1,
    steps=700,
    batch_size=128,
    learning_rate=1.5e-3,
    warmup_steps=50,
    weight_decay=0.05,
    views=Views(shift_px=1, zoom=0.03, gain=0.08, offset=0, cast=0.02, noise=0.015, grey=0),
)
DINO = Training(
    seed=2,
    steps=800,
    batch_size=128,
    learning_rate=1.5e-3,
    warmup_steps=50,
    weight_decay=0.05,
    views=Views(shift_px=1, zoom=0.02, gain=0.5, offset=0.2, cast=0.3, noise=0.03, grey=1),
)


@torch.no_grad()
def calibrate(model: torch.nn.Module) -> float:
    """The threshold of demo-dino, from scenes that serve nothing else.

    The largest multiple of 0.05 below which at most NUISANCE_RATE of the twins fall that differ
    in nuisance alone: what a person calls the same, the encoder has to call the same.
    """
    rng = np.random.default_rng(CALIBRATION_SEED)
    drawn = [draw_scene(rng) for _ in range(NUM_CALIBRATION)]
    drawn += [draw_twin(scene, "nuisance", rng) for scene in drawn]
    pictures = np.stack([small(encode(render(scene))) for scene in drawn])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    model.eval()
    one_BD, other_BD = functional.normalize(model(normalise(pixels)), dim=1).chunk(2)
    cosines = (one_BD * other_BD).sum(1)
    return math.floor(20 * cosines.quantile(NUISANCE_RATE).item()) / 20


def settings(name: str, cpu_s: float) -> dict[str, Any]:
    """What an encoder's training depended on, and the CPU time it took."""
    own = {
        "demo-clip": {"first_logit_scale": FIRST_LOGIT_SCALE, "max_logit_scale": MAX_LOGIT_SCALE},
        "demo-dino": {"temperature": TEMPERATURE, "largest_neighbourhood": LEAF},
    }
    return {
        **asdict(CLIP if name == "demo-clip" else DINO),
        "betas": list(BETAS),
        **own[name],
        "num_scenes": NUM_SCENES,
        "pool_seed": POOL_SEED,
        "cpu_s": round(cpu_s),
    }


def save(out: Path, name: str, model: torch.nn.Module, cpu_s: float) -> None:
    """Write an encoder's weights as float16 and, beside them, its record."""
    is_clip = name == "demo-clip"
    file = out / f"{name}.safetensors"
    state = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    file.write_bytes(save_bytes(state))
    record = {
        "name": name,
        "library": "open_clip" if is_clip else "timm",
        "model": "ViT-16 at 64 px",
        "weights": "rendered scenes",
        "config": CLIP_CONFIG if is_clip else DINO_CONFIG,
        "bundled": file.name,
        "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "crop": {
            "mode": "shortest",
            "resize_to": IMAGE_SIZE,
            "size": IMAGE_SIZE,
            "interpolation": "bicubic",
        },
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "pooling": "clip_projection" if is_clip else "cls",
        "dim": CLIP_CONFIG["embed_dim"] if is_clip else DINO_CONFIG["embed_dim"],
        "activation": "gelu" if is_clip else "library_default",
        "licence": "Apache-2.0",
        **({"clip_above": CLIP_ABOVE} if is_clip else {"dino_below": calibrate(model)}),
    }
    content = {
        "record": record,
        **({"vocabulary": WORDS} if is_clip else {}),
        "training": settings(name, cpu_s),
    }
    (out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _train_one(name: str, pool_file: Path, out: Path) -> None:
    """Train and save one encoder in its own process, on one core, so that runs are repeatable."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started_s = time.process_time()
    pool_NCHW = torch.from_numpy(np.load(pool_file))
    is_clip = name == "demo-clip"
    model = train_clip(pool_NCHW, CLIP) if is_clip else train_dino(pool_NCHW, DINO)
    save(out, name, model, time.process_time() - started_s)


def main() -> None:
    """Render the pool, then train both encoders side by side."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("miner/bundled"), help="written here")
    parser.add_argument("--pool", type=Path, help="rendered pool, kept from run to run (npy)")
    parser.add_argument("--only", choices=("demo-clip", "demo-dino"), help="train just this one")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    started = time.monotonic()
    names = [given.only] if given.only else ["demo-clip", "demo-dino"]
    given.out.mkdir(parents=True, exist_ok=True)
    spawning = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, spawning) as processes:
        pool_file = given.pool or Path(folder) / "pool.npy"
        if not pool_file.exists():
            np.save(pool_file, render_pool(NUM_SCENES, processes))
            log.info("rendered %d scenes in %.0f s", NUM_SCENES, time.monotonic() - started)
        for run in [processes.submit(_train_one, name, pool_file, given.out) for name in names]:
            run.result()
    log.info("trained %s in %.0f s", " and ".join(names), time.monotonic() - started)


if __name__ == "__main__":
    main()
