"""Values of Arrow tables that others wrote, as Python values, the same on every machine."""

from __future__ import annotations

import pyarrow as pa

from miner.metadata import clean_text

UNREADABLE = (
    *(pa.ArrowException, OSError, ValueError, ArithmeticError),
    *(KeyError, RecursionError),
)
"""What pyarrow throws at broken tables and at values that Python has no type for."""


def value_of(scalar: pa.Scalar) -> object:
    """A value, or `<unreadable: why>` in its place."""
    try:
        kind = scalar.type
        # Arrow reads these by pandas where that is installed; what is read may not depend on it.
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            return scalar.cast(pa.timestamp("us", kind.tz)).as_py()
        if pa.types.is_duration(kind) and kind.unit == "ns":
            return scalar.cast(pa.duration("us")).as_py()
        return scalar.as_py()
    except UNREADABLE as error:
        return f"<unreadable: {clean_text(str(error), 100)}>"
