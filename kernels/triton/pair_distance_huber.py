"""Triton form of pair_distance_huber: a sweep for the mean distances, and one for the loss and its slopes."""

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

# Below this share of the squared norms a squared distance has lost digits and is summed again from differences.
CANCELLED = 1e-2
CANCELLED_DOUBLE = 1e-4


@triton.jit
def distance_tile(
    table_ptr, norms_ptr, rows, columns, B, WIDTH: tl.constexpr, share, dtype: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Distances of table rows `rows` [I] and `columns` [J]; 0 past the table."""
    inside = (rows[:, None] < B) & (columns[None, :] < B)
    products = product_tile(table_ptr, rows, columns, B, B, WIDTH, dtype, BLOCK_I, BLOCK_J, BLOCK_D)
    both = tl.load(norms_ptr + rows, mask=rows < B, other=0.0)[:, None]
    both += tl.load(norms_ptr + columns, mask=columns < B, other=0.0)[None, :]
    squares = tl.where(inside, both - 2 * products, 0.0)
    cancelled = inside & (squares < share * both)
    if tl.max(tl.max(cancelled.to(tl.int32), 1), 0) > 0:
        exact = tl.zeros((BLOCK_I, BLOCK_J), dtype)
        for d in range(WIDTH):
            left = tl.load(table_ptr + rows * WIDTH + d, mask=rows < B, other=0.0)
            right = tl.load(table_ptr + columns * WIDTH + d, mask=columns < B, other=0.0)
            difference = left[:, None] - right[None, :]
            exact += difference * difference
        squares = tl.where(cancelled, exact, squares)
    return tl.sqrt(squares)


@triton.jit
def distance_sums_kernel(
    teacher_ptr, teacher_norms_ptr, student_ptr, student_norms_ptr, sums_ptr, B, D_T: tl.constexpr, D_S: tl.constexpr, share,
BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """sums [blocks, 4]: the sum and the number of the distances that are not 0, of teacher and student, for i < j."""
    program = tl.program_id(0).to(tl.int64)
    dtype = sums_ptr.dtype.element_ty
    rows = program * BLOCK_I + tl.arange(0, BLOCK_I)
    totals_t, totals_s = tl.zeros((BLOCK_I,), dtype), tl.zeros((BLOCK_I,), dtype)
    counts_t, counts_s = tl.zeros((BLOCK_I,), dtype), tl.zeros((BLOCK_I,), dtype)
    column = program * BLOCK_I
    while column < B:
        columns = column + tl.arange(0, BLOCK_J)
        above = columns[None, :] > rows[:, None]
        t = distance_tile(
            teacher_ptr, teacher_norms_ptr, rows, columns, B, D_T, share, dtype, BLOCK_I, BLOCK_J, BLOCK_D
        )
        s = distance_tile(
            student_ptr, student_norms_ptr, rows, columns, B, D_S, share, dtype, BLOCK_I, BLOCK_J, BLOCK_D
        )
        t, s = tl.where(above, t, 0.0), tl.where(above, s, 0.0)
        totals_t += tl.sum(t, 1)
        totals_s += tl.sum(s, 1)
        counts_t += tl.sum((t != 0).to(dtype), 1)
        counts_s += tl.sum((s != 0).to(dtype), 1)
        column += BLOCK_J
    tl.store(sums_ptr + 4 * program, tl.sum(totals_t, 0))
    tl.store(sums_ptr + 4 * program + 1, tl.sum(counts_t, 0))
    tl.store(sums_ptr + 4 * program + 2, tl.sum(totals_s, 0))
    tl.store(sums_ptr + 4 * program + 3, tl.sum(counts_s, 0))


@triton.jit
def pair_distance_huber_kernel(
    teacher_ptr, teacher_norms_ptr, student_ptr, student_norms_ptr, scales_ptr, sums_ptr, slopes_ptr,
    mean_slopes_ptr, B, D_T: tl.constexpr, D_S: tl.constexpr, share, WITH_SLOPES: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """scales [2]: 1/mean of teacher and student. sums [blocks, 2]: of huber, and of its derivative times the distance."""
    program = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    dtype = sums_ptr.dtype.element_ty
    scale_t, scale_s = tl.load(scales_ptr), tl.load(scales_ptr + 1)
    rows = program * BLOCK_I + tl.arange(0, BLOCK_I)
    losses, moments = tl.zeros((BLOCK_I,), dtype), tl.zeros((BLOCK_I,), dtype)
    bends, means = tl.zeros((BLOCK_I,), dtype), tl.zeros((BLOCK_I,), dtype)
    bent, meant = tl.zeros((BLOCK_I, BLOCK_S), dtype), tl.zeros((BLOCK_I, BLOCK_S), dtype)
    column = tl.full((), 0, tl.int64)
    while column < B:
        columns = column + tl.arange(0, BLOCK_J)
        t = distance_tile(
            teacher_ptr, teacher_norms_ptr, rows, columns, B, D_T, share, dtype, BLOCK_I, BLOCK_J, BLOCK_D
        )
        s = distance_tile(
            student_ptr, student_norms_ptr, rows, columns, B, D_S, share, dtype, BLOCK_I, BLOCK_J, BLOCK_D
        )
        difference = s * scale_s - t * scale_t
        size = tl.abs(difference)
        slope = tl.where(size < 1, difference, tl.where(difference > 0, 1.0, -1.0))
        slope = tl.where(difference != difference, difference, slope)
        losses += tl.sum(tl.where(size < 1, 0.5 * difference * difference, size - 0.5), 1)
        moments += tl.sum(slope * s, 1)
        if WITH_SLOPES:
            inverse = tl.where(s > 0, 1.0 / tl.where(s > 0, s, 1.0), 0.0)
            bend = slope * inverse
            bends += tl.sum(bend, 1)
            means += tl.sum(inverse, 1)
            bent += weighted_rows(bend, student_ptr, columns, B, chunk * BLOCK_S, D_S, dtype, BLOCK_S)
            meant += weighted_rows(inverse, student_ptr, columns, B, chunk * BLOCK_S, D_S, dtype, BLOCK_S)
        column += BLOCK_J
    if chunk == 0:
        tl.store(sums_ptr + 2 * program, tl.sum(losses, 0))
        tl.store(sums_ptr + 2 * program + 1, tl.sum(moments, 0))
    if WITH_SLOPES:
        d = chunk * BLOCK_S + tl.arange(0, BLOCK_S)
        kept = (rows[:, None] < B) & (d < D_S)
        own = tl.load(student_ptr + rows[:, None] * D_S + d, mask=kept, other=0.0)
        tl.store(slopes_ptr + rows[:, None] * D_S + d, bends[:, None] * own - bent, mask=kept)
        tl.store(mean_slopes_ptr + rows[:, None] * D_S + d, means[:, None] * own - meant, mask=kept)


def pair_distance_huber_tiles(
    teacher: Tensor, student: Tensor, dtype: torch.dtype, with_slopes: bool
) -> tuple[Tensor, Tensor]:
    """Loss and slopes, in float64, of centred float64 tables of at least a row. `dtype`: that of the rows' storage."""
    (B, D_s), device = student.shape, student.device
    wide = product_dtype(dtype)
    t, s = teacher.to(wide).contiguous(), student.to(wide).contiguous()
    norms = [x.square().sum(1) for x in (t, s)]
    tables = t, norms[0], s, norms[1]
    n = triton.cdiv(B, BLOCK_ROWS)
    sizes = {"BLOCK_I": BLOCK_ROWS, "BLOCK_J": BLOCK_COLUMNS, "BLOCK_D": BLOCK_WIDTH, "num_warps": WARPS}
    share = CANCELLED_DOUBLE if wide == torch.float64 else CANCELLED
    sums = torch.empty((n, 4), dtype=wide, device=device)
    distance_sums_kernel[(n,)](*tables, sums, B, t.shape[1], D_s, share, **sizes)
    sum_t, count_t, sum_s, count_s = sums.double().sum(0)
    scales = [
        torch.where(total == 0, 0.0, count / total) for total, count in ((sum_t, count_t), (sum_s, count_s))
    ]
    sums = torch.empty((n, 2), dtype=wide, device=device)
    slopes, mean_slopes = torch.empty_like(s), torch.empty_like(s)
    block = width_block(D_s)
    chunks = triton.cdiv(D_s, block) if with_slopes else 1
    pair_distance_huber_kernel[(n, max(chunks, 1))](
        *tables, torch.stack(scales).to(wide), sums, slopes, mean_slopes, B, t.shape[1], D_s, share,
        WITH_SLOPES=with_slopes, BLOCK_S=block, **sizes,
    )  # fmt: skip
    loss, moment = sums.double().sum(0)
    if not with_slopes:
        return loss, student[:0]
    # By the distances, 2 huber'/mean; by the mean, which is itself one over the distances, the rest.
    through_mean = torch.where(sum_s == 0, 0.0, moment * scales[1].square() / count_s)
    return loss, 2 * scales[1] * slopes.double() - through_mean * mean_slopes.double()
