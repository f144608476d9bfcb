"""The own kernel for a device as a provider, without the library around it.

`kernels` needs torch and triton alone, so that a machine that has no more can measure; what
`miner.join.blind_pairs` adds is the order of the pairs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from bench.providers import IndexPairs, Provider

MODULES = {"cpu": ("cpu", "kernels.cpu"), "cuda": ("triton", "kernels.gpu")}
"""Name of the provider and module of its `candidates`, by the kind of device."""


def kernel_provider(device: str) -> Provider | None:
    """The own kernel for a device; None where this version has none."""
    name, module = MODULES[torch.device(device).type]
    if find_spec(module) is None:
        return None
    search = import_module(module).candidates
    return Provider(name=name, join=_joining(search), dtype="mixed", exact=True)


def stage_providers(device: str) -> list[Provider]:
    """The own kernel for GPUs with each of its stages asked for; none for other devices."""
    if torch.device(device).type != "cuda":
        return []
    search = import_module(MODULES["cuda"][1]).candidates
    return [
        Provider(
            name=f"triton-{stage}", join=_joining(search, stage=stage), dtype=dtype, exact=True
        )
        for stage, dtype in (("full", "float16"), ("int8", "int8"))
    ]


def _joining(search: Callable[..., Any], **stage: str) -> Callable[..., IndexPairs]:
    """A search for candidates as a join."""
    takes_dino = "dino_below" in inspect.signature(search).parameters

    def join(
        clip_ND: torch.Tensor, dino_NE: torch.Tensor, clip_above: float, dino_below: float
    ) -> IndexPairs:
        options: dict[str, Any] = {"dino_below": dino_below} if takes_dino else {}
        found_i, found_j = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
        for block in search(
            (clip_ND, None), (dino_NE, None), clip_above=clip_above, **options, **stage
        ):
            blind = block.dino_cos < dino_below
            found_i.append(block.i[blind].cpu())
            found_j.append(block.j[blind].cpu())
        return torch.cat(found_i), torch.cat(found_j)

    return join
