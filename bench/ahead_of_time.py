"""Every kernel that ships, compiled for every architecture without a GPU: what did the compiler do?

    python -m bench.ahead_of_time            print registers, shared memory and matrix instructions
    python -m bench.ahead_of_time --write    and write the table that the tests compare with

One table for each minor version of Triton, tests/ahead_of_time/triton-<version>.json. A program
that a version of Triton cannot compile is null there.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels import dual_threshold
from kernels.bounds import BLOCK_ROWS
from kernels.gpu_screens import (
    DECODE_WORDS,
    FUSED,
    RECHECK_DEPTH,
    RECHECK_PAIRS,
    options,
    recheck_options,
)
from kernels.tiles import CODE_WIDTH, CODES, ROWS, Tile

TABLES = Path(__file__).parent.parent / "tests" / "ahead_of_time"
MATRIX_INSTRUCTION = re.compile(r"\b(HGMMA|IGMMA|HMMA|IMMA|UTCHMMA|UTCIMMA)\b")
SPILL = re.compile(r"\b(STL|LDL)\b")
TYPES = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32", "float64": "*fp64"}

ROW_TYPES = ("float16", "bfloat16")
"""What `similar_rows_kernel` multiplies."""

WHOLLY = (80, 90)
"""Architectures for which every combination is compiled: the servers that joins run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One kernel as it is launched.

    Attributes:
        name: which one, unique within an architecture.
        kernel: its name in `kernels.dual_threshold`.
        types: Triton's types of the arguments that are no compile-time constants.
        constants: the compile-time constants.
        options: warps, stages and so on.
        architecture: 80 stands for SM80.
    """

    name: str
    kernel: str
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    architecture: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the compiler made of a program.

    Attributes:
        registers: of a thread.
        spills: instructions that move registers to local memory and back.
        shared_bytes: shared memory of a program.
        matrix: matrix instructions, by name.
    """

    registers: int
    spills: int
    shared_bytes: int
    matrix: dict[str, int]


RECORDS = dict.fromkeys(("counter_ptr", "tiles_ptr", "counts_ptr", "masks_ptr"), "*i32")
COUNTS = dict.fromkeys(("num_a", "num_b", "capacity"), "i32")


def programs(architecture: int) -> Iterator[Program]:
    """Every program that ships for an architecture."""
    rows, codes = ROWS[architecture], CODES[architecture]
    every = list(product(ROW_TYPES, (True, False)))
    # Elsewhere both dtypes have so far come to the same, and one of each is soon compiled.
    chosen = every if architecture in WHOLLY else [("float16", True), ("bfloat16", False)]
    for dtype, diagonal in chosen:
        name = f"rows-{dtype}-{'half' if diagonal else 'full'}"
        yield rows_program(name, architecture, rows, dtype, diagonal=diagonal)
    for diagonal in (True, False):
        name = f"codes-{'half' if diagonal else 'full'}"
        yield codes_program(name, architecture, codes, diagonal=diagonal)
    for tile in {(tile.rows, tile.columns): tile for tile in (rows, codes)}.values():
        yield _decode_program(architecture, tile)
    for dtype, with_dino in product(TYPES, (True, False)):
        yield _recheck_program(architecture, dtype, with_dino=with_dino)


def rows_program(
    name: str, architecture: int, tile: Tile, dtype: str, *, diagonal: bool
) -> Program:
    """`similar_rows_kernel` with a tile."""
    rows = {"a_ptr": TYPES[dtype], "b_ptr": TYPES[dtype]}
    lengths = {"inverse_a_ptr": "*fp32", "inverse_b_ptr": "*fp32"}
    return Program(
        name=name,
        kernel="similar_rows_kernel",
        types=rows | lengths | RECORDS | COUNTS | {"width": "i32", "floor": "fp32"},
        constants={
            "DIAGONAL": diagonal, "BLOCK_M": tile.rows, "BLOCK_N": tile.columns,
            "BLOCK_K": tile.depth, "GROUP_M": tile.group,
        },
        options=options(tile),
        architecture=architecture,
    )  # fmt: skip


def codes_program(name: str, architecture: int, tile: Tile, *, diagonal: bool) -> Program:
    """`similar_codes_kernel` with a tile."""
    codes = {"a_ptr": "*i8", "b_ptr": "*i8", "floors_ptr": "*i32", "num_floors": "i32"}
    return Program(
        name=name,
        kernel="similar_codes_kernel",
        types=codes | RECORDS | COUNTS,
        constants={
            "DIAGONAL": diagonal, "WIDTH": CODE_WIDTH, "FLOOR_ROWS": BLOCK_ROWS,
            "BLOCK_M": tile.rows, "BLOCK_N": tile.columns, "STRIP": tile.group,
        },
        options=options(tile),
        architecture=architecture,
    )  # fmt: skip


def _decode_program(architecture: int, tile: Tile) -> Program:
    int32 = dict.fromkeys(("tiles_ptr", "counts_ptr", "masks_ptr"), "*i32")
    int64 = dict.fromkeys(("slots_ptr", "ends_ptr", "i_ptr", "j_ptr"), "*i64")
    return Program(
        name=f"decode-{tile.rows}x{tile.columns}",
        kernel="decode_kernel",
        types=int32 | int64 | {"num_tiles_n": "i32"},
        constants={"BLOCK_M": tile.rows, "BLOCK_N": tile.columns, "CHUNK_W": DECODE_WORDS},
        options={"num_warps": 4, **FUSED},
        architecture=architecture,
    )


def _recheck_program(architecture: int, dtype: str, *, with_dino: bool) -> Program:
    encoders = ("clip", "dino")
    rows = [f"{encoder}_{side}_ptr" for encoder in encoders for side in "ab"]
    pairs = {"i_ptr": "*i64", "j_ptr": "*i64", "keep_ptr": "*i8", "num_pairs": "i32"}
    limits = {"clip_floor": "fp32", "dino_ceiling": "fp32"}
    widths = {"clip_width": "i32", "dino_width": "i32"}
    lengths = dict.fromkeys((f"inverse_{name}" for name in rows), "*fp32")
    return Program(
        name=f"recheck-{dtype}-{'both' if with_dino else 'clip'}",
        kernel="recheck_kernel",
        types=dict.fromkeys(rows, TYPES[dtype]) | lengths | pairs | limits | widths,
        constants={"DINO": with_dino, "BLOCK_P": RECHECK_PAIRS, "BLOCK_D": RECHECK_DEPTH},
        options=recheck_options(getattr(torch, dtype).itemsize, with_dino=with_dino),
        architecture=architecture,
    )


def compiled(program: Program) -> Any:
    """What `triton.compile` gives for a program."""
    kernel = getattr(dual_threshold, program.kernel)
    types = {name: program.types.get(name, "constexpr") for name in kernel.arg_names}
    # As at a launch: torch's pointers and widths of whole tiles are multiples of 16.
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (index,): aligned
        for index, (name, kind) in enumerate(types.items())
        if kind.startswith("*") or name.endswith("width")
    }
    source = ASTSource(kernel, types, constexprs=program.constants, attrs=attributes)
    target = GPUTarget("cuda", program.architecture, 32)
    return triton.compile(source, target=target, options=program.options)


def usage(program: Program) -> Usage | None:
    """Compile a program and see what it uses; None where the compiler cannot."""
    try:
        done = compiled(program)
    except RuntimeError as error:
        if "PassManager::run failed" in str(error):
            return None
        raise
    return measured(done)


def measured(done: Any) -> Usage:
    """What a compiled kernel uses, read off its machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(done.asm["cubin"])
        cubin.flush()
        resources, assembly = (_cuobjdump(flag, cubin.name) for flag in ("-res-usage", "-sass"))
    matrix: dict[str, int] = {}
    for instruction in MATRIX_INSTRUCTION.findall(assembly):
        matrix[instruction] = matrix.get(instruction, 0) + 1
    registers = re.search(r"REG:(\d+)", resources)
    assert registers is not None, resources
    return Usage(
        registers=int(registers[1]),
        spills=len(SPILL.findall(assembly)),
        shared_bytes=done.metadata.shared,
        matrix=matrix,
    )


def _cuobjdump(flag: str, path: str) -> str:
    tool = triton.knobs.nvidia.cuobjdump.path
    result = subprocess.run([tool, flag, path], capture_output=True, text=True, check=True)
    return result.stdout + result.stderr


def usages(work: list[Program], *, num_workers: int = 2) -> list[Usage | None]:
    """What the compiler makes of programs, a few at a time."""
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(usage, work))


def table_path() -> Path:
    """Where the table of this version of Triton is, or would be."""
    return TABLES / f"triton-{'.'.join(triton.__version__.split('.')[:2])}.json"


def main() -> None:
    """Compile everything, print it, and write it if asked to."""
    parser = argparse.ArgumentParser(description="Compile every kernel for every architecture.")
    parser.add_argument("--write", action="store_true", help=f"write {table_path()}")
    write = parser.parse_args().write
    work = [program for architecture in ROWS for program in programs(architecture)]
    table: dict[str, dict[str, Any]] = {}
    for program, used in zip(work, usages(work), strict=True):
        row = None if used is None else asdict(used)
        table.setdefault(f"sm{program.architecture}", {})[program.name] = row
        sys.stdout.write(f"sm{program.architecture} {program.name:24} {row}\n")
    if write:
        table_path().write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
