"""Arrow values as Python values, whether pandas is installed or not."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from miner.arrow_values import value_of

DAY_US = 86_400_000_000


@pytest.mark.parametrize(
    ("values", "value"),
    [
        (pa.array([DAY_US * 1000], pa.timestamp("ns")), datetime(1970, 1, 2)),
        (pa.array([DAY_US], pa.timestamp("us")), datetime(1970, 1, 2)),
        (pa.array([DAY_US * 1000], pa.timestamp("ns", "UTC")), datetime(1970, 1, 2, tzinfo=UTC)),
        (pa.array([DAY_US * 1000], pa.duration("ns")), timedelta(days=1)),
        (pa.array([None], pa.timestamp("ns")), None),
        (pa.array(["a"]), "a"),
    ],
)
def test_values(values: pa.Array, value: object) -> None:
    assert value_of(values[0]) == value
    assert type(value_of(values[0])) is type(value)


def test_no_pandas_is_asked() -> None:
    code = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'pandas': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Without)\n"
        "import pyarrow as pa; from miner.arrow_values import value_of\n"
        "print([value_of(pa.array([at], kind)[0])"
        " for at in (1, 1000) for kind in (pa.timestamp('ns'), pa.duration('ns'))])"
    )
    without = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    found = [
        value_of(pa.array([at], kind)[0])
        for at in (1, 1000)
        for kind in (pa.timestamp("ns"), pa.duration("ns"))
    ]
    assert without.strip() == str(found)
