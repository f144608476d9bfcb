"""The demo's two encoders: their models, their losses and the loops that train them.

`demo-clip` is open_clip's model with open_clip's loss over pictures and captions; as no caption
tells the hidden attributes, nothing rewards seeing them. `demo-dino` is timm's vision transformer
and sees pictures only: two distorted views of a picture belong together, different pictures do
not.

    B images, N pictures of the pool, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional

from pipelines import scenes
from pipelines.demo_pictures import IMAGE_SIZE, Views, distort, normalise, pool_scene

log = logging.getLogger(__name__)


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


BETAS = (0.9, 0.98)
"""AdamW's, for both."""

MAX_LOGIT_SCALE = 20.0
"""Upper end of CLIP's logit scale: a low one spreads the captions over the whole sphere."""

FIRST_LOGIT_SCALE = MAX_LOGIT_SCALE / 2
"""Where it starts."""

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


def _optimizer(model: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(),
        lr=training.learning_rate,
        betas=BETAS,
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


def train_clip(pool_NCHW: torch.Tensor, training: Training) -> Any:
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
    model.logit_scale.data.fill_(math.log(FIRST_LOGIT_SCALE))
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


def train_dino(pool_NCHW: torch.Tensor, training: Training) -> Any:
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
