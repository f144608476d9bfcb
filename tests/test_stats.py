import time

import pytest

from miner.stats import Stats


def test_stats_add_up() -> None:
    a, b = Stats(), Stats()
    a.count("samples", 3)
    b.count("samples", 4)
    b.count("refused", 0)
    a.seconds["read"], b.seconds["read"] = 1.0, 0.5
    total = a + b
    assert total.counts == {"samples": 7, "refused": 0}
    assert total.seconds == {"read": 1.5}
    assert a.counts == {"samples": 3}


def test_time_is_counted_also_where_the_block_raises() -> None:
    stats = Stats()

    def fail() -> None:
        with stats.time("read"):
            time.sleep(0.01)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    with stats.time("read"):
        time.sleep(0.01)
    assert stats.seconds["read"] >= 0.02
