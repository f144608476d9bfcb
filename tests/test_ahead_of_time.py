"""What ships compiles for every architecture without a GPU, spills nothing and keeps its limits."""

import json
import re
from dataclasses import asdict, replace

import pytest
import triton

from bench.ahead_of_time import (
    Program,
    Usage,
    codes_program,
    compiled,
    programs,
    rows_program,
    table_path,
    usages,
)
from kernels import dual_threshold
from kernels.tiles import CODES, ROWS, SHARED_BYTES

MATRIX = {
    "similar_rows_kernel": {80: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"},
    "similar_codes_kernel": {80: "IMMA", 89: "IMMA", 90: "IGMMA", 100: "UTCIMMA", 120: "IMMA"},
}
"""The widest matrix instruction of an architecture."""

# Triton 3.6 has no tensor-memory product of integers.
MATRIX_BEFORE_3_9 = {"similar_codes_kernel": {100: "IMMA"}}


def shortcomings(program: Program, used: Usage) -> list[str]:
    limit = SHARED_BYTES[program.architecture]
    found = []
    if used.spills:
        found.append(f"{used.spills} spills")
    if used.shared_bytes > limit:
        found.append(f"{used.shared_bytes} bytes of shared memory, limit {limit}")
    if program.kernel in MATRIX:
        wanted = MATRIX[program.kernel][program.architecture]
        if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9):
            older = MATRIX_BEFORE_3_9.get(program.kernel, {})
            wanted = older.get(program.architecture, wanted)
        if set(used.matrix) != {wanted}:
            found.append(f"matrix instructions {used.matrix} instead of {wanted}")
    return found


@pytest.fixture(scope="module")
def gate() -> list[tuple[Program, Usage | None]]:
    # Those that take longest first, so that no worker is left waiting for them.
    work = [program for architecture in ROWS for program in programs(architecture)]
    work.sort(key=lambda program: ("rows" not in program.name, "codes" not in program.name))
    return list(zip(work, usages(work), strict=True))


def known() -> dict[str, dict[str, object]] | None:
    """The table of this Triton, where there is one."""
    return json.loads(table_path().read_text()) if table_path().exists() else None


def test_no_spills_within_shared_memory_and_on_the_matrix_units(
    gate: list[tuple[Program, Usage | None]],
) -> None:
    table = known() or {}
    for program, used in gate:
        if used is None:
            # Only where the table says that this version of Triton cannot.
            assert table[f"sm{program.architecture}"][program.name] is None
            assert program.architecture != 90
        else:
            assert shortcomings(program, used) == [], (program.architecture, program.name)


def test_equals_the_table_of_this_version_of_triton(
    gate: list[tuple[Program, Usage | None]],
) -> None:
    table = known()
    if table is None:
        return  # a version nobody has compiled with yet: the limits above still hold
    ours: dict[str, dict[str, object]] = {}
    for program, used in gate:
        row = None if used is None else asdict(used)
        ours.setdefault(f"sm{program.architecture}", {})[program.name] = row
    assert ours == table


def test_every_combination_is_compiled_for_servers() -> None:
    for architecture in (80, 90):
        names = {program.name for program in programs(architecture)}
        sides, dtypes = ("half", "full"), ("float16", "bfloat16")
        assert {f"rows-{dtype}-{side}" for dtype in dtypes for side in sides} <= names
    for architecture in ROWS:
        made = [program.constants for program in programs(architecture)]
        assert {each["DINO"] for each in made if "DINO" in each} == {True, False}
        assert {each["DIAGONAL"] for each in made if "GROUP_M" in each} == {True, False}


def test_codes_leave_room_for_three_programs_on_hopper(
    gate: list[tuple[Program, Usage | None]],
) -> None:
    for program, used in gate:
        if program.architecture == 90 and program.name.startswith("codes"):
            assert used is not None
            # Registers come in eights, and 1 KiB of shared memory is the system's.
            registers = -(-used.registers // 8) * 8 * 32 * CODES[90].num_warps
            assert 3 * registers <= 65_536
            assert 3 * (used.shared_bytes + 1024) <= 233_472


def test_the_gate_sees_spills_shared_memory_and_a_missing_instruction() -> None:
    tight = replace(CODES[90], max_registers=128)
    deep = replace(ROWS[90], num_stages=6)
    narrow = replace(ROWS[90], rows=32)
    work = [
        codes_program("tight", 90, tight, diagonal=False),
        rows_program("deep", 90, deep, "float16", diagonal=False),
        rows_program("narrow", 90, narrow, "float16", diagonal=False),
    ]
    told = [
        "" if used is None else "; ".join(shortcomings(program, used))
        for program, used in zip(work, usages(work), strict=True)
    ]
    assert "spills" in told[0]
    assert "bytes of shared memory, limit 232448" in told[1]
    assert "instead of HGMMA" in told[2]


def offset_types(program: Program) -> dict[str, set[str]]:
    """Types of everything that is added to each pointer argument, from Triton's own code."""
    code = compiled(program).asm["ttir"]
    names = re.findall(r"%(\w+): !tt\.ptr", code)
    types: dict[str, set[str]] = {}
    arguments = [name for name in program_arguments(program) if name.endswith("_ptr")]
    for name, argument in zip(names, arguments, strict=True):
        added = re.findall(rf"tt\.addptr %{name}(?:_\d+)?, .* : !tt\.ptr<\w+>, (\w+)", code)
        # Or first spread over a tensor.
        for spread in re.findall(rf"(%\w+) = tt\.splat %{name} : ", code):
            added += re.findall(rf"tt\.addptr {spread}, .* : .*, tensor<[\dx]+x(\w+)>", code)
        types[argument] = set(added)
    return types


def program_arguments(program: Program) -> list[str]:
    return list(getattr(dual_threshold, program.kernel).arg_names)


def test_rows_codes_and_masks_are_found_by_64_bits() -> None:
    for program in programs(90):
        types = offset_types(program)
        far = {"rows": ["a_ptr", "b_ptr"], "codes": ["a_ptr", "b_ptr"]}.get(
            program.name.split("-")[0], []
        )
        if program.kernel == "recheck_kernel":
            far = [name for name in types if name not in ("i_ptr", "j_ptr", "keep_ptr")]
            # Without DINO its pointers are there and nothing is read through them.
            if program.name.endswith("-clip"):
                far = [name for name in far if "dino" not in name]
        if "masks_ptr" in types:
            far.append("masks_ptr")
        for name in far:
            assert types[name] == {"i64"}, (program.name, name, types)
