"""Which implementation `auto` takes and why, and which failures mean that one is not here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kernels import gpu
from kernels.reference import Pairs
from kernels.tiles import Unavailable
from miner.errors import ResourceError
from miner.implementations import IMPLEMENTATIONS, candidates, implementation, why_chosen

ROWS = (torch.eye(3), None)


@pytest.mark.parametrize("reason", [None, "the package triton cannot be imported"])
def test_auto_takes_the_gpu_join_only_where_it_can_run(
    monkeypatch: pytest.MonkeyPatch, reason: str | None
) -> None:
    # A GPU alone is not enough.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "available", lambda: reason)
    impl = implementation("auto")
    assert impl == ("triton" if reason is None else "cpu")
    assert why_chosen("auto", impl) == ("exact, on the GPU" if not reason else f"exact; {reason}")
    assert why_chosen("cpu", "cpu") == "asked for"


@pytest.mark.parametrize(
    ("raised", "seen"), [(Unavailable, ResourceError), (RuntimeError, RuntimeError)]
)
def test_only_what_is_not_here_is_a_missing_resource(
    monkeypatch: pytest.MonkeyPatch, raised: type[Exception], seen: type[Exception]
) -> None:
    def fails(*sets: Any, **how: Any) -> Iterator[Pairs]:
        raise raised("out of luck")
        yield

    monkeypatch.setitem(IMPLEMENTATIONS, "triton", fails)
    with pytest.raises(seen, match="out of luck") as told:
        list(candidates("triton", ROWS, ROWS, clip_above=0.5))
    assert told.type is seen


def test_unknown_implementation() -> None:
    with pytest.raises(ValueError, match="impl is 'gpu'; there are auto, cpu, knn"):
        implementation("gpu")
