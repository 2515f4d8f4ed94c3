"""Triton form of triplet_angle_huber: unit differences to some anchors by torch, and one sweep over pairs of each's."""

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
from rankdistill.kernels.triton.touched_rows import add_rows, occurrences_of_ids
from torch import Tensor

DIFFERENCE_BYTES, MOST_ANCHORS = 64 << 20, 65535  # of unit differences to some anchors, and of a launch


@triton.jit
def triplet_angle_huber_kernel(
    teacher_ptr, student_ptr, losses_ptr, slopes_ptr, B, D_T: tl.constexpr, D_S: tl.constexpr, WITH_SLOPES: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Of each anchor's unit differences [A, B, ·]: a loss per block of rows, and the slopes by the student's."""
    program = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    anchor = tl.program_id(2).to(tl.int64)
    dtype = losses_ptr.dtype.element_ty
    teacher_ptr += anchor * B * D_T
    student_ptr += anchor * B * D_S
    slopes_ptr += anchor * B * D_S
    losses_ptr += anchor * tl.num_programs(0)
    rows = program * BLOCK_I + tl.arange(0, BLOCK_I)
    sums = tl.zeros((BLOCK_I, BLOCK_J), dtype)
    grad = tl.zeros((BLOCK_I, BLOCK_S), dtype)
    column = tl.full((), 0, tl.int64)
    while column < B:
        columns = column + tl.arange(0, BLOCK_J)
        wanted = product_tile(teacher_ptr, rows, columns, B, B, D_T, dtype, BLOCK_I, BLOCK_J, BLOCK_D)
        found = product_tile(student_ptr, rows, columns, B, B, D_S, dtype, BLOCK_I, BLOCK_J, BLOCK_D)
        difference = found - wanted
        size = tl.abs(difference)
        sums += tl.where(size < 1, 0.5 * difference * difference, size - 0.5)
        if WITH_SLOPES:
            slope = tl.where(size < 1, difference, tl.where(difference > 0, 1.0, -1.0))
            slope = tl.where(difference != difference, difference, slope)
            grad += weighted_rows(2 * slope, student_ptr, columns, B, chunk * BLOCK_S, D_S, dtype, BLOCK_S)
        column += BLOCK_J
    if chunk == 0:
        tl.store(losses_ptr + program, tl.sum(tl.sum(sums, 1), 0))
    if WITH_SLOPES:
        d = chunk * BLOCK_S + tl.arange(0, BLOCK_S)
        tl.store(slopes_ptr + rows[:, None] * D_S + d, grad, mask=(rows[:, None] < B) & (d < D_S))


def unit_differences(x: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """[A, B, D] from anchors to rows, of length 1 or 0, and one over their lengths [A, B, 1], or 0."""
    differences = x[None] - x[anchors][:, None]
    # Squares of differences, of which lengths are made, might overflow or vanish in float64.
    if x.dtype == torch.float64 and x.shape[1]:
        largest = differences.abs().amax(2, keepdim=True)
        largest = largest.where(largest > 0, 1)
        found, inverse = lengthened(differences.div_(largest))
        return found, inverse / largest
    return lengthened(differences)


def lengthened(differences: Tensor) -> tuple[Tensor, Tensor]:
    """Differences [A, B, D], written over, of length 1 or 0, and one over their lengths [A, B, 1], or 0."""
    norms = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
    inverse = torch.where(norms == 0, 0.0, 1 / norms)
    return differences.mul_(inverse), inverse


def triplet_angle_huber_forward(
    teacher: Tensor, student: Tensor, anchors: Tensor | None, with_slopes: bool
) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if student.dtype == torch.float64 else torch.float32
    tiled, (B, D_s), device = product_dtype(student.dtype), student.shape, student.device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    slopes = torch.zeros((B if with_slopes else 0, D_s), dtype=torch.float64, device=device)
    anchors = torch.arange(B, device=device) if anchors is None else anchors
    if not B:
        # No row can be an anchor.
        return loss.masked_fill(torch.tensor(len(anchors) > 0, device=device), torch.nan).to(wide), slopes.to(
            wide
        )
    teacher, student = teacher.double(), student.double()
    n, block = triton.cdiv(B, BLOCK_ROWS), width_block(D_s)
    chunks = triton.cdiv(D_s, block) if with_slopes else 1
    together = min(max(1, DIFFERENCE_BYTES // (8 * B * max(teacher.shape[1] + D_s, 1))), MOST_ANCHORS)
    for some in anchors.split(together):
        # An anchor that is no row is read nowhere, and makes the loss NaN.
        misfit = (some < 0) | (some >= B)
        rows = some.clamp(0, B - 1)
        (t, _), (unit, inverse) = (unit_differences(x, rows) for x in (teacher, student))
        t, s = t.to(tiled), unit.to(tiled)
        losses, grad = torch.empty((len(some), n), dtype=tiled, device=device), torch.empty_like(s)
        triplet_angle_huber_kernel[(n, max(chunks, 1), len(some))](
            t, s, losses, grad, B, t.shape[2], D_s, WITH_SLOPES=with_slopes, BLOCK_I=BLOCK_ROWS,
            BLOCK_J=BLOCK_COLUMNS, BLOCK_D=BLOCK_WIDTH, BLOCK_S=block, num_warps=WARPS,
        )  # fmt: skip
        loss += losses.double().sum(1).masked_fill(misfit, torch.nan).sum()
        if with_slopes:
            grad = grad.double()
            along = (unit * grad).sum(2, keepdim=True)
            part = ((grad - unit * along) * inverse).masked_fill(misfit[:, None, None], torch.nan)
            slopes += part.sum(0)
            slopes -= sums_by_row(rows, part.sum(1), B)
    return loss.to(wide), slopes.to(wide)


def sums_by_row(rows: Tensor, values: Tensor, B: int) -> Tensor:
    """[B, D] sums of values [A, D] by row, in order."""
    return add_rows(values.new_zeros(B, values.shape[1]), occurrences_of_ids(rows, B), values.contiguous())
