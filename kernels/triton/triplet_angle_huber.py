"""Triton form of triplet_angle_huber: per anchor, unit differences by torch, and one sweep over pairs of them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton.pair_tiles import (
    BLOCK_COLUMNS,
    BLOCK_ROWS,
    BLOCK_WIDTH,
    WARPS,
    product_tile,
    storage,
    weighted_rows,
    width_block,
)
from torch import Tensor


@triton.jit
def triplet_angle_huber_kernel(
    teacher_ptr, student_ptr, losses_ptr, slopes_ptr, B, D_T: tl.constexpr, D_S: tl.constexpr, WITH_SLOPES: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Of one anchor's unit differences: a loss per block of rows, and the slopes by the student's."""
    program = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    dtype = losses_ptr.dtype.element_ty
    rows = program * BLOCK_I + tl.arange(0, BLOCK_I)
    sums = tl.zeros((BLOCK_I, BLOCK_J), dtype)
    grad = tl.zeros((BLOCK_I, BLOCK_S), dtype)
    column = 0
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


def unit_differences(x: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    differences = x - anchor
    norms = torch.linalg.vector_norm(differences, dim=1, keepdim=True)
    inverse = torch.where(norms == 0, 0.0, 1 / norms)
    return differences * inverse, inverse


def triplet_angle_huber_forward(
    teacher: Tensor, student: Tensor, anchors: Tensor | None, with_slopes: bool
) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if student.dtype == torch.float64 else torch.float32
    (B, D_s), device = student.shape, student.device
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
    for number in anchors.unbind():
        # An anchor that is no row is read nowhere, and makes the loss NaN.
        misfit = (number < 0) | (number >= B)
        row = number.clamp(0, B - 1).reshape(1)
        units = [unit_differences(x, x.index_select(0, row)) for x in (teacher, student)]
        t, s = storage(units[0][0], wide), storage(units[1][0], wide)
        losses, grad = torch.empty(n, dtype=wide, device=device), torch.empty_like(s)
        triplet_angle_huber_kernel[(n, max(chunks, 1))](
            t, s, losses, grad, B, t.shape[1], D_s, WITH_SLOPES=with_slopes, BLOCK_I=BLOCK_ROWS,
            BLOCK_J=BLOCK_COLUMNS, BLOCK_D=BLOCK_WIDTH, BLOCK_S=block, num_warps=WARPS,
        )  # fmt: skip
        loss += losses.double().sum().masked_fill(misfit, torch.nan)
        if with_slopes:
            unit, inverse = units[1]
            along = (unit * grad).sum(1, keepdim=True)
            part = ((grad.double() - unit * along) * inverse).masked_fill(misfit, torch.nan)
            slopes += part
            slopes.index_add_(0, row, -part.sum(0, keepdim=True))  # one row: no order to depend on
    return loss.to(wide), slopes.to(wide)
