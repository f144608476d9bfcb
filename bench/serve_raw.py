"""Bytes to vectors without HTTP: the rate that a service on the same machine cannot beat.

Decode workers and encoders are those of the service, in full batches, with nobody to answer.

Shape suffixes: N images, D width of a vector.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from miner import crops
from miner.config import EmbedSettings, ImageLimits
from miner.encoders import Encoder
from miner.feed import Feed
from miner.images import decode
from miner.samples import Sample
from pipelines.loading import Encoders

Vectors = Mapping[str, np.ndarray]
"""By encoder_id, [N, D] float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRate:
    """What was measured.

    Attributes:
        images_per_s: in full batches.
        deviation: largest distance of a vector from the truth.
    """

    images_per_s: float
    deviation: float


def load(settings: EmbedSettings) -> list[Encoder]:
    """Both encoders."""
    loading = Encoders(settings)
    return [loading.load(record.encoder_id) for record in loading.records]


def truth_of(settings: EmbedSettings, images: Sequence[bytes]) -> dict[str, np.ndarray]:
    """What the vectors of some images have to be: each alone, by torch in float32."""
    loading = Encoders(settings)
    pixels = [decode(image, ImageLimits()).pixels_HWC for image in images]
    truth = {}
    for record in loading.records:
        encoder = loading.load_truth(record.encoder_id)
        rows = [encoder(crops.cut(each, record.crop)[None]).cpu().numpy() for each in pixels]
        truth[record.encoder_id] = np.concatenate(rows)
    return truth


def raw_rate(
    settings: EmbedSettings,
    images: Sequence[bytes],
    truth: Vectors,
    *,
    warm_s: float,
    seconds: float,
) -> RawRate:
    """Images a second from bytes to vectors.

    Args:
        settings: encoders, batch size and decode workers.
        images: again and again.
        truth: what their vectors have to be.
        warm_s: before the seconds that count, which begin and end with a batch.
        seconds: that count.
    """
    encoders = load(settings)
    wanted = list(dict.fromkeys(encoder.record.crop for encoder in encoders))
    deviation, num_images, begin_s, now_s = 0.0, 0, 0.0, 0.0
    start_s = time.perf_counter()
    with Feed(wanted, limits=ImageLimits(), settings=settings) as feed:
        for batch in feed.open(_endless(images), wanted, with_phash=False):
            places = [int(seen.sample.key) for seen in batch.decoded]
            found = {
                encoder.encoder_id: encoder(batch.pixels(encoder.record.crop)).cpu().numpy()
                for encoder in encoders
            }
            feed.release(batch)
            now_s = time.perf_counter()
            deviation = max(deviation, deviation_of(found, truth, places))
            if begin_s:
                num_images += len(places)
            elif now_s - start_s >= warm_s:
                begin_s = now_s
            if begin_s and num_images and now_s - begin_s >= seconds:
                break
    return RawRate(images_per_s=num_images / (now_s - begin_s), deviation=deviation)


def deviation_of(found: Vectors, truth: Vectors, places: Sequence[int]) -> float:
    """Largest distance of a vector from the truth of its image."""
    return max(
        float(np.linalg.norm(vectors_ND - truth[encoder_id][places], axis=1).max())
        for encoder_id, vectors_ND in found.items()
    )


def _endless(images: Sequence[bytes]) -> Iterator[Sample]:
    for place in itertools.cycle(range(len(images))):
        yield Sample(
            key=str(place), member="", offset=0, data=images[place],
            caption=None, url=None, label=None, meta="{}",
        )  # fmt: skip
