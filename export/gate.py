"""The proof that every engine passes before it is used, and on which images.

Everywhere on the scenes that come with the package, and on the user's own images where some are
given: of those the pairs that are nearest by the engine's own vectors, and others far from all.
Both kinds are blended too, so that pairs lie wherever the threshold is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import torch

from export.cache import EngineCache
from export.look import Group, pick_images
from export.proofs import prove
from export.scenes import bundled_scenes
from export.verify import MIN_IMAGES
from miner.config import ExcludeSettings, ImageLimits, JoinSettings
from miner.crops import cut
from miner.encoders import Encoder, TorchEncoder
from miner.errors import ImageError, ShardError
from miner.guarded import halve, release, second_shortage
from miner.images import decode
from miner.registry import EncoderRecord
from miner.samples import Sample, ShardReader
from miner.shards import Shard

log = logging.getLogger(__name__)


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
        own: the user's images, of which fewer than 16 are not looked at; None: there are none.
        batch_size: images to a batch, as in the run; what is left of it after a shortage.
        threshold: of the cosine, at which a run decides.
        proofs: folder of what was proven on this machine before.
        is_halved: whether there was a shortage.
    """

    load_truth: Callable[[], TorchEncoder]
    own: Group | None
    batch_size: int
    threshold: float | None = None
    proofs: Path = field(default_factory=lambda: EngineCache().prepare("proofs"))
    is_halved: bool = field(default=False, init=False)
    _groups: list[Group] | None = field(default=None, init=False)

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
        if self._groups is None:
            self._groups = groups_for(encoder, self.own, self.batch_size)
            # Only the picked ones are kept, in case the run is halved.
            self.own = None
        verdict = prove(
            encoder,
            self.load_truth,
            self._groups,
            folder=self.proofs,
            threshold=self.threshold,
            batch_size=self.batch_size,
            engine=engine,
            anew=anew,
        )
        return verdict.deviation


def groups_for(encoder: Encoder, own: Group | None, batch_size: int) -> list[Group]:
    """The images that an engine is judged on: scenes, and some of the user's own."""
    record, amounts = encoder.record, amounts_on(encoder.device)
    scenes = Group.of_images("scenes", record, bundled_scenes(), num_blends=amounts.blends)
    if own is None:
        return [scenes]
    if len(own) < MIN_IMAGES:
        log.warning(
            "%s is judged on rendered scenes alone; of the run's own images %d can be decoded, %d "
            "are needed to judge by them too",
            *(record.name, len(own), MIN_IMAGES),
        )
        return [scenes]
    parts = torch.split(own.pixels_NCHW, batch_size)
    vectors_ND = torch.cat([encoder(part_BCHW).cpu() for part_BCHW in parts])
    # Of a broken engine the choice is odd; it then falls over the scenes.
    picked = pick_images(torch.nan_to_num(vectors_ND), amounts.picked)
    return [scenes, own.picked(picked, num_blends=amounts.blends)]


def usual_threshold(record: EncoderRecord) -> float:
    """Where a run decides by default: the encoder's own threshold, else that of its kind."""
    usual = JoinSettings()
    if record.library == "open_clip":
        return usual.clip_above if record.clip_above is None else record.clip_above
    return usual.dino_below if record.dino_below is None else record.dino_below


def amounts_on(device: torch.device) -> Amounts:
    """How many images a proof takes on a device."""
    return AMOUNTS["cpu" if device.type == "cpu" else "cuda"]


def first_images(
    shards: Iterable[Shard],
    records: Sequence[EncoderRecord],
    number: int,
    *,
    limits: ImageLimits,
    limit: int | None = None,
    exclude: ExcludeSettings | None = None,
) -> list[Group]:
    """The first images of some shards, cut for each encoder; fewer where there are no more.

    Which images a run refuses, it says itself; here others take their places. So does a shard that
    cannot be read. One image is decoded at a time and only its crops are kept, in this process:
    a decoder that ends its process ends the run here, before its first shard, where a decode
    worker would cost that image alone.

    Args:
        shards: in their order.
        records: of the encoders.
        number: of images at most.
        limits: what an image may be.
        limit: of samples that the run reads; no others are looked at.
        exclude: samples that are not decoded here either.

    Returns:
        For each encoder its crops, all of the same images.
    """
    cuts: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = [([], []) for _ in records]
    samples = chain.from_iterable(_samples(shard, limits, exclude) for shard in shards)
    for sample in islice(samples, limit):
        try:
            pixels_HWC = decode(sample.data, limits).pixels_HWC
        except ImageError:
            continue
        for record, (reference, fast) in zip(records, cuts, strict=True):
            reference.append(cut(pixels_HWC, record.crop, reference=True))
            fast.append(cut(pixels_HWC, record.crop))
        if len(cuts[0][0]) == number:
            break
    groups = []
    for record, crops in zip(records, cuts, strict=True):
        none_NCHW = torch.empty((0, 3, *[record.image_size] * 2), dtype=torch.uint8)
        reference_NCHW, fast_NCHW = (torch.stack(kind) if kind else none_NCHW for kind in crops)
        groups.append(Group(name="own", reference_NCHW=reference_NCHW, pixels_NCHW=fast_NCHW))
    return groups


def _samples(
    shard: Shard, limits: ImageLimits, exclude: ExcludeSettings | None
) -> Iterable[Sample]:
    reader = ShardReader(shard, limits, exclude)
    try:
        yield from (item for item in reader if isinstance(item, Sample))
    except ShardError:
        return
