"""Work on an engine's own stream waits for torch's, and torch's for it."""

from __future__ import annotations

import pytest
import torch

from miner.streams import in_order

LATE_CYCLES = 50_000_000


@pytest.mark.gpu
def test_the_block_waits_for_what_came_before() -> None:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    values = torch.zeros(1 << 20, device="cuda")
    torch.cuda._sleep(LATE_CYCLES)
    values.fill_(1)
    with in_order(stream), torch.cuda.stream(stream):
        seen = values * 2
    assert seen.sum().item() == 2 * len(values)


@pytest.mark.gpu
def test_what_comes_next_waits_for_the_block() -> None:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    values = torch.zeros(1 << 20, device="cuda")
    with in_order(stream), torch.cuda.stream(stream):
        torch.cuda._sleep(LATE_CYCLES)
        values.fill_(1)
    assert (values * 2).sum().item() == 2 * len(values)


@pytest.mark.gpu
def test_an_error_in_the_block_leaves_the_order() -> None:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    values = torch.zeros(1 << 20, device="cuda")

    def fail_late() -> None:
        with in_order(stream), torch.cuda.stream(stream):
            torch.cuda._sleep(LATE_CYCLES)
            values.fill_(1)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_late()
    assert values.sum().item() == len(values)
