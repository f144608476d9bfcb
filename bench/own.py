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
from miner import join
from miner.join import blind_pairs

METRICS = ("survivors", "tiles hit", "code width")
"""What an implementation tells of itself: pairs that reached the float64 check, share of tiles that
hold one, and the width of the codes it chose."""

WITHOUT_CASCADE = {"cascade": False}
"""The option of `kernels.cpu.candidates` that leaves out the short codes."""


class OwnJoin:
    """`miner.join.blind_pairs` with one implementation, which keeps its statistics.

    Attributes:
        impl: the implementation.
        options: further arguments of its search.
        last: the statistics of the last join; None before, and where it keeps none.
    """

    def __init__(self, impl: str, options: dict[str, Any] | None = None) -> None:
        self.impl = impl
        self.options = options or {}
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
        """`blind_pairs` takes no statistics, so the search it looks up is given them here."""
        search = join.IMPLEMENTATIONS[self.impl]
        given = dict(self.options)
        if "statistics" in inspect.signature(search).parameters:
            self.last = given["statistics"] = _empty_statistics(search)
        join.IMPLEMENTATIONS[self.impl] = partial(search, **given)
        try:
            yield
        finally:
            join.IMPLEMENTATIONS[self.impl] = search

    def statistics(self) -> Statistics:
        """What the last join said of itself; None for what it did not."""
        found: dict[str, Any] = dict.fromkeys(METRICS)
        if self.last is not None:
            tiles = self.last.num_tiles
            found["survivors"] = float(self.last.num_survivors)
            found["tiles hit"] = self.last.num_tiles_hit / tiles if tiles else 0.0
            found["code width"] = float(self.last.width)
        return found


def _empty_statistics(search: Any) -> Any:
    """A `Statistics` of the module that a search is written in."""
    return inspect.getmodule(search).Statistics()  # type: ignore[union-attr]


def is_implemented(impl: str) -> bool:
    """Whether this version has an implementation."""
    return impl in join.IMPLEMENTATIONS


def has_option(impl: str, name: str) -> bool:
    """Whether an implementation's search takes an argument of this name."""
    search = join.IMPLEMENTATIONS.get(impl)
    return search is not None and name in inspect.signature(search).parameters


def own_providers() -> list[Provider]:
    """The implementations that this version has."""
    cpu, reference = OwnJoin("cpu"), OwnJoin("reference")
    found = [
        Provider(name="cpu", join=cpu, dtype="mixed", exact=True, statistics=cpu.statistics),
        Provider(name="reference", join=reference, dtype="float64", exact=True, max_rows=20_000),
    ]
    if all(has_option("cpu", name) for name in WITHOUT_CASCADE):
        flat = OwnJoin("cpu", WITHOUT_CASCADE)
        found.insert(
            1,
            Provider(
                name="cpu-no-cascade",
                join=flat,
                dtype="mixed",
                exact=True,
                statistics=flat.statistics,
            ),
        )
    return found
