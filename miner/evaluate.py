"""How an encoder does on a labelled set: images against statements, through both of its towers.

I images of an item (2), S statements (2 or more), B images, D dimensions
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from miner.crops import cut
from miner.encoders import TorchEncoder
from miner.errors import ImageError, LabelError
from miner.images import decode
from miner.measuring import measures
from miner.measuring.labelled import ALL, ImageSource, Item, LabelledSet
from miner.measuring.measures import Estimate
from miner.text import TextTower

BATCH = 32
"""Images that are encoded at once."""

Outcome = Mapping[tuple[str, int], Sequence[bool] | Sequence[float]]
"""What was found of one item: values by measure and number of statements (0: none)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of a table.

    Attributes:
        subset: of the set's items; `all` for the whole.
        measure: individual, pair, pair_by_statement, both, relaxed, set_of_4, cosine or spearman.
        num_statements: among how many a choice was made; 0 where none was.
        estimate: shares with Wilson's interval, means with a bootstrap's.
        chance: what guessing gives; None where there is nothing to guess.
    """

    subset: str
    measure: str
    num_statements: int
    estimate: Estimate
    chance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that was measured of one model on one set.

    Attributes:
        model: an encoder_id, or a name for answers.
        labelled: the set.
        figures: subset by subset, the whole set last.
        outcomes: item by item, in the set's order.
        notes: what one has to know of the figures.
    """

    model: str
    labelled: LabelledSet
    figures: tuple[Figure, ...]
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]

    def figure(self, subset: str, measure: str, num_statements: int | None = None) -> Figure | None:
        """One figure, or None where it was not measured."""
        return next(
            (
                figure
                for figure in self.figures
                if (figure.subset, figure.measure) == (subset, measure)
                and num_statements in (None, figure.num_statements)
            ),
            None,
        )


def evaluate(
    labelled: LabelledSet, encoder: TorchEncoder, tower: TextTower, *, prompt: str | None = None
) -> Evaluation:
    """Measure an encoder on a labelled set.

    Args:
        labelled: the set.
        encoder: its image tower.
        tower: its text tower.
        prompt: what becomes of a statement, `{}` being the statement; default: the set's own.

    Raises:
        ValueError: the towers are of different encoders, the prompt has no `{}`, or the tower
            cannot read a statement.
        LabelError: an image of the set cannot be read.
    """
    if encoder.encoder_id != tower.encoder_id:
        raise ValueError(
            f"the towers are of {encoder.encoder_id} and {tower.encoder_id}; load both from one "
            "weights file"
        )
    prompt = labelled.prompt if prompt is None else prompt
    if "{}" not in prompt:
        raise ValueError(f"the prompt {prompt!r} has no {{}} where the statement goes")
    items = labelled.items
    image = encode_images(labelled, encoder)
    texts = sorted({statement for item in items for statement in item.statements})
    vectors_BD = tower([prompt.replace("{}", text) for text in texts]).numpy()
    text = dict(zip(texts, vectors_BD.astype(np.float64), strict=True))
    outcomes = tuple(
        _outcome([image[source.name] for source in item.images], [text[s] for s in item.statements])
        for item in items
    )
    notes = [*labelled.notes]
    if prompt != "{}":
        notes.append(f"a statement is read as {prompt!r}")
    lost = sum(not outcome["relaxed", 2] for outcome in outcomes)
    if lost:
        notes.append(
            f"relaxed is of {len(items) - lost} of {len(items)} pairs: the others have a cosine "
            "that is not positive, of which shares mean nothing"
        )
    return Evaluation(
        model=encoder.encoder_id,
        labelled=labelled,
        figures=tuple(figures(items, outcomes)),
        outcomes=outcomes,
        notes=tuple(notes),
    )


def _outcome(images: Sequence[np.ndarray], statements: Sequence[np.ndarray]) -> Outcome:
    scores_IS = np.array([[measures.cosine(i, s) for s in statements] for i in images])
    right = measures.chooses_statement(scores_IS[:, :2])
    by_statement = measures.chooses_image(scores_IS)
    leans = measures.relaxed(scores_IS)
    found: dict[tuple[str, int], Sequence[bool] | Sequence[float]] = {
        ("individual", 2): right,
        ("pair", 2): [all(right)],
        ("pair_by_statement", 2): [all(by_statement)],
        ("both", 2): [all(right) and all(by_statement)],
        ("relaxed", 2): [] if leans is None else [leans],
        ("cosine", 0): [measures.cosine(*images)],
        ("spearman", 0): [measures.spearman(*images)],
    }
    if len(statements) > 2:
        among_all = measures.chooses_statement(scores_IS)
        found["individual", len(statements)] = among_all
        found["pair", len(statements)] = [all(among_all)]
    return found


def encode_images(labelled: LabelledSet, encoder: TorchEncoder) -> dict[str, np.ndarray]:
    """The vectors of a set's images by their names, each image decoded once: float64 [D].

    Raises:
        LabelError: an image cannot be read; the message names it.
    """
    sources = [*{source.name: source for item in labelled.items for source in item.images}.values()]
    found: dict[str, np.ndarray] = {}
    for first in range(0, len(sources), BATCH):
        batch = sources[first : first + BATCH]
        pixels_BCHW = torch.stack([_pixels(source, labelled, encoder) for source in batch])
        vectors_BD = encoder(pixels_BCHW).cpu().numpy().astype(np.float64)
        found |= {source.name: row for source, row in zip(batch, vectors_BD, strict=True)}
    return found


def _pixels(source: ImageSource, labelled: LabelledSet, encoder: TorchEncoder) -> torch.Tensor:
    try:
        decoded = decode(source.read(), labelled.limits)
    except (ImageError, OSError) as error:
        raise LabelError(
            f"{labelled.place}: the image {source.name} cannot be read ({error}); mend it or take "
            "its pair out"
        ) from error
    return cut(decoded.pixels_HWC, encoder.record.crop, reference=True)


def figures(items: Sequence[Item], outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    """The figures of every subset, in the order in which the subsets appear, then of the whole."""
    subsets = dict.fromkeys(item.subset for item in items)
    for subset in [*subsets, ALL]:
        chosen = [
            outcome
            for item, outcome in zip(items, outcomes, strict=True)
            if subset in (ALL, item.subset)
        ]
        yield from _figures_of(subset, chosen)
    yield from _sets_of_4(items, outcomes)


def _figures_of(subset: str, outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    kinds = dict.fromkeys(kind for outcome in outcomes for kind in outcome)
    for measure, ways in kinds:
        values = [value for outcome in outcomes for value in outcome.get((measure, ways), ())]
        is_mean = measure in ("cosine", "spearman")
        yield Figure(
            subset=subset,
            measure=measure,
            num_statements=ways,
            estimate=measures.mean(values) if is_mean else measures.share(_bools(values)),
            chance=_chance(measure, ways),
        )


def _chance(measure: str, ways: int) -> float | None:
    if measure in ("cosine", "spearman"):
        return None
    if measure == "relaxed":
        return 0.5
    if measure == "both":
        # Of the 24 orders of four scores, both choices of both kinds are right in 4.
        return 1 / 6
    return measures.chance(ways, 1 if measure == "individual" else 2)


def _sets_of_4(items: Sequence[Item], outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    """Share of the sets whose four images all choose their statement among all four."""
    groups: dict[tuple[str, int], list[bool]] = {}
    for item, outcome in zip(items, outcomes, strict=True):
        ways = len(item.statements)
        if item.group and ("pair", ways) in outcome:
            groups.setdefault((item.group, ways), []).extend(_bools(outcome["pair", ways]))
    whole = {key: all(pairs) for key, pairs in groups.items() if len(pairs) == 2}
    for ways in sorted({ways for _, ways in whole}):
        yield Figure(
            subset=ALL,
            measure="set_of_4",
            num_statements=ways,
            estimate=measures.share([right for key, right in whole.items() if key[1] == ways]),
            chance=measures.chance(ways, 4),
        )


def _bools(values: Iterable[bool | float]) -> list[bool]:
    return [bool(value) for value in values]
