"""Every tile that ships: which kernel, on which architecture, how large, how many warps and stages.

A tile is chosen by compute capability and nothing else. `tests/test_ahead_of_time.py` compiles all
of them without a GPU and holds registers, spills, shared memory and matrix instructions against a
committed table; `python -m bench.sweep_tiles` measures others on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass


class Unavailable(RuntimeError):
    """The GPU join cannot run here; the message says what is missing."""


CODE_WIDTH = 128
"""Elements of an int8 code, padded with zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """How a tile kernel is compiled.

    Attributes:
        rows: rows of a tile.
        columns: columns of a tile, a multiple of 32.
        depth: elements of a row that are multiplied at a time; the whole of a code.
        group: rows of tiles that share columns in the L2 cache; for codes the tiles of a strip.
        num_warps: warps of a program.
        num_stages: loads in flight.
        max_registers: limit for a thread, so that more programs fit; None leaves it to the
            compiler.
    """

    rows: int
    columns: int
    depth: int
    group: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None

    @property
    def words(self) -> int:
        """32-bit words of a tile's mask."""
        return self.rows * self.columns // 32


ROWS: dict[int, Tile] = {
    80: Tile(rows=128, columns=256, depth=64, group=8, num_warps=8, num_stages=3),
    89: Tile(rows=128, columns=128, depth=64, group=8, num_warps=8, num_stages=3),
    90: Tile(rows=128, columns=256, depth=64, group=8, num_warps=8, num_stages=4),
    100: Tile(rows=128, columns=256, depth=64, group=8, num_warps=8, num_stages=4),
    120: Tile(rows=128, columns=128, depth=64, group=8, num_warps=8, num_stages=3),
}
"""float16 and bfloat16 rows at full width, by architecture."""

CODES: dict[int, Tile] = {
    80: Tile(rows=128, columns=128, depth=CODE_WIDTH, group=32, num_warps=8, num_stages=3),
    89: Tile(rows=128, columns=128, depth=CODE_WIDTH, group=32, num_warps=8, num_stages=3),
    90: Tile(
        rows=128, columns=128, depth=CODE_WIDTH, group=32, num_warps=4, num_stages=3,
        max_registers=168,
    ),
    100: Tile(rows=128, columns=128, depth=CODE_WIDTH, group=32, num_warps=8, num_stages=3),
    120: Tile(rows=128, columns=128, depth=CODE_WIDTH, group=32, num_warps=8, num_stages=3),
}  # fmt: skip
"""int8 codes, by architecture."""

SHARED_BYTES = {80: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Shared memory that one program may use, by architecture."""


def architecture(capability: tuple[int, int]) -> int:
    """The architecture whose tiles fit a compute capability.

    Args:
        capability: (major, minor), as torch gives it.

    Raises:
        Unavailable: the device is older than compute capability 8.0.
    """
    major, minor = capability
    if major < 8:
        raise Unavailable(
            f"the GPU has compute capability {major}.{minor} and the Triton join needs 8.0 "
            "(Ampere) or later; use the CPU join"
        )
    if major == 8:
        # 8.6 and 8.9 have 100 KiB of shared memory, 8.0 and 8.7 have 164.
        return 80 if minor in (0, 7) else 89
    return {9: 90, 10: 100}.get(major, 120)


def check_rows_compile(arch: int, triton_version: str) -> None:
    """Refuse rows at full width where Triton is known not to compile them.

    Args:
        arch: from `architecture`.
        triton_version: as `triton.__version__` gives it.

    Raises:
        Unavailable: it is Triton 3.6, or an older one, on a Blackwell server.
    """
    major, minor = triton_version.split(".")[:2]
    if arch == 100 and (int(major), int(minor)) <= (3, 6):
        raise Unavailable(
            f"Triton {triton_version} cannot compile the join of rows at full width for compute "
            "capability 10; install a later Triton (3.9 can), take the stage int8, or use the CPU "
            "join"
        )
