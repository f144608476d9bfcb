"""The parity gate: an engine's vectors against those of `TorchEncoder` in float32.

An engine that fails is refused, whatever its speed. Each check is a figure with its limit:

    pixels      how far the pixels that a run cuts are from the reference's, of 255
    finite      vectors with NaN or infinity
    norm        how far a vector's length is from 1
    image       1 - cosine of an image's two vectors
    pair max    how far a pair's cosine is from the truth, over all pairs
    pair p99    the same, of all pairs but one in a hundred
    near        the same as p99, of the pairs near the threshold; of fewer than 100, their maximum
    position    how far a cosine moves when an image comes at another place of another batch
    moved pair  the same as pair max, with images at other places of other batches, or alone
    repeat      how far a vector moves when the same batch comes again
    candidates  pairs that change sides of the threshold from beyond the borderline band

Both see the same pixels, as a run cuts them, which are held against the reference's value by value:
one level of 255, which a resize may round otherwise, moves cosines of small encoders as far as an
engine in float32 is allowed to.

N images, P pairs, D dimensions; C, H, W channels, rows, columns
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from export.look import Group
from export.verdict import Check, Verdict
from miner.encoders import Encoder, TorchEncoder
from miner.engines import PAIR_LIMITS, PairLimits
from miner.errors import ParityError

PIXEL_LIMIT = 2
"""What the fast crop may differ from Pillow's by, of 255; `miner.crops` promises it."""

NORM_LIMIT = 1e-5
"""A float32 sum of 1,024 squares errs by less; a sum in a 16-bit format by 100 times more."""

MIN_IMAGES = 16
"""Of a group: 120 pairs, the fewest among which one in a hundred means something."""

MIN_SPREAD = 0.3
"""Between the truth's lowest and highest pair cosine: 150 times what an engine may err by. Vectors
that all point one way agree with anything that does."""

NEAR = 0.05
"""Pairs within this of the threshold are near; without a threshold, those above 0.9."""

MIN_NEAR_PAIRS = 8
"""Pairs that are near at least: those nearest to a threshold, however far; but of pairs above 0.9
there have to be so many, since nothing is known of the pairs that matter without them."""

_ENOUGH_FOR_P99 = 100
"""Pairs of which one in a hundred can be left out; of fewer, p99 would be the largest one."""

_TRUTH_BATCH = 16
"""Images that the truth encodes at a time, which may lie in memory beside the engine."""

_SINGLES = 3
"""Images that are also encoded alone."""


def verify(
    encoder: Encoder,
    truth: TorchEncoder,
    groups: Sequence[Group],
    *,
    threshold: float | None = None,
    batch_size: int = 64,
) -> Verdict:
    """Compare an engine with the truth.

    Args:
        encoder: the engine, without `Guarded` around it, which would mend what is to be seen.
        truth: the same encoder in float32.
        groups: kinds of images, each judged by itself and all together.
        threshold: of the cosine, at which a run decides; its candidates are compared too.
        batch_size: images to a batch, as in the run.

    Returns:
        Every figure. `Verdict.refuse()` raises if one is beyond its limit.

    Raises:
        ValueError: these two, or these settings, cannot be compared.
        ParityError: nothing can be said by these images: they are too few, or too much alike.
    """
    _check_comparable(encoder, truth, batch_size)
    for group in groups:
        if len(group) < MIN_IMAGES:
            raise _unjudged(encoder, f"group {group.name} has {len(group)} images", MIN_IMAGES)
    pixels_NCHW = torch.cat([group.pixels_NCHW for group in groups])
    truth_ND = _encode(truth, pixels_NCHW, min(batch_size, _TRUTH_BATCH))
    cosines_NN = truth_ND @ truth_ND.T
    cosines_P = cosines_NN[_pairs(len(truth_ND))]
    spread = float(cosines_P.max() - cosines_P.min())
    if not spread >= MIN_SPREAD:
        raise _unjudged(encoder, f"the images' cosines spread by {spread:.3f}", MIN_SPREAD)
    near_NN = _near(cosines_NN, threshold)
    num_near_pairs = int(near_NN[_pairs(len(truth_ND))].sum())
    if num_near_pairs < MIN_NEAR_PAIRS:
        what = f"{num_near_pairs} pairs have a cosine above 0.9"
        raise _unjudged(encoder, what, MIN_NEAR_PAIRS)
    vectors_ND = _encode(encoder, pixels_NCHW, batch_size)
    error_NN = (vectors_ND @ vectors_ND.T - cosines_NN).abs()
    limits = PAIR_LIMITS[encoder.precision]
    found = [
        *_shape_checks(vectors_ND),
        *_group_checks(groups, vectors_ND, truth_ND, error_NN, near_NN, limits),
        *_batch_checks(encoder, pixels_NCHW, vectors_ND, cosines_NN, batch_size, limits),
    ]
    if threshold is not None:
        found.append(_candidates(vectors_ND, cosines_NN, threshold, limits))
    return Verdict(
        encoder_id=encoder.encoder_id,
        backend=encoder.backend,
        precision=encoder.precision,
        device=str(encoder.device),
        num_images=len(pixels_NCHW),
        num_near_pairs=num_near_pairs,
        spread=spread,
        checks=tuple(found),
    )


def _check_comparable(encoder: Encoder, truth: TorchEncoder, batch_size: int) -> None:
    if truth.precision != "fp32":
        raise ValueError(f"the truth is in {truth.precision}; load TorchEncoder in fp32")
    if encoder.encoder_id != truth.encoder_id:
        raise ValueError(
            f"the engine is {encoder.encoder_id}, the truth {truth.encoder_id}; compare an "
            "encoder with itself"
        )
    if encoder.precision not in PAIR_LIMITS:
        raise ValueError(
            f"there are no limits for {encoder.precision}; precisions are {', '.join(PAIR_LIMITS)}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1")


def _unjudged(encoder: Encoder, fact: str, wanted: float) -> ParityError:
    return ParityError(
        f"{encoder.record.name} by {encoder.backend} cannot be judged: {fact}, at least {wanted:g} "
        "are needed; give more images, and of more kinds"
    )


def _encode(encoder: Encoder, pixels_NCHW: torch.Tensor, batch_size: int) -> torch.Tensor:
    """[N, D] float64 on the CPU."""
    batches = [encoder(pixels_BCHW) for pixels_BCHW in torch.split(pixels_NCHW, batch_size)]
    return torch.cat(batches).cpu().double()


def _pairs(num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[P] and [P]: rows and columns of all pairs, each once."""
    rows_P, columns_P = torch.triu_indices(num_images, num_images, 1)
    return rows_P, columns_P


def _near(cosines_NN: torch.Tensor, threshold: float | None) -> torch.Tensor:
    """[N, N] bool: the pairs that matter most."""
    if threshold is None:
        return cosines_NN > 0.9
    distance_NN = (cosines_NN - threshold).abs()
    nearest_P = distance_NN[_pairs(len(distance_NN))].sort().values
    return distance_NN <= max(NEAR, float(nearest_P[:MIN_NEAR_PAIRS][-1]))


def _shape_checks(vectors_ND: torch.Tensor) -> Iterator[Check]:
    finite_N = vectors_ND.isfinite().all(dim=1)
    yield Check(name="finite", group="all", value=float((~finite_N).sum()), limit=0)
    error_N = (vectors_ND[finite_N].norm(dim=1) - 1).abs()
    yield Check(name="norm", group="all", value=_largest(error_N), limit=NORM_LIMIT)


def _group_checks(
    groups: Sequence[Group],
    vectors_ND: torch.Tensor,
    truth_ND: torch.Tensor,
    error_NN: torch.Tensor,
    near_NN: torch.Tensor,
    limits: PairLimits,
) -> Iterator[Check]:
    """What is known of each kind of images, and of all."""
    cosine_N = torch.nn.functional.cosine_similarity(vectors_ND, truth_ND, dim=1)
    start = 0
    for group in groups:
        rows = slice(start, start + len(group))
        start += len(group)
        difference_NCHW = group.pixels_NCHW.int() - group.reference_NCHW.int()
        yield Check(
            name="pixels",
            group=group.name,
            value=float(difference_NCHW.abs().max()),
            limit=PIXEL_LIMIT,
        )
        yield Check(
            name="image", group=group.name, value=_largest(1 - cosine_N[rows]), limit=limits.max
        )
        yield from _pair_checks(group.name, error_NN[rows, rows], near_NN[rows, rows], limits)
    if len(groups) > 1:
        yield from _pair_checks("all", error_NN, near_NN, limits)


def _pair_checks(
    name: str, error_NN: torch.Tensor, near_NN: torch.Tensor, limits: PairLimits
) -> Iterator[Check]:
    pairs = _pairs(len(error_NN))
    error_P, near_P = error_NN[pairs], near_NN[pairs]
    yield Check(name="pair max", group=name, value=_largest(error_P), limit=limits.max)
    yield Check(name="pair p99", group=name, value=_p99(error_P), limit=limits.p99)
    num_near = int(near_P.sum())
    if num_near >= _ENOUGH_FOR_P99:
        yield Check(name="near", group=name, value=_p99(error_P[near_P]), limit=limits.p99)
    elif num_near:
        yield Check(name="near", group=name, value=_largest(error_P[near_P]), limit=limits.max)


def _batch_checks(
    encoder: Encoder,
    pixels_NCHW: torch.Tensor,
    vectors_ND: torch.Tensor,
    cosines_NN: torch.Tensor,
    batch_size: int,
    limits: PairLimits,
) -> Iterator[Check]:
    """Whether an image's vector depends on its batch, and whether it comes again."""
    again_BD = encoder(pixels_NCHW[:batch_size]).cpu().double()
    moved = _largest((again_BD - vectors_ND[:batch_size]).abs())
    yield Check(name="repeat", group="all", value=moved, limit=0)
    # Backwards, every image comes to another place; and the last batch is not full.
    num_images = len(pixels_NCHW)
    full = min(batch_size, num_images)
    ragged = next((size for size in range(full - 1, 1, -1) if num_images % size), 1)
    backwards_ND = _encode(encoder, pixels_NCHW.flip(0), ragged).flip(0)
    singles_BD = _encode(encoder, pixels_NCHW[:_SINGLES], 1)
    shift_ND = torch.cat([backwards_ND - vectors_ND, singles_BD - vectors_ND[:_SINGLES]])
    moved = _largest((shift_ND @ vectors_ND.T).abs())
    yield Check(name="position", group="all", value=moved, limit=limits.max)
    # A run's pairs are of images that stood anywhere, so these errors belong to its deviation.
    error_NN = (backwards_ND @ backwards_ND.T - cosines_NN).abs()
    mixed_NN = (backwards_ND @ vectors_ND.T - cosines_NN).abs()
    single_BN = (singles_BD @ vectors_ND.T - cosines_NN[:_SINGLES]).abs()
    # An image forms no pair with itself.
    errors = [error.fill_diagonal_(0) for error in (error_NN, mixed_NN, single_BN)]
    worst = _largest(torch.cat(errors))
    yield Check(name="moved pair", group="all", value=worst, limit=limits.max)


def _candidates(
    vectors_ND: torch.Tensor, cosines_NN: torch.Tensor, threshold: float, limits: PairLimits
) -> Check:
    """Pairs that the vectors, stored as float16, decide otherwise; those at the threshold aside."""
    stored_ND = torch.nn.functional.normalize(vectors_ND.half().double(), dim=1)
    pairs = _pairs(len(stored_ND))
    cosines_P = cosines_NN[pairs]
    decided_P = (stored_ND @ stored_ND.T)[pairs] > threshold
    turned_P = decided_P != (cosines_P > threshold)
    beyond_P = (cosines_P - threshold).abs() > limits.max
    return Check(name="candidates", group="all", value=float((turned_P & beyond_P).sum()), limit=0)


def _p99(values: torch.Tensor) -> float:
    """What 99 in a hundred values do not exceed; NaN if there is one."""
    return float(np.quantile(values.numpy(), 0.99))


def _largest(values: torch.Tensor) -> float:
    """The largest value, NaN if there is one, 0 if there is none."""
    return float(values.max()) if values.numel() else 0.0
