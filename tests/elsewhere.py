"""Tensors that stand for those of another device, where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Elsewhere(torch.Tensor):
    """A tensor that meets no tensor of the CPU, until `cpu` brings it there."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """As torch does it, but for tensors of both places."""
        for tensor in _tensors((args, kwargs or {})):
            if not isinstance(tensor, cls) and tensor.dim():
                raise RuntimeError(f"{func} has tensors on the CPU and elsewhere")
        result = super().__torch_function__(func, types, args, kwargs or {})
        return result.as_subclass(torch.Tensor) if func is torch.Tensor.cpu else result


def elsewhere(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as if it lay on another device."""
    return tensor.as_subclass(Elsewhere)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    if not isinstance(value, tuple | list):
        return []
    return [each for part in value for each in _tensors(part)]
