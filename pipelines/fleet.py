"""What a run takes on 1, 8 and 64 GPUs: time, what each has to read, and what each holds."""

from __future__ import annotations

from dataclasses import dataclass

from miner.packs import MOST_SEGMENTS, SEGMENT_ROWS

FLEETS = (1, 8, 64)
"""Numbers of GPUs that a plan looks at."""

HOPPER_FLOPS_PER_S = 584e12
"""cuBLAS in bfloat16 at a ViT-L's own shapes, on Hopper; where no GPU is there to be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What is to be mined.

    Attributes:
        num_images: images.
        num_bytes: of the shards.
        flops: floating-point operations of both encoders for an image.
        clip_width: of a CLIP vector.
        dino_width: of a DINO vector.
    """

    num_images: int
    num_bytes: int
    flops: float
    clip_width: int
    dino_width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one of several GPUs does and needs.

    Attributes:
        encode_s: seconds until all images are encoded, at least.
        images_per_s: that it encodes.
        read_bytes_per_s: that it has to be given of the shards.
        join_s: seconds until all pairs are screened, at full width: at most, by codes less.
        join_bytes: of vectors that it holds while it searches a block.
    """

    encode_s: float
    images_per_s: float
    read_bytes_per_s: float
    join_s: float
    join_bytes: int


def share(corpus: Corpus, num_gpus: int, flops_per_s: float) -> Share:
    """What each of so many GPUs does, if all of them are busy all the time.

    Args:
        corpus: what is to be mined.
        num_gpus: how many share the work.
        flops_per_s: floating-point operations a second of one, in the encoders' products.
    """
    num_images = corpus.num_images
    encode_s = num_images * corpus.flops / flops_per_s / num_gpus
    # A join has no more to hand out than its blocks.
    num_segments = min(max(-(-num_images // SEGMENT_ROWS), 1), MOST_SEGMENTS)
    num_blocks = num_segments * (num_segments + 1) // 2
    num_pairs = num_images * (num_images - 1) // 2
    join_s = 2 * num_pairs * corpus.clip_width / flops_per_s / min(num_gpus, num_blocks)
    segment_rows = -(-num_images // num_segments)
    sides = min(2, num_segments)
    return Share(
        encode_s=encode_s,
        images_per_s=flops_per_s / corpus.flops,
        read_bytes_per_s=corpus.num_bytes / max(encode_s, 1e-9) / num_gpus,
        join_s=join_s,
        join_bytes=sides * segment_rows * 2 * (corpus.clip_width + corpus.dino_width),
    )
