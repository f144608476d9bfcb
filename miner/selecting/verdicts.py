"""What a selection says of a pair: one word, and the sentences that it stands for.

A step looks at the pairs that the steps before it have left, in rank order, and drops some, each
with a word. A word is written down once, with its step; counts, the report and `blindpairs why`
read it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miner.config import SelectSettings
from miner.selecting.raw_pairs import Mask, RawPairs, Rows

KEPT = "kept"
"""The word of a selected pair; every other word says why the pair was dropped."""

Words = npt.NDArray[np.str_]
"""[R] text: for each pair the word by which a step drops it; empty where it passes."""

Values = Mapping[str, object]


def first_of(*cases: tuple[Mask, str]) -> Words:
    """For each pair the word of the first case that holds; empty where none does."""
    masks, words = [mask for mask, _ in cases], [word for _, word in cases]
    return np.select(masks, words, default="").astype(np.str_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sentences of one word.

    Attributes:
        counted: said of a number of dropped pairs.
        told: said of one pair; may name `{settings.<field>}` and the values of the step.
    """

    counted: str
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the selection.

    Attributes:
        name: what it looks at.
        verdicts: the words by which it drops pairs.
        is_asked: whether the settings ask for it.
        decide: its verdicts on pairs, given in rank order.
        columns: of `samples` that it reads.
        values: of one pair that it dropped, for `told`.
    """

    name: str
    verdicts: Mapping[str, Verdict]
    is_asked: Callable[[SelectSettings], bool]
    decide: Callable[[RawPairs, SelectSettings, Rows], Words]
    columns: tuple[str, ...] = ()
    values: Callable[[RawPairs, SelectSettings, int], Values] = lambda pairs, settings, row: {}

    def tell(self, word: str, pairs: RawPairs, settings: SelectSettings, row: int) -> str:
        """Why one pair was dropped, with its values against the limits."""
        values = self.values(pairs, settings, row)
        return self.verdicts[word].told.format(settings=settings, **values)
