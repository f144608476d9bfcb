"""The implementations of the join, and which of them `auto` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kernels import cpu, reference
from kernels.reference import Pairs

CandidateSearch = Callable[..., Iterator[Pairs]]

IMPLEMENTATIONS: dict[str, CandidateSearch] = {
    "cpu": cpu.candidates,
    "reference": reference.candidates,
}
"""Every one is exact: the same pairs as the float64 reference."""


def implementation(impl: str) -> str:
    """The implementation that a name stands for.

    Raises:
        ValueError: there is none of that name.
    """
    if impl == "auto":
        return "cpu"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}; there are auto, {', '.join(sorted(IMPLEMENTATIONS))}")
    return impl
