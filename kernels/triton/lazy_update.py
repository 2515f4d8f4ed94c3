"""Triton form of lazy_update: one launch writes a table's touched rows, and all that is kept of them, in place.

Settings are float64 arguments of the kernel, neither constants nor tensors, so that one which changes at every step costs
neither a compilation nor a copy. An id out of range touches nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # numbers of rows that a program holds at a time
WIDEST_BLOCK = 256


@triton.jit
def rows_of(ids_ptr, M, N, HAS_IDS: tl.constexpr, BLOCK_M: tl.constexpr):
    """This program's places in the list of ids, [BLOCK_M] int64, the rows of the table there, and whether they are some."""
    places = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    ids = places
    if HAS_IDS:
        ids = tl.load(ids_ptr + places, mask=places < M, other=-1)
    return places, ids, (places < M) & (ids >= 0) & (ids < N)


@triton.jit
def square_root(x):
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def quotient(x, y):
    if x.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit(do_not_specialize=["M"])
def lazy_update_adam_kernel(
    table_ptr, means_ptr, squares_ptr, ids_ptr, grads_ptr, M, N, D, mean_rate: tl.float64, square_rate: tl.float64,
    step_size: tl.float64, eps: tl.float64, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    dtype = table_ptr.dtype.element_ty
    places, ids, real = rows_of(ids_ptr, M, N, True, BLOCK_M)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = real[:, None] & (d < D)[None, :]
    at = ids[:, None] * D + d[None, :]
    grad = tl.load(grads_ptr + places[:, None] * D + d[None, :], mask=inside, other=0.0)
    mean = tl.load(means_ptr + at, mask=inside, other=0.0)
    square = tl.load(squares_ptr + at, mask=inside, other=0.0)
    row = tl.load(table_ptr + at, mask=inside, other=0.0)
    mean += (grad - mean) * tl.full([], mean_rate, dtype)
    square += (grad * grad - square) * tl.full([], square_rate, dtype)
    row -= tl.full([], step_size, dtype) * quotient(mean, square_root(square) + tl.full([], eps, dtype))
    tl.store(means_ptr + at, mean, mask=inside)
    tl.store(squares_ptr + at, square, mask=inside)
    tl.store(table_ptr + at, row, mask=inside)


@triton.jit
def whole_and_part(factor, dtype: tl.constexpr):
    """[BLOCK_M, 1] each, of fp64 factors: a row becomes whole·row − part·row. Near 1 the factor's distance from 1 is rounded."""
    whole = tl.where(factor < 0.5, 0.0, 1.0).to(tl.float64)
    return whole.to(dtype)[:, None], (whole - factor).to(dtype)[:, None]


@triton.jit(do_not_specialize=["M"])
def lazy_update_sgd_kernel(
    table_ptr, marks_ptr, ids_ptr, grads_ptr, M, N, D, rate: tl.float64, kept: tl.float64, log_decay: tl.float64,
    log_decay_after: tl.float64, HAS_MARKS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A program has whole rows, since each has one mark. Without marks no row has missed any decay."""
    dtype = table_ptr.dtype.element_ty
    places, ids, real = rows_of(ids_ptr, M, N, True, BLOCK_M)
    factor = tl.full([BLOCK_M], kept, tl.float64)
    if HAS_MARKS:
        missed = tl.full([], log_decay, tl.float64) - tl.load(marks_ptr + ids, mask=real, other=0.0)
        factor *= tl.exp(missed)
        tl.store(marks_ptr + ids, tl.full([BLOCK_M], log_decay_after, tl.float64), mask=real)
    whole, part = whole_and_part(factor, dtype)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        inside = real[:, None] & (d < D)[None, :]
        at = ids[:, None] * D + d[None, :]
        grad = tl.load(grads_ptr + places[:, None] * D + d[None, :], mask=inside, other=0.0)
        row = tl.load(table_ptr + at, mask=inside, other=0.0)
        row = whole * row - (part * row + tl.full([], rate, dtype) * grad)
        tl.store(table_ptr + at, row, mask=inside)


@triton.jit(do_not_specialize=["M"])
def lazy_update_catch_up_kernel(
    table_ptr, marks_ptr, ids_ptr, M, N, D, log_decay: tl.float64, HAS_IDS: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Ids may repeat: who takes a row's old mark away multiplies the row, and the others find nothing missed."""
    dtype = table_ptr.dtype.element_ty
    _, ids, real = rows_of(ids_ptr, M, N, HAS_IDS, BLOCK_M)
    now = tl.full([BLOCK_M], log_decay, tl.float64)
    # As 64 bits, whatever they mean: Triton's interpreter exchanges integers only.
    bits_ptr = marks_ptr.to(tl.pointer_type(tl.int64), bitcast=True)
    bits = tl.atomic_xchg(bits_ptr + ids, now.to(tl.int64, bitcast=True), mask=real, sem="relaxed")
    marks = bits.to(tl.float64, bitcast=True)
    real = real & (marks != now)
    whole, part = whole_and_part(tl.exp(tl.where(real, now - marks, 0.0)), dtype)
    for first in range(0, D, BLOCK_D):
        d = first + tl.arange(0, BLOCK_D)
        inside = real[:, None] & (d < D)[None, :]
        at = ids[:, None] * D + d[None, :]
        row = tl.load(table_ptr + at, mask=inside, other=0.0)
        tl.store(table_ptr + at, whole * row - part * row, mask=inside)


def blocks(D: int) -> dict[str, int]:
    block_d = min(triton.next_power_of_2(D), WIDEST_BLOCK)
    return {"BLOCK_M": min(TILE // block_d, 256), "BLOCK_D": block_d, "num_warps": 4}


def width_of(table: Tensor) -> int:
    return table.numel() // max(len(table), 1)


def lazy_update_adam(
    table: Tensor, means: Tensor, squares: Tensor, ids: Tensor, grads: Tensor, beta1: float, beta2: float,
    step_size: float, eps: float,
) -> None:  # fmt: skip
    M, D = ids.numel(), width_of(table)
    if M * D:
        sizes = blocks(D)
        lazy_update_adam_kernel[triton.cdiv(M, sizes["BLOCK_M"]), triton.cdiv(D, sizes["BLOCK_D"])](
            table, means, squares, ids.contiguous(), grads.contiguous(), M, len(table), D, 1 - beta1, 1 - beta2,
            step_size, eps, **sizes,
        )  # fmt: skip


def lazy_update_sgd(
    table: Tensor, marks: Tensor | None, ids: Tensor, grads: Tensor, rate: float, kept: float, log_decay: float,
    log_decay_after: float,
) -> None:  # fmt: skip
    M, D = ids.numel(), width_of(table)
    if M * D:
        sizes = blocks(D)
        lazy_update_sgd_kernel[(triton.cdiv(M, sizes["BLOCK_M"]),)](
            table, table if marks is None else marks, ids.contiguous(), grads.contiguous(), M, len(table), D, rate,
            kept, log_decay, log_decay_after, HAS_MARKS=marks is not None, **sizes,
        )  # fmt: skip


def lazy_update_catch_up(table: Tensor, marks: Tensor, ids: Tensor | None, log_decay: float) -> None:
    """Ids may repeat here, -1 is none; None stands for every row."""
    M, D = len(table) if ids is None else ids.numel(), width_of(table)
    if M * D:
        sizes = blocks(D)
        lazy_update_catch_up_kernel[(triton.cdiv(M, sizes["BLOCK_M"]),)](
            table, marks, marks if ids is None else ids.contiguous(), M, len(table), D, log_decay,
            HAS_IDS=ids is not None, **sizes,
        )  # fmt: skip
