"""The Triton kernels: fused normalised similarity with the dual threshold; only pairs leave them.

Two stages. A tile kernel multiplies a tile of rows by a tile of columns and, where anything in it
lies above the floor, appends one bit for each product to a list of records; below the floor it
writes nothing. `decode_kernel` turns the bits into pairs and `recheck_kernel` looks at both
cosines of just those pairs in float32. `similar_rows_kernel` multiplies the rows themselves,
`similar_codes_kernel` their int8 codes (see `kernels.codes`). `kernels.gpu_screens` launches
all of them and `kernels.reference` is what they are held against.

Shape suffixes: M rows of a tile, N columns of a tile, K depth of a tile, W words (32 columns each)
of a row of a mask, L bits of a word, P pairs, D elements of a row.
"""

from __future__ import annotations

import triton
import triton.language as tl

TRITON_VERSION = triton.__version__

INTERPRETED = triton.knobs.runtime.interpret
"""Whether Triton interprets the kernels on the CPU; settled when this file is imported."""


@triton.jit
def _num_bits(words):
    """Bits set in 32-bit words, by adding neighbours."""
    words = words.to(tl.uint32, bitcast=True)
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    words = words + (words >> 8)
    return ((words + (words >> 16)) & 0x3F).to(tl.int32)


@triton.jit
def _append_tile(
    hits_MN, tile_m, tile_n, num_a, num_b, counter_ptr, tiles_ptr, counts_ptr, masks_ptr, capacity,
    DIAGONAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Append a record: which tile, how many bits, and the bits, 32 columns to a word.

    Bits of rows and columns past the end, or not above the diagonal, are cleared word by word: a
    mask for each product would cost the kernels their registers. The counter goes on counting
    where there is no room, so that the caller learns how much room a second try needs.
    """
    WORDS: tl.constexpr = BLOCK_N // 32
    bits_MWL = hits_MN.to(tl.int32).reshape(BLOCK_M, WORDS, 32)
    words_MW = tl.sum(bits_MWL << tl.arange(0, 32)[None, None, :], axis=2)
    row_M1 = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    column_1W = (tile_n * BLOCK_N + 32 * tl.arange(0, WORDS))[None, :]
    inside_1W = tl.minimum(tl.maximum(num_b - column_1W, 0), 32).to(tl.int64)
    words_MW = tl.where(row_M1 < num_a, words_MW & ((1 << inside_1W) - 1).to(tl.int32), 0)
    if DIAGONAL:
        below_MW = tl.minimum(tl.maximum(row_M1 + 1 - column_1W, 0), 32).to(tl.int64)
        words_MW &= (-1 << below_MW).to(tl.int32)
    slot = tl.atomic_add(counter_ptr, 1)
    if slot < capacity:
        tl.store(tiles_ptr + slot, tile_m * tl.cdiv(num_b, BLOCK_N) + tile_n)
        tl.store(counts_ptr + slot, tl.sum(tl.sum(_num_bits(words_MW), axis=1), axis=0))
        word_MW = tl.arange(0, BLOCK_M)[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
        tl.store(masks_ptr + slot.to(tl.int64) * (BLOCK_M * WORDS) + word_MW, words_MW)


@triton.jit(do_not_specialize=["num_a", "num_b", "capacity"])
def similar_rows_kernel(
    a_ptr, b_ptr, inverse_a_ptr, inverse_b_ptr,
    counter_ptr, tiles_ptr, counts_ptr, masks_ptr,
    num_a, num_b, width, floor, capacity,
    DIAGONAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """Tiles with a cosine above the floor, from rows of any length.

    bit[r, c] = (a[r] . b[c]) * inverse_b[c] * inverse_a[r] > floor, float32 sums; on the diagonal
    (a and b the same rows) also r < c.

    Grid: one program for each tile, GROUP_M rows of tiles at a time so that their columns stay in
    the L2 cache. Rows are `width` elements apart and `width` is a multiple of BLOCK_K (the caller
    pads with zeros); rows past the end are read as the last row and masked out of the bits.

    Example, a tile of three rows and columns on the diagonal, floor 0.9:
        rows (2, 0), (3, 0.1), (0, 1), inverse lengths 0.5, 0.333, 1
        cosines above the diagonal 0.9994 (0, 1), 0 (0, 2), 0.033 (1, 2)
        record: tile 0, count 1, words 0b010, 0b000, 0b000
    """
    num_tiles_m = tl.cdiv(num_a, BLOCK_M)
    num_tiles_n = tl.cdiv(num_b, BLOCK_N)
    group = tl.program_id(0) // (GROUP_M * num_tiles_n)
    within_group = tl.program_id(0) % (GROUP_M * num_tiles_n)
    group_rows = min(num_tiles_m - group * GROUP_M, GROUP_M)
    tile_m = group * GROUP_M + within_group % group_rows
    tile_n = within_group // group_rows
    if DIAGONAL:
        # Nothing of this tile lies above the diagonal.
        if tile_n < (tile_m * BLOCK_M + 1) // BLOCK_N:
            return

    # Where a tile starts may lie past 2^31 elements; what lies within it may not.
    start_m = tile_m * BLOCK_M
    start_n = tile_n * BLOCK_N
    row_M = tl.minimum(tl.arange(0, BLOCK_M), num_a - 1 - start_m)
    column_N = tl.minimum(tl.arange(0, BLOCK_N), num_b - 1 - start_n)
    depth_K = tl.arange(0, BLOCK_K)
    a_ptrs_MK = a_ptr + start_m.to(tl.int64) * width + (row_M[:, None] * width + depth_K[None, :])
    b_ptrs_NK = (
        b_ptr + start_n.to(tl.int64) * width + (column_N[:, None] * width + depth_K[None, :])
    )

    sums_MN = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in tl.range(0, width, BLOCK_K):
        a_MK = tl.load(a_ptrs_MK)
        b_NK = tl.load(b_ptrs_NK)
        sums_MN = tl.dot(a_MK, tl.trans(b_NK), sums_MN)
        a_ptrs_MK += BLOCK_K
        b_ptrs_NK += BLOCK_K

    inverse_M = tl.load(inverse_a_ptr + start_m + row_M)
    inverse_N = tl.load(inverse_b_ptr + start_n + column_N)
    # A positive factor keeps order, rounding included, so it may follow the maximum.
    largest_M = tl.max(sums_MN * inverse_N[None, :], axis=1) * inverse_M
    if tl.max(largest_M, axis=0) > floor:
        _append_tile(
            sums_MN * inverse_N[None, :] * inverse_M[:, None] > floor, tile_m, tile_n, num_a, num_b,
            counter_ptr, tiles_ptr, counts_ptr, masks_ptr, capacity, DIAGONAL, BLOCK_M, BLOCK_N,
        )  # fmt: skip


@triton.jit(do_not_specialize=["num_a", "num_b", "num_floors", "capacity"])
def similar_codes_kernel(
    a_ptr, b_ptr, floors_ptr,
    counter_ptr, tiles_ptr, counts_ptr, masks_ptr,
    num_a, num_b, num_floors, capacity,
    DIAGONAL: tl.constexpr, WIDTH: tl.constexpr, FLOOR_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STRIP: tl.constexpr,
):  # fmt: skip
    """Tiles with a product of int8 codes above the floor of their two blocks of rows.

    bit[r, c] = a[r] . b[c] > floors[r // FLOOR_ROWS, c // FLOOR_ROWS], exact int32 sums; on the
    diagonal (a and b the same codes) also r < c.

    Grid: one program for BLOCK_M rows and a strip of STRIP tiles of columns; the rows stay where
    they are while the columns go by. Neighbouring programs share a strip. Codes are WIDTH wide,
    padded with zeros; `floors` has `num_floors` columns, and tiles lie within one block of rows.

    Example, three codes of width 2, one floor of 100, on the diagonal:
        codes (127, 0), (126, 9), (-5, 100)
        products above the diagonal 16002 (0, 1), -635 (0, 2), 270 (1, 2)
        record: tile 0, count 2, words 0b010, 0b100, 0b000
    """
    num_tiles_m = tl.cdiv(num_a, BLOCK_M)
    num_tiles_n = tl.cdiv(num_b, BLOCK_N)
    tile_m = tl.program_id(0) % num_tiles_m
    first = tl.program_id(0) // num_tiles_m * STRIP
    last = min(first + STRIP, num_tiles_n)
    if DIAGONAL:
        first = max(first, (tile_m * BLOCK_M + 1) // BLOCK_N)

    start_m = tile_m * BLOCK_M
    depth_1K = tl.arange(0, WIDTH)[None, :]
    offsets_MK = tl.arange(0, BLOCK_M)[:, None] * WIDTH + depth_1K
    offsets_NK = tl.arange(0, BLOCK_N)[:, None] * WIDTH + depth_1K
    a_MK = tl.load(a_ptr + start_m.to(tl.int64) * WIDTH + offsets_MK)
    floors_ptr += start_m // FLOOR_ROWS * num_floors
    for tile_n in tl.range(first, last):
        start_n = tile_n * BLOCK_N
        b_NK = tl.load(b_ptr + start_n.to(tl.int64) * WIDTH + offsets_NK)
        products_MN = tl.dot(a_MK, tl.trans(b_NK), out_dtype=tl.int32)
        floor = tl.load(floors_ptr + start_n // FLOOR_ROWS)
        if tl.max(tl.max(products_MN, axis=1), axis=0) > floor:
            _append_tile(
                products_MN > floor, tile_m, tile_n, num_a, num_b,
                counter_ptr, tiles_ptr, counts_ptr, masks_ptr, capacity, DIAGONAL, BLOCK_M, BLOCK_N,
            )  # fmt: skip


@triton.jit(do_not_specialize=["num_tiles_n"])
def decode_kernel(
    slots_ptr, tiles_ptr, ends_ptr, counts_ptr, masks_ptr, i_ptr, j_ptr,
    num_tiles_n,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CHUNK_W: tl.constexpr,
):  # fmt: skip
    """The pairs that the bits of a record stand for.

    Record s of tile t, with bit b of word w of row r set, becomes i = t // num_tiles_n * BLOCK_M
    + r and j = t % num_tiles_n * BLOCK_N + 32 w + b, written at ends[s] - counts[s] and on.

    Grid: one program for each record, in the order of `slots`; within a record pairs go by row,
    then column.

    Example, tile 1 of 2 x 2 tiles of 64 x 64, count 2, ends 5:
        row 0 holds words 0b001 and 0b000, row 1 holds 0b000 and 0b100
        pairs (0, 64 + 0) at 3 and (1, 64 + 32 + 2) at 4
    """
    slot = tl.load(slots_ptr + tl.program_id(0))
    tile = tl.load(tiles_ptr + slot)
    start = tl.load(ends_ptr + tl.program_id(0)) - tl.load(counts_ptr + slot)
    WORDS: tl.constexpr = BLOCK_N // 32
    masks_ptr += slot.to(tl.int64) * (BLOCK_M * WORDS)
    bit_L = tl.arange(0, 32)
    for first in tl.range(0, BLOCK_M * WORDS, CHUNK_W):
        word_W = first + tl.arange(0, CHUNK_W)
        hits_WL = (tl.load(masks_ptr + word_W)[:, None] >> bit_L[None, :]) & 1
        hits_W = tl.sum(hits_WL, axis=1)
        before_W = tl.cumsum(hits_W, axis=0) - hits_W
        before_WL = before_W[:, None] + tl.cumsum(hits_WL, axis=1) - hits_WL
        i_W = tile // num_tiles_n * BLOCK_M + word_W // WORDS
        j_WL = tile % num_tiles_n * BLOCK_N + (word_W % WORDS * 32)[:, None] + bit_L[None, :]
        tl.store(i_ptr + start + before_WL, i_W[:, None].broadcast_to(CHUNK_W, 32), hits_WL == 1)
        tl.store(j_ptr + start + before_WL, j_WL, hits_WL == 1)
        start += tl.sum(hits_W, axis=0)


@triton.jit
def _cosines(
    a_ptr, b_ptr, inverse_a_ptr, inverse_b_ptr, i_P, j_P, mask_P, width,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """[P] float32 cosines of the pairs (a[i], b[j]) that a mask leaves; 0 for the others."""
    a_ptrs_P = a_ptr + i_P * width
    b_ptrs_P = b_ptr + j_P * width
    sums_PD = tl.zeros((BLOCK_P, BLOCK_D), dtype=tl.float32)
    for first in tl.range(0, width, BLOCK_D):
        element_D = first + tl.arange(0, BLOCK_D)
        mask_PD = mask_P[:, None] & (element_D < width)[None, :]
        a_PD = tl.load(a_ptrs_P[:, None] + element_D[None, :], mask=mask_PD, other=0.0)
        b_PD = tl.load(b_ptrs_P[:, None] + element_D[None, :], mask=mask_PD, other=0.0)
        sums_PD += a_PD.to(tl.float32) * b_PD.to(tl.float32)
    inverse_a_P = tl.load(inverse_a_ptr + i_P, mask=mask_P, other=0.0)
    inverse_b_P = tl.load(inverse_b_ptr + j_P, mask=mask_P, other=0.0)
    return tl.sum(sums_PD, axis=1) * inverse_a_P * inverse_b_P


@triton.jit(do_not_specialize=["num_pairs"])
def recheck_kernel(
    clip_a_ptr, clip_b_ptr, inverse_clip_a_ptr, inverse_clip_b_ptr,
    dino_a_ptr, dino_b_ptr, inverse_dino_a_ptr, inverse_dino_b_ptr,
    i_ptr, j_ptr, keep_ptr,
    num_pairs, clip_width, dino_width, clip_floor, dino_ceiling,
    DINO: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Which pairs may be blind: both cosines in float32, from the rows as they were given.

    keep[p] = clip[i] . clip[j] / (|clip[i]| |clip[j]|) > clip_floor, and, with DINO,
    dino[i] . dino[j] / (|dino[i]| |dino[j]|) < dino_ceiling.

    Grid: one program for BLOCK_P pairs; DINO rows are read for those that CLIP keeps.

    Example, floors 0.95 and 0.6, three pairs:
        clip cosines 0.99, 0.97, 0.94 and dino cosines 0.3, 0.9, not read
        keep 1, 0, 0
    """
    # In 64 bits: a row may start past 2^31 elements.
    pair_P = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    mask_P = pair_P < num_pairs
    i_P = tl.load(i_ptr + pair_P, mask=mask_P, other=0)
    j_P = tl.load(j_ptr + pair_P, mask=mask_P, other=0)
    clip_P = _cosines(
        clip_a_ptr, clip_b_ptr, inverse_clip_a_ptr, inverse_clip_b_ptr, i_P, j_P, mask_P,
        clip_width, BLOCK_P, BLOCK_D,
    )  # fmt: skip
    keep_P = mask_P & (clip_P > clip_floor)
    if DINO:
        if tl.max(keep_P.to(tl.int32), axis=0) == 1:
            dino_P = _cosines(
                dino_a_ptr, dino_b_ptr, inverse_dino_a_ptr, inverse_dino_b_ptr, i_P, j_P, keep_P,
                dino_width, BLOCK_P, BLOCK_D,
            )  # fmt: skip
            keep_P &= dino_P < dino_ceiling
    tl.store(keep_ptr + pair_P, keep_P.to(tl.int8), mask=mask_P)
