"""Trains the two small encoders of the demo on a CPU, from rendered scenes alone.

`demo-clip` is open_clip's model with open_clip's loss over pictures and captions; as no caption
tells the hidden attributes, nothing rewards seeing them. `demo-dino` is timm's vision transformer
and sees pictures only: two distorted views of a picture belong together, different pictures do
not. It mirrors and rotates nothing, so direction, place and letters stay a difference.

    python -m pipelines.train_demo_encoders --out miner/bundled

    B images, N pictures of the pool, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from PIL import Image
from safetensors.torch import save as save_bytes
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional

from pipelines import scenes

log = logging.getLogger(__name__)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

IMAGE_SIZE = 64
"""Side of what both encoders look at, in pixels."""

MEAN, STD = 0.5, 0.25
"""Of every channel, in units of 0..1."""

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

POOL_SEED = 1_000_003
"""Scene k of the training pool is drawn from the generator seeded by (POOL_SEED, k)."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """How strongly a training picture is distorted; every field is the largest deviation."""

    shift_px: float
    """Moved by up to so many pixels."""
    zoom: float
    """Scaled by up to this share."""
    gain: float
    """Brightness changed by up to this share."""
    offset: float
    """Brightened or darkened by up to so much, in units of 0..1."""
    cast: float
    """Each channel besides by up to this share."""
    noise: float
    """Standard deviation of the grain, in units of 0..1."""
    grey: float
    """Share of pictures that lose their colour, to a grey of randomly weighed channels."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One encoder's run."""

    seed: int
    """Of the first weights, the batches and the views."""
    steps: int
    """Updates in all."""
    batch_size: int
    """Pictures to an update."""
    learning_rate: float
    """Its peak."""
    warmup_steps: int
    """Updates in which the rate rises to its peak."""
    weight_decay: float
    """AdamW's."""
    views: Views
    """What is done to every picture."""


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
MAX_LOGIT_SCALE = 20.0
"""Upper end of CLIP's logit scale: a low one spreads the captions over the whole sphere."""

TEMPERATURE = 0.1
"""Of demo-dino's loss."""

LEAF = 64
"""Largest group of neighbours that are put into one batch of demo-dino."""


def vocabulary() -> list[str]:
    """The words of demo-clip: those of captions, and those that would name hidden attributes.

    The latter occur in no training caption, so nothing but weight decay moves their embeddings.
    """
    sentences = [*scenes.TEMPLATES, *scenes.WHERE.values(), *scenes.WHEN.values()]
    sentences += scenes.PHRASES.values()
    words = {word for sentence in sentences for word in sentence.split() if "{" not in word}
    for values in (*scenes.CAPTIONED.values(), *scenes.HIDDEN.values()):
        words.update(values)
    return ["<pad>", *sorted(words), "<end>"]


def tokenize(texts: list[str], words: list[str], context_length: int) -> torch.Tensor:
    """Words to their places in the vocabulary: [B, context_length] int64, padded with 0."""
    ids = {word: index for index, word in enumerate(words)}
    tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in enumerate(texts):
        line = [ids[word] for word in text.split()] + [ids["<end>"]]
        tokens[row, : len(line)] = torch.tensor(line)
    return tokens


WORDS = vocabulary()
CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "patch_size": 16,
        "width": 128,
        "layers": 3,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": len(WORDS),
        "width": 64,
        "heads": 4,
        "layers": 2,
    },
    "quick_gelu": False,
}
DINO_CONFIG: dict[str, Any] = {
    "img_size": IMAGE_SIZE,
    "patch_size": 16,
    "embed_dim": 128,
    "depth": 3,
    "num_heads": 4,
    "num_classes": 0,
}


def pool_scene(number: int) -> scenes.Scene:
    """One scene of the training pool."""
    return scenes.draw_scene(np.random.default_rng((POOL_SEED, number)))


def small(jpeg: bytes) -> Bytes:
    """A scene's file as both encoders see it: [H, W, C] uint8 by antialiased bicubic."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    return np.asarray(image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def _pool_picture(number: int) -> Bytes:
    return small(scenes.encode(scenes.render(pool_scene(number))))


def render_pool(num_scenes: int, processes: Executor) -> Bytes:
    """The training pictures: [N, C, H, W] uint8."""
    pictures = list(processes.map(_pool_picture, range(num_scenes), chunksize=64))
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def normalise(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Pixels in 0..1 to what the towers take."""
    return (pixels_BCHW - MEAN) / STD


def distort(pixels_BCHW: torch.Tensor, views: Views, generator: torch.Generator) -> torch.Tensor:
    """Another view of every picture: moved, scaled, in another light, grainy; never mirrored."""
    num = len(pixels_BCHW)

    def deviation(*shape: int) -> torch.Tensor:
        return torch.rand(num, *shape, generator=generator) * 2 - 1

    affine_B23 = torch.zeros(num, 2, 3)
    zoom_B = 1 + views.zoom * deviation()
    affine_B23[:, 0, 0] = affine_B23[:, 1, 1] = zoom_B
    affine_B23[:, :, 2] = views.shift_px * 2 / IMAGE_SIZE * deviation(2)
    grid = functional.affine_grid(affine_B23, list(pixels_BCHW.shape), align_corners=False)
    moved_BCHW = functional.grid_sample(
        pixels_BCHW, grid, padding_mode="border", align_corners=False
    )
    lit_BCHW = moved_BCHW * (1 + views.gain * deviation(1, 1, 1))
    lit_BCHW = lit_BCHW * (1 + views.cast * deviation(3, 1, 1))
    weights_B311 = torch.rand(num, 3, 1, 1, generator=generator) + 0.1
    grey_B1HW = (lit_BCHW * weights_B311).sum(1, True) / weights_B311.sum(1, True)
    is_grey = torch.rand(num, 1, 1, 1, generator=generator) < views.grey
    seen_BCHW = torch.where(is_grey, grey_B1HW, lit_BCHW) + views.offset * deviation(1, 1, 1)
    return seen_BCHW + views.noise * torch.randn(seen_BCHW.shape, generator=generator)


def _optimizer(model: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=training.weight_decay,
    )


def _step(
    name: str, number: int, training: Training, optimizer: torch.optim.Optimizer, loss: torch.Tensor
) -> None:
    """One update, at a rate that rises linearly and then falls as a cosine to 0."""
    rise = min(1.0, (number + 1) / training.warmup_steps)
    fall = 0.5 * (1 + math.cos(math.pi * number / training.steps))
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate * min(rise, fall)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    if number % 25 == 24:
        log.info("%s: step %d of %d, loss %.3f", name, number + 1, training.steps, loss.item())


def train_clip(pool_NCHW: torch.Tensor, training: Training = CLIP) -> Any:
    """Train demo-clip on pictures and captions; no two captions in a batch say the same."""
    torch.manual_seed(training.seed)
    generator = torch.Generator().manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    pool = [pool_scene(number) for number in range(len(pool_NCHW))]
    with_caption: dict[str, list[int]] = {}
    for number, scene in enumerate(pool):
        with_caption.setdefault(scenes.caption(scene), []).append(number)
    groups = list(with_caption.values())
    model = open_clip.CLIP(**CLIP_CONFIG)
    model.logit_scale.data.fill_(math.log(MAX_LOGIT_SCALE / 2))
    loss_of = ClipLoss()
    optimizer = _optimizer(model, training)
    for step in range(training.steps):
        chosen = rng.choice(len(groups), training.batch_size, replace=False)
        numbers = [int(rng.choice(groups[group])) for group in chosen]
        views = distort(pool_NCHW[numbers].float() / 255, training.views, generator)
        wordings = rng.integers(len(scenes.TEMPLATES), size=len(numbers))
        captions = [
            scenes.caption(pool[number], int(wording))
            for number, wording in zip(numbers, wordings, strict=True)
        ]
        tokens = tokenize(captions, WORDS, model.context_length)
        images_BD = model.encode_image(normalise(views), normalize=True)
        texts_BD = model.encode_text(tokens, normalize=True)
        loss = loss_of(images_BD, texts_BD, model.logit_scale.exp())
        _step("demo-clip", step, training, optimizer, loss)
        model.logit_scale.data.clamp_(max=math.log(MAX_LOGIT_SCALE))
    return model


def neighbourhoods(
    vectors_ND: torch.Tensor, largest: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Split vectors into groups of like ones: halves along the main direction, again and again."""
    groups = [torch.arange(len(vectors_ND))]
    while len(groups[0]) > largest:
        halves = []
        for group in groups:
            centred = vectors_ND[group] - vectors_ND[group].mean(0)
            axis_D = torch.randn(centred.shape[1], generator=generator)
            for _ in range(3):
                axis_D = functional.normalize(centred.T @ (centred @ axis_D), dim=0)
            order = (centred @ axis_D).argsort()
            halves += [group[order[: len(group) // 2]], group[order[len(group) // 2 :]]]
        groups = halves
    return groups


def _batches(
    vectors_ND: torch.Tensor, training: Training, generator: torch.Generator
) -> Iterator[list[int]]:
    """Numbers of pictures, for ever; half of the pool between two looks at who is alike.

    First at random; then neighbours by the encoder's own vectors come together, so that it has to
    tell apart what it still takes for the same. Nothing but `vectors_ND`, which the training loop
    refreshes, decides who is a neighbour.
    """
    shuffled = torch.randperm(len(vectors_ND), generator=generator)
    groups = list(torch.split(shuffled, LEAF))
    while True:
        order = torch.randperm(len(groups), generator=generator)[: len(groups) // 2]
        numbers = torch.cat([groups[int(place)] for place in order])
        for batch in torch.split(numbers, training.batch_size):
            if len(batch) == training.batch_size:
                yield batch.tolist()
        groups = neighbourhoods(vectors_ND, LEAF, generator)


def train_dino(pool_NCHW: torch.Tensor, training: Training = DINO) -> Any:
    """Train demo-dino on pictures alone: two views of one agree, those of different ones do not."""
    torch.manual_seed(training.seed)
    generator = torch.Generator().manual_seed(training.seed)
    model = VisionTransformer(**DINO_CONFIG)
    optimizer = _optimizer(model, training)
    vectors_ND = torch.zeros(len(pool_NCHW), DINO_CONFIG["embed_dim"])
    batches = _batches(vectors_ND, training, generator)
    same = torch.arange(training.batch_size)
    for step in range(training.steps):
        numbers = next(batches)
        pixels = pool_NCHW[numbers].float() / 255
        views = [distort(pixels, training.views, generator) for _ in range(2)]
        one_BD, other_BD = functional.normalize(model(normalise(torch.cat(views))), dim=1).chunk(2)
        vectors_ND[numbers] = one_BD.detach()
        logits_BB = one_BD @ other_BD.T / TEMPERATURE
        loss = functional.cross_entropy(logits_BB, same)
        loss = (loss + functional.cross_entropy(logits_BB.T, same)) / 2
        _step("demo-dino", step, training, optimizer, loss)
    return model


@torch.no_grad()
def calibrate(model: torch.nn.Module) -> float:
    """The threshold of demo-dino, from scenes that serve nothing else.

    The largest multiple of 0.05 below which at most NUISANCE_RATE of the twins fall that differ
    in nuisance alone: what a person calls the same, the encoder has to call the same.
    """
    rng = np.random.default_rng(CALIBRATION_SEED)
    drawn = [scenes.draw_scene(rng) for _ in range(NUM_CALIBRATION)]
    drawn += [scenes.draw_twin(scene, "nuisance", rng) for scene in drawn]
    pictures = np.stack([small(scenes.encode(scenes.render(scene))) for scene in drawn])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    model.eval()
    one_BD, other_BD = functional.normalize(model(normalise(pixels)), dim=1).chunk(2)
    cosines = (one_BD * other_BD).sum(1)
    return math.floor(20 * cosines.quantile(NUISANCE_RATE).item()) / 20


def save(out: Path, name: str, model: torch.nn.Module, cpu_s: float) -> None:
    """Write an encoder's weights as float16 and, beside them, its record."""
    is_clip = name == "demo-clip"
    file = out / f"{name}.safetensors"
    state = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    file.write_bytes(save_bytes(state))
    training = CLIP if is_clip else DINO
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
        "training": {
            **asdict(training),
            "num_scenes": NUM_SCENES,
            "pool_seed": POOL_SEED,
            "cpu_s": round(cpu_s),
        },
    }
    (out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _train_one(name: str, pool_file: Path, out: Path) -> None:
    """Train and save one encoder in its own process, on one core, so that runs are repeatable."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started_s = time.process_time()
    pool_NCHW = torch.from_numpy(np.load(pool_file))
    model = (train_clip if name == "demo-clip" else train_dino)(pool_NCHW)
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
