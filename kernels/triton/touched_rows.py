"""Triton form of coalesce_rows, and the sums by id that gradients of tables are made of: no atomics, one order.

Ids are sorted, with the positions where they stood. A program adds up a chunk of that list by a segmented scan; ids that
lie in several chunks are joined by a second kernel, chunk by chunk. DESIGN.md TT-3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_CHUNKS = 16
TILE = 2048  # numbers of a chunk's rows
BLOCK_KEYS = 1024
INT32 = 2**31 - 1


@triton.jit
def add_stretches(begun_a, sum_a, begun_b, sum_b):
    """Of two stretches of a sorted list: whether an id begins there, and the sum of the last id's rows."""
    return begun_a | begun_b, tl.where(begun_b != 0, sum_b, sum_a + sum_b)


@triton.jit(do_not_specialize=["n"])
def touched_rows_keys_kernel(ids_ptr, keys_ptr, n, n_rows, BLOCK: tl.constexpr):
    """Ids as keys of a sort; n_rows for those out of range."""
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ids = tl.load(ids_ptr + position, mask=position < n, other=0)
    keys = tl.where((ids >= 0) & (ids < n_rows), ids, n_rows)
    tl.store(keys_ptr + position, keys.to(keys_ptr.dtype.element_ty), mask=position < n)


@triton.jit(do_not_specialize=["n"])
def touched_rows_begins_kernel(keys_ptr, begins_ptr, n, n_rows, BLOCK: tl.constexpr):
    """1 where the keys of a row begin, elsewhere 0."""
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys_ptr + position, mask=position < n, other=n_rows)
    before = tl.load(keys_ptr + position - 1, mask=(position > 0) & (position <= n), other=-1)
    begins = (key != before) & (key < n_rows)
    tl.store(begins_ptr + position, begins.to(begins_ptr.dtype.element_ty), mask=position < n)


@triton.jit(do_not_specialize=["n"])
def touched_rows_chunk_kernel(
    table_ptr, weights_ptr, rows_ptr, order_ptr, keys_ptr, places_ptr, touched_ptr, sums_ptr, entering_ptr, leaving_ptr,
    stride_table_row, n, n_rows, K, D, WEIGHTED: tl.constexpr, HAS_ROWS: tl.constexpr, TOUCHED: tl.constexpr,
    ADDS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Sums of the ids that lie in one chunk; of an id that enters or leaves the chunk, its part here.

    Where sums are of touched rows alone, also writes which row each is of.
    """
    chunk = tl.program_id(0).to(tl.int64)
    dtype = sums_ptr.dtype.element_ty
    lane = tl.arange(0, BLOCK_P)
    position = chunk * BLOCK_P + lane
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    wide = (d < D)[None, :]
    inside = position < n
    key = tl.load(keys_ptr + position, mask=inside, other=n_rows)
    before = tl.load(keys_ptr + position - 1, mask=inside & (position > 0), other=-1)
    after = tl.load(keys_ptr + position + 1, mask=position + 1 < n, other=n_rows)
    counted = inside & (key < n_rows)
    at = tl.load(order_ptr + position, mask=counted, other=0)
    row = at // K
    if HAS_ROWS:
        row = tl.load(rows_ptr + row, mask=counted, other=0)
    weighed = counted
    if WEIGHTED:
        weights = tl.load(weights_ptr + at, mask=counted, other=0.0)
        weighed = counted & (weights != 0)  # 0 times what has no part is 0
    values = tl.load(
        table_ptr + row[:, None] * stride_table_row + d[None, :], mask=weighed[:, None] & wide, other=0.0
    ).to(dtype)
    if WEIGHTED:
        values *= weights[:, None]
    begins = tl.broadcast_to((key != before).to(tl.int32)[:, None], [BLOCK_P, BLOCK_D])
    begun, totals = tl.associative_scan((begins, values), 0, add_stretches)
    begun = begun != 0
    counted = counted[:, None] & wide
    ends = (key != after)[:, None]
    last = (lane == BLOCK_P - 1)[:, None]
    target = key.to(tl.int64)
    if TOUCHED:
        target = tl.load(places_ptr + position, mask=inside, other=1).to(tl.int64) - 1
        first = inside & (key < n_rows) & (key != before) & (tl.program_id(1) == 0)
        tl.store(touched_ptr + target, key.to(tl.int64), mask=first)
    sum_ptrs = sums_ptr + target[:, None] * D + d[None, :]
    whole = counted & ends & begun
    if ADDS:
        totals_there = totals + tl.load(sum_ptrs, mask=whole, other=0.0)
        tl.store(sum_ptrs, totals_there, mask=whole)
    else:
        tl.store(sum_ptrs, totals, mask=whole)
    part_offsets = tl.broadcast_to((chunk * D + d)[None, :], [BLOCK_P, BLOCK_D])
    tl.store(entering_ptr + part_offsets, totals, mask=counted & (begun == 0) & (ends | last))
    tl.store(leaving_ptr + part_offsets, totals, mask=counted & begun & last & (ends == 0))


@triton.jit(do_not_specialize=["n"])
def touched_rows_join_kernel(
    keys_ptr, places_ptr, sums_ptr, entering_ptr, leaving_ptr, n, n_rows, D, TOUCHED: tl.constexpr,
    ADDS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The sum of the id that begins in this chunk and leaves it."""
    chunk = tl.program_id(0).to(tl.int64)
    dtype = sums_ptr.dtype.element_ty
    first = chunk * BLOCK_P
    last = tl.minimum(first + BLOCK_P, n) - 1
    key = tl.load(keys_ptr + last)
    before = tl.load(keys_ptr + first - 1, mask=chunk > 0, other=-1)
    after = tl.load(keys_ptr + last + 1, mask=last + 1 < n, other=n_rows)
    if (key < n_rows) & (key != before) & (key == after):
        d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
        wide = d < D
        total = tl.load(leaving_ptr + chunk * D + d, mask=wide, other=0.0)
        following = chunk + 1 + tl.arange(0, BLOCK_C)
        going_on = 1
        while going_on > 0:
            keys = tl.load(keys_ptr + following * BLOCK_P, mask=following * BLOCK_P < n, other=n_rows)
            same = keys == key
            parts = tl.load(
                entering_ptr + following[:, None] * D + d[None, :],
                mask=same[:, None] & wide[None, :],
                other=0.0,
            )
            total += tl.sum(parts, 0).to(dtype)
            going_on = tl.min(same.to(tl.int32), 0)
            following += BLOCK_C
        target = key.to(tl.int64)
        if TOUCHED:
            target = tl.load(places_ptr + last).to(tl.int64) - 1
        sum_ptrs = sums_ptr + target * D + d
        if ADDS:
            total += tl.load(sum_ptrs, mask=wide, other=0.0)
        tl.store(sum_ptrs, total, mask=wide)


class Touched(NamedTuple):
    """The distinct rows, ascending, which the first `add_rows` writes, and of every key which of them it is, from 1."""

    ids: Tensor  # [M] int64
    places: Tensor  # [n] int32 or int64


class Occurrences(NamedTuple):
    """Sorted keys in [0, n_rows], where n_rows belongs to no row, and where each stood, by key and then by position."""

    keys: Tensor  # [n] int32 or int64
    order: Tensor  # [n] int64
    n_rows: int

    def begins(self) -> Tensor:
        """[n] 1 where the keys of a row begin, elsewhere 0."""
        n = self.keys.numel()
        begins = torch.empty(n, dtype=short_dtype(n), device=self.keys.device)
        if n:
            touched_rows_begins_kernel[(triton.cdiv(n, BLOCK_KEYS),)](
                self.keys, begins, n, self.n_rows, BLOCK=BLOCK_KEYS, num_warps=4
            )
        return begins

    def touched(self) -> Touched:
        """The host waits for the device here, once: it must know how many rows there are."""
        begins = self.begins()
        places = begins.cumsum(0, dtype=begins.dtype)
        count = int(places[-1]) if len(places) else 0
        return Touched(torch.empty(count, dtype=torch.int64, device=places.device), places)


def short_dtype(most: int) -> torch.dtype:
    """Of integers up to `most`; half as many passes of a sort where they are short."""
    return torch.int32 if most <= INT32 else torch.int64


def occurrences(keys: Tensor, n_rows: int) -> Occurrences:
    """Of keys [n] in [0, n_rows]."""
    return Occurrences(*keys.flatten().sort(stable=True), n_rows)


def occurrences_of_ids(ids: Tensor, n_rows: int) -> Occurrences:
    """Of ids [n]; those out of range belong to no row."""
    ids = ids.contiguous()
    keys = torch.empty(ids.shape, dtype=short_dtype(n_rows), device=ids.device)
    if len(ids):
        touched_rows_keys_kernel[(triton.cdiv(len(ids), BLOCK_KEYS),)](
            ids, keys, len(ids), n_rows, BLOCK=BLOCK_KEYS, num_warps=4
        )
    return occurrences(keys, n_rows)


def add_rows(
    sums: Tensor,
    found: Occurrences,
    table: Tensor,
    *,
    weights: Tensor | None = None,
    rows: Tensor | None = None,
    K: int = 1,
    touched: Touched | None = None,
    adds: bool = False,
) -> Tensor:
    """Writes (or adds) Σ weights[p] · table[rows[p // K]] over the positions p of each id to its row of `sums`.

    sums [·, D] float32 or float64, contiguous: of every id, or of those in `touched`, whose ids are then written too. Rows
    of ids that do not occur are left alone. table [·, D] has contiguous rows, weights [n] the dtype of `sums`; without
    `rows` p // K itself is the row.
    """
    n, D = found.keys.numel(), sums.shape[1]
    if not n * len(sums):
        return sums
    block_d = min(triton.next_power_of_2(max(D, 1)), 64)
    block_p = min(max(TILE // block_d, 32), 256)
    grid = triton.cdiv(n, block_p), max(triton.cdiv(D, block_d), 1)
    entering, leaving = torch.empty((2, grid[0], D), dtype=sums.dtype, device=sums.device)
    shared = {
        "TOUCHED": touched is not None, "ADDS": adds, "BLOCK_P": block_p, "BLOCK_D": block_d, "num_warps": 4
    }  # fmt: skip
    keys, order, n_rows = found
    ids, places = touched or (order, keys)  # any pointers serve where there are none
    touched_rows_chunk_kernel[grid](
        table, table if weights is None else weights, order if rows is None else rows, order, keys, places, ids, sums,
        entering, leaving, table.stride(0), n, n_rows, K, D, WEIGHTED=weights is not None, HAS_ROWS=rows is not None,
        **shared,
    )  # fmt: skip
    if grid[0] > 1:
        touched_rows_join_kernel[grid](
            keys, places, sums, entering, leaving, n, n_rows, D, BLOCK_C=BLOCK_CHUNKS, **shared
        )
    return sums


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def touched_rows_coalesce(ids: Tensor, rows: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """The distinct ids, ascending [M], and the sums of their rows [M, ...]."""
    found = occurrences_of_ids(ids, n_rows)
    touched = found.touched()
    flat = rows.reshape(len(rows), -1).contiguous() if rows.numel() else rows.new_empty((len(rows), 0))
    sums = torch.empty((len(touched.ids), flat.shape[1]), dtype=wide_dtype(rows.dtype), device=rows.device)
    add_rows(sums, found, flat, touched=touched)
    return touched.ids, sums.to(rows.dtype).reshape(len(touched.ids), *rows.shape[1:])
