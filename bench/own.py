"""The project's own joins as providers, and what they say of themselves.

The one place that knows how an implementation is switched and what its statistics are called.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from bench.providers import IndexPairs, Provider, Statistics
from bench.rows import amx_state
from miner import join
from miner.join import blind_pairs

METRICS = ("survivors", "tiles hit", "rechecked", "code width")
"""What an implementation tells of itself: pairs that survived the first step, the share of tiles
that hold one, pairs whose float64 cosine was taken, and the width of what was multiplied first."""


class OwnJoin:
    """`miner.join.blind_pairs` with one implementation, which keeps its statistics.

    Attributes:
        impl: the implementation.
        options: further arguments of its search.
        last: the statistics of the last join; None before, and where it keeps none.
    """

    def __init__(self, impl: str, **options: str) -> None:
        self.impl = impl
        self.options = options
        self.last: Any = None

    def __call__(
        self,
        clip_ND: torch.Tensor,
        dino_NE: torch.Tensor,
        clip_above: float,
        dino_below: float,
    ) -> IndexPairs:
        """The blind pairs."""
        with self._observed():
            pairs = blind_pairs(
                clip_ND, dino_NE, clip_above=clip_above, dino_below=dino_below, impl=self.impl
            )
        return pairs.i, pairs.j

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """`blind_pairs` takes neither options nor statistics: its search is given them here."""
        search = join.IMPLEMENTATIONS[self.impl]
        given: dict[str, Any] = dict(self.options)
        if "statistics" in inspect.signature(search).parameters:
            module: Any = inspect.getmodule(search)
            self.last = given["statistics"] = module.Statistics()
        join.IMPLEMENTATIONS[self.impl] = partial(search, **given)
        try:
            yield
        finally:
            join.IMPLEMENTATIONS[self.impl] = search

    def statistics(self) -> Statistics:
        """What the last join said of itself, with a note; None for what it did not say."""
        last = self.last
        if last is None:
            return dict.fromkeys(METRICS, (None, ""))
        share = last.num_survivors / max(1, last.num_pairs)
        hit = last.num_tiles_hit / max(1, last.num_tiles)
        return {
            "survivors": (float(last.num_survivors), f"{share:.2e} of the pairs"),
            "tiles hit": (hit, f"{last.num_tiles_hit} of {last.num_tiles}"),
            "rechecked": (float(last.num_rechecked), ""),
            "code width": (float(last.width), last.screen),
        }


def own_providers() -> list[Provider]:
    """The implementations for processors: the default, without short codes, and the truth."""
    # What the join would choose if it had no int8 codes.
    screen = "bfloat16" if amx_state() == "on" else "float32"
    cpu, flat = OwnJoin("cpu"), OwnJoin("cpu", screen=screen)
    return [
        Provider(name="cpu", join=cpu, dtype="mixed", exact=True, statistics=cpu.statistics),
        Provider(
            name="cpu-no-cascade",
            join=flat,
            dtype=screen,
            exact=True,
            statistics=flat.statistics,
            note=f"screen={screen}",
        ),
        Provider(
            name="reference",
            join=OwnJoin("reference"),
            dtype="float64",
            exact=True,
            max_rows=20_000,
        ),
    ]
