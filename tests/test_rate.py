"""When to come again, by how fast work is done."""

from __future__ import annotations

import pytest

from pipelines.serving import rate as rate_module
from pipelines.serving.rate import LONGEST_RETRY_S, Rate


def test_it_is_as_long_as_the_work_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(rate_module.time, "monotonic", lambda: now_s[0])
    rate = Rate()
    assert rate.retry_after_s(1000) == 1
    # Ten in two seconds; what was asked for later waited for these, and did not slow anything.
    now_s[0] = 102.0
    rate.add(10, 100.0)
    now_s[0] = 104.0
    rate.add(10, 100.0)
    assert rate.retry_after_s(100) == 20
    # A pause in which nobody asked.
    now_s[0] = 1002.0
    rate.add(10, 1000.0)
    assert rate.retry_after_s(100) == 20
    assert rate.retry_after_s(3) == 1
    assert rate.retry_after_s(10_000) == LONGEST_RETRY_S
