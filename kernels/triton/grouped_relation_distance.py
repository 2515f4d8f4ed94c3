"""Triton form of grouped_relation_distance: one program per block of rows of a group, the group's columns swept."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton.pair_tiles import (
    BLOCK_COLUMNS,
    BLOCK_ROWS,
    BLOCK_WIDTH,
    WARPS,
    product_dtype,
    product_tile,
    weighted_rows,
    width_block,
)
from torch import Tensor


@triton.jit
def grouped_relation_distance_kernel(
    teacher_ptr, student_ptr, blocks_ptr, losses_ptr, slopes_ptr, D_T: tl.constexpr, D_S: tl.constexpr,
POSITIVE_ONLY: tl.constexpr, WITH_SLOPES: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """blocks [n, 3] int64: a block's first row, and its group's first row and end. Rows are unit vectors."""
    program = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    dtype = losses_ptr.dtype.element_ty
    row = tl.load(blocks_ptr + 3 * program)
    begin, end = tl.load(blocks_ptr + 3 * program + 1), tl.load(blocks_ptr + 3 * program + 2)
    rows = row + tl.arange(0, BLOCK_I)
    sums = tl.zeros((BLOCK_I, BLOCK_J), dtype)
    grad = tl.zeros((BLOCK_I, BLOCK_S), dtype)
    column = begin
    while column < end:
        columns = column + tl.arange(0, BLOCK_J)
        wanted = product_tile(teacher_ptr, rows, columns, end, end, D_T, dtype, BLOCK_I, BLOCK_J, BLOCK_D)
        found = product_tile(student_ptr, rows, columns, end, end, D_S, dtype, BLOCK_I, BLOCK_J, BLOCK_D)
        difference = found - wanted
        if POSITIVE_ONLY:
            difference = tl.where(wanted > 0, difference, 0.0)
        sums += difference * difference
        if WITH_SLOPES:
            grad += weighted_rows(
                4 * difference, student_ptr, columns, end, chunk * BLOCK_S, D_S, dtype, BLOCK_S
            )
        column += BLOCK_J
    if chunk == 0:
        tl.store(losses_ptr + program, tl.sum(tl.sum(sums, 1), 0))
    if WITH_SLOPES:
        d = chunk * BLOCK_S + tl.arange(0, BLOCK_S)
        tl.store(slopes_ptr + rows[:, None] * D_S + d, grad, mask=(rows[:, None] < end) & (d < D_S))


def row_blocks(bounds: Tensor) -> Tensor:
    """[n, 3]: the first row of every block of rows, with the bounds of its group."""
    counts = -(-(bounds[:, 1] - bounds[:, 0]) // BLOCK_ROWS)
    group = torch.repeat_interleave(counts)
    within = torch.arange(len(group), device=bounds.device) - (counts.cumsum(0) - counts)[group]
    return torch.cat([(bounds[group, 0] + within * BLOCK_ROWS)[:, None], bounds[group]], 1).contiguous()


def grouped_relation_distance_tiles(
    teacher: Tensor,
    student: Tensor,
    bounds: Tensor,
    positive_only: bool,
    slopes: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Adds to `slopes` [R, D_s] float64 those of the groups' rows; returns their loss. `dtype`: that of their storage."""
    t, s = (rows.to(product_dtype(dtype)).contiguous() for rows in (teacher, student))
    blocks = row_blocks(bounds)
    losses = torch.empty(len(blocks), dtype=t.dtype, device=t.device)
    out = torch.zeros_like(s)
    if len(blocks):
        block = width_block(s.shape[1])
        chunks = triton.cdiv(s.shape[1], block) if slopes is not None else 1
        grouped_relation_distance_kernel[(len(blocks), max(chunks, 1))](
            t, s, blocks, losses, out, t.shape[1], s.shape[1], POSITIVE_ONLY=positive_only,
            WITH_SLOPES=slopes is not None, BLOCK_I=BLOCK_ROWS, BLOCK_J=BLOCK_COLUMNS, BLOCK_D=BLOCK_WIDTH,
            BLOCK_S=block, num_warps=WARPS,
        )  # fmt: skip
    if slopes is not None:
        slopes += out
    return losses.double().sum()
