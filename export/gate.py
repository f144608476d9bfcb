"""The proof that every engine passes before it is used, and on which images.

Everywhere on the scenes that come with the package, and on the user's own images where some are
given: of those the pairs that are nearest by the engine's own vectors, and others far from all.
Both kinds are blended too, so that pairs lie wherever the threshold is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from export.cache import EngineCache
from export.look import Group, pick_images
from export.proofs import prove
from export.scenes import bundled_scenes
from export.verify import MIN_IMAGES
from miner.config import ImageLimits
from miner.encoders import Encoder, TorchEncoder
from miner.engines import halve, release, second_shortage
from miner.errors import ImageError, ShardError
from miner.images import cut, decode
from miner.samples import Sample, ShardReader
from miner.shards import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How many images a proof takes: what a GPU does in a moment takes a processor minutes.

    Attributes:
        read: of the user's own.
        picked: of those.
        blends: to add to the scenes, and to the picked ones.
    """

    read: int
    picked: int
    blends: int


AMOUNTS = {
    "cuda": Amounts(read=256, picked=48, blends=24),
    "cpu": Amounts(read=32, picked=16, blends=8),
}


@dataclass(kw_only=True)
class Gate:
    """Proves the engines of one encoder, in half the batches where memory ends.

    Attributes:
        load_truth: gives the encoder in float32; called only where there is no proof yet.
        images_HWC: the user's own, [H, W, 3] uint8 each; fewer than 16 are not looked at.
        batch_size: images to a batch, as in the run; what is left of it after a shortage.
        threshold: of the cosine, at which a run decides.
        proofs: folder of what was proven on this machine before.
        is_halved: whether there was a shortage.
    """

    load_truth: Callable[[], TorchEncoder]
    images_HWC: Sequence[torch.Tensor]
    batch_size: int
    threshold: float | None = None
    proofs: Path = field(default_factory=lambda: EngineCache().prepare("proofs"))
    is_halved: bool = field(default=False, init=False)

    def __call__(
        self, encoder: Encoder, engine: Mapping[str, object], *, anew: bool = False
    ) -> float:
        """The largest deviation of a pair's cosine; becomes the engine's `deviation`.

        Args:
            encoder: the engine.
            engine: what else decides its vectors: a file's hash, a runtime's version.
            anew: verify it whatever was proven before.

        Raises:
            ParityError: the engine is not equal to its encoder.
            ResourceError: the memory does not suffice, after the batch was halved.
        """
        if not self.is_halved:
            try:
                return self._prove(encoder, engine, anew=anew)
            except torch.OutOfMemoryError as error:
                self.batch_size = halve(encoder, self.batch_size, error)
                self.is_halved = True
            # Only here has the failed attempt, which the error holds on to, let go of its memory.
            release(encoder.device)
        try:
            return self._prove(encoder, engine, anew=anew)
        except torch.OutOfMemoryError as error:
            raise second_shortage(encoder, self.batch_size, error) from error

    def at(self, batch_size: int, encoder: Encoder, engine: Mapping[str, object]) -> float:
        """The same at a batch size to which the run has come by a shortage."""
        self.batch_size, self.is_halved = batch_size, True
        return self(encoder, engine)

    def _prove(self, encoder: Encoder, engine: Mapping[str, object], *, anew: bool) -> float:
        verdict = prove(
            encoder,
            self.load_truth,
            groups_for(encoder, self.images_HWC, self.batch_size),
            folder=self.proofs,
            threshold=self.threshold,
            batch_size=self.batch_size,
            engine=engine,
            anew=anew,
        )
        return verdict.deviation


def groups_for(
    encoder: Encoder, images_HWC: Sequence[torch.Tensor], batch_size: int
) -> list[Group]:
    """The images that an engine is judged on: scenes, and some of the user's own."""
    record, amounts = encoder.record, amounts_on(encoder.device)
    of_images = partial(Group.of_images, record=record, num_blends=amounts.blends)
    groups = [of_images("scenes", images_HWC=bundled_scenes())]
    if len(images_HWC) < MIN_IMAGES:
        return groups
    pixels_NCHW = torch.stack([cut(image_HWC, record.crop) for image_HWC in images_HWC])
    vectors_ND = torch.cat([encoder(part).cpu() for part in torch.split(pixels_NCHW, batch_size)])
    # Of a broken engine the choice is odd; it then falls over the scenes.
    picked = pick_images(torch.nan_to_num(vectors_ND), amounts.picked)
    return [*groups, of_images("own", images_HWC=[images_HWC[row] for row in picked])]


def amounts_on(device: torch.device) -> Amounts:
    """How many images a proof takes on a device."""
    return AMOUNTS["cpu" if device.type == "cpu" else "cuda"]


def first_images(shards: Iterable[Shard], number: int) -> list[torch.Tensor]:
    """The first images of some shards: [H, W, 3] uint8 each, fewer where there are no more.

    Which images a run refuses, it says itself; here others take their places. So does a shard that
    cannot be read.
    """
    limits = ImageLimits()
    images_HWC: list[torch.Tensor] = []
    for sample in chain.from_iterable(_samples(shard, limits) for shard in shards):
        try:
            images_HWC.append(decode(sample.data, limits).pixels_HWC)
        except ImageError:
            continue
        if len(images_HWC) == number:
            break
    return images_HWC


def _samples(shard: Shard, limits: ImageLimits) -> Iterable[Sample]:
    try:
        yield from (item for item in ShardReader(shard, limits) if isinstance(item, Sample))
    except ShardError:
        return
