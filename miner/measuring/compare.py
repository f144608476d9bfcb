"""Several encoders on one set: who is blind to what.

On a labelled set it is accuracy, as in Table 1 of "Eyes Wide Shut?": a row for each encoder, a
column for each pattern, and their average. On a run it is the share of its blind pairs whose two
images an encoder calls the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from miner.encoders import TorchEncoder
from miner.evaluate import Evaluation, encode_images
from miner.measuring import measures
from miner.measuring.labelled import ALL, LabelledSet
from miner.measuring.measures import Estimate

PARAMETERS_IN_A_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """An encoder's row.

    Attributes:
        encoder_id: whose.
        pixels: side of the square that it looks at.
        parameters_m: of its towers that took part, in millions.
        above: cosine above which it calls two images the same; None where it read statements.
        shares: accuracy, or the share of pairs that it calls the same, by subset, `all` last.
        average: mean over the subsets, each counting once; NaN where a subset has no case.
    """

    encoder_id: str
    pixels: int
    parameters_m: float
    above: float | None
    shares: Mapping[str, Estimate]
    average: float


def compare_accuracy(
    evaluation: Evaluation, encoder: TorchEncoder, measure: str, modules: Sequence[torch.nn.Module]
) -> Compared:
    """The row of an encoder that was evaluated.

    Args:
        evaluation: what was measured.
        encoder: its image tower.
        measure: individual, pair, pair_by_statement, both or relaxed; among two statements.
        modules: its towers, whose parameters are counted.

    Raises:
        ValueError: that was not measured.
    """
    found = {
        figure.subset: figure.estimate
        for figure in evaluation.figures
        if (figure.measure, figure.num_statements) == (measure, 2)
    }
    if not found:
        known = dict.fromkeys(f.measure for f in evaluation.figures if f.num_statements == 2)
        raise ValueError(f"{measure!r} is not measured; choose from {', '.join(known)}")
    return _row(encoder, found, modules)


def compare_sameness(labelled: LabelledSet, encoder: TorchEncoder, above: float) -> Compared:
    """The row of an encoder that says whether two images are the same.

    Args:
        labelled: the pairs; statements are not looked at.
        encoder: any, a DINO too.
        above: cosine above which two images are the same to it.

    Raises:
        LabelError: an image cannot be read.
    """
    vectors = encode_images(labelled, encoder)
    same: dict[str, list[bool]] = {}
    for item in labelled.items:
        one_D, other_D = (vectors[source.name] for source in item.images)
        same.setdefault(item.subset, []).append(measures.cosine(one_D, other_D) > above)
    found = {subset: measures.share(of) for subset, of in same.items()}
    found[ALL] = measures.share([each for of in same.values() for each in of])
    return _row(encoder, found, [encoder.module], above)


def _row(
    encoder: TorchEncoder,
    shares: Mapping[str, Estimate],
    modules: Iterable[torch.nn.Module],
    above: float | None = None,
) -> Compared:
    subsets = [share.value for subset, share in shares.items() if subset != ALL]
    of_all = shares[ALL].value
    return Compared(
        encoder_id=encoder.encoder_id,
        pixels=encoder.record.image_size,
        parameters_m=sum(_num_parameters(module) for module in modules) / PARAMETERS_IN_A_MILLION,
        above=above,
        shares=shares,
        average=float(np.mean(subsets)) if subsets else of_all,
    )


def _num_parameters(module: torch.nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in module.parameters())
