"""The implementations of the join, and which of them `auto` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from kernels import cpu, gpu, reference
from kernels.reference import Pairs
from kernels.tiles import Unavailable
from miner import knn
from miner.errors import ResourceError

CandidateSearch = Callable[..., Iterator[Pairs]]

IMPLEMENTATIONS: dict[str, CandidateSearch] = {
    "cpu": cpu.candidates,
    "triton": gpu.candidates,
    "reference": reference.candidates,
}
"""Every one is exact: the same pairs as the float64 reference."""

APPROXIMATE: dict[str, CandidateSearch] = {"knn": knn.candidates}
"""May miss pairs, and says how many it missed of a sample; never invents one."""


def implementation(impl: str) -> str:
    """The implementation that a name stands for; `auto` is exact, on a GPU that can run it.

    Raises:
        ValueError: there is none of that name.
    """
    if impl == "auto":
        return "triton" if gpu.available() is None else "cpu"
    if impl not in IMPLEMENTATIONS | APPROXIMATE:
        names = ", ".join(sorted(IMPLEMENTATIONS | APPROXIMATE))
        raise ValueError(f"impl is {impl!r}; there are auto, {names}")
    return impl


def why_chosen(asked: str, impl: str) -> str:
    """Why an implementation runs, in a few words."""
    if asked != "auto":
        return "asked for"
    return "exact, on the GPU" if impl == "triton" else f"exact; {gpu.available()}"


def candidates(
    impl: str,
    clip: tuple[torch.Tensor, torch.Tensor | None],
    dino: tuple[torch.Tensor, torch.Tensor | None],
    *,
    clip_above: float,
    threads: int | None = None,
) -> Iterator[Pairs]:
    """The candidates by an implementation; the contract is `kernels.reference.candidates`'.

    `threads` are for `cpu` alone.

    Raises:
        ResourceError: what the implementation needs is not there, a GPU for example.
    """
    search = (IMPLEMENTATIONS | APPROXIMATE)[impl]
    options = {} if threads is None else {"threads": threads}
    try:
        yield from search(clip, dino, clip_above=clip_above, **options)
    except Unavailable as error:
        raise ResourceError(f"join {impl}: {error}") from error
