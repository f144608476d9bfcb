import time

import pytest

from miner.stats import Laps, Stats


def test_stats_add_up() -> None:
    a, b = Stats(), Stats()
    a.count("samples", 3)
    b.count("samples", 4)
    b.count("refused", 0)
    a.seconds["read"], b.seconds["read"], b.seconds["clip"] = 1.0, 0.5, 2.5
    a.core_seconds["decode"], b.core_seconds["write"] = 4.0, 0.25
    total = a + b
    assert total.counts == {"samples": 7, "refused": 0}
    assert total.seconds == {"read": 1.5, "clip": 2.5}
    assert total.core_seconds == {"decode": 4.0, "write": 0.25}
    assert a.counts == {"samples": 3}
    assert a.seconds == {"read": 1.0}


def test_shares_are_in_the_order_of_the_stages_and_sum_to_one() -> None:
    stats = Stats(seconds={"write": 1.0, "dino": 2.0, "read": 1.0, "copy": 0.0})
    assert list(stats.shares().items()) == [("read", 0.25), ("dino", 0.5), ("write", 0.25)]
    assert Stats().shares() == {}


def test_laps_give_every_moment_to_one_stage() -> None:
    start_s = time.perf_counter()
    laps = Laps()
    time.sleep(0.02)
    laps.lap("read")
    time.sleep(0.04)
    laps.split({"read": 1.0, "decode": 3.0})
    time.sleep(0.01)
    laps.lap("read")
    elapsed_s = time.perf_counter() - start_s
    seconds = laps.take()
    assert set(seconds) == {"read", "decode"}
    assert seconds["decode"] >= 0.03
    assert seconds["read"] >= 0.04
    assert sum(seconds.values()) == pytest.approx(elapsed_s, abs=5e-3)
    assert laps.take() == {}
