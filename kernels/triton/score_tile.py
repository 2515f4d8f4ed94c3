"""Tiles of inner products on a device, approximate with a proven margin, and blocks of exact scores.

|tile score - exact score| <= user's norm · item's margin (DESIGN.md TK-5); norms are rounded up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK_BYTES = 32 << 20  # of the items' operand that exists at a time: it stays in a large second-level cache
BLOCK_N = 128
MOST_BLOCK_R = 128
LARGEST_WIDTH = 1 << 16
LEAST_NORM, LARGEST_NORM = 2.0**-40, 1e18


class TileShape(NamedTuple):
    """Padded width in blocks, and rows of a tile: fixed by shapes, never by timing."""

    BLOCK_D: int
    D_BLOCKS: int
    BLOCK_R: int

    @property
    def width(self) -> int:
        return self.BLOCK_D * self.D_BLOCKS

    @property
    def warps(self) -> int:
        return 8 if self.BLOCK_R * BLOCK_N > 64 * 128 else 4


def tile_shape(rows: int, D: int) -> TileShape:
    block = max(16, triton.next_power_of_2(D)) if D <= 128 else 64
    return TileShape(
        block,
        max(1, triton.cdiv(D, block)),
        16 if rows <= 16 else min(MOST_BLOCK_R, 64 if rows <= 64 else 128),
    )


def operand_dtype(dtype: torch.dtype) -> torch.dtype:
    """16-bit tables are multiplied as they are, wider ones as bfloat16."""
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.bfloat16


def margin_factor(dtype: torch.dtype, D: int) -> float:
    """Times both norms: the margin of a tile of operands. Infinite where nothing is proven."""
    if D > LARGEST_WIDTH:
        return float("inf")
    rounding = 0.0 if dtype in (torch.float16, torch.bfloat16) else 2.0**-7 + 2.0**-16
    return (rounding + (D + 8) * 2.0**-22) * (1 + 2.0**-5)


def norms_above(table: Tensor) -> Tensor:
    """[rows] fp32: bounds of the norms from above; infinite where a margin could not be trusted."""
    norms = torch.linalg.vector_norm(table, dim=1, dtype=torch.float32) * (1 + 2.0**-6)
    return torch.where(norms <= LARGEST_NORM, norms.clamp_min(LEAST_NORM), torch.inf)


def new_operand(rows: int, block: int, width: int, table: Tensor) -> Tensor:
    """Zeros, so that a padded width adds nothing; rows are padded to whole tiles."""
    return table.new_zeros((triton.cdiv(rows, block) * block, width), dtype=operand_dtype(table.dtype))


def bias_above(item_bias: Tensor) -> Tensor:
    """[items] fp32: the biases and all roundings that come with them, from above."""
    bias = item_bias.float()
    return bias + bias.abs() * 2.0**-20


@triton.jit
def tile_scores(
    users_ptr, users, rows, items_ptr, columns, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    D_BLOCKS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """[BLOCK_R, BLOCK_N]; `users` is the rows' operand where one block holds the whole width."""
    width = tl.arange(0, BLOCK_D)
    stride: tl.constexpr = BLOCK_D * D_BLOCKS
    item_ptrs = items_ptr + columns.to(tl.int64)[:, None] * stride + width[None, :]
    if D_BLOCKS == 1:
        items = tl.load(item_ptrs)
        if WIDEN:
            scores = tl.dot(users.to(tl.float32), items.to(tl.float32).T, input_precision="ieee")
        else:
            scores = tl.dot(users, items.T)
    else:
        user_ptrs = users_ptr + rows.to(tl.int64)[:, None] * stride + width[None, :]
        scores = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
        for block in range(D_BLOCKS):
            some_users = tl.load(user_ptrs + block * BLOCK_D)
            some_items = tl.load(item_ptrs + block * BLOCK_D)
            if WIDEN:
                scores = tl.dot(
                    some_users.to(tl.float32), some_items.to(tl.float32).T, scores, input_precision="ieee"
                )
            else:
                scores = tl.dot(some_users, some_items.T, scores)
    return scores


@triton.jit
def exact_block_kernel(
    users_ptr, items_ptr, bias_ptr, rows_ptr, block_ptr, stride_users_row, stride_items_row, stride_bias, R, first, C, D,
    HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """[R, C]: exact scores of listed users with the items from `first` on."""
    group_rows = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    rows = tl.load(rows_ptr + group_rows, mask=group_rows < R, other=0)
    user_ptrs = users_ptr + rows * stride_users_row
    items = first + columns.to(tl.int64)
    item_ptrs = items_ptr + items * stride_items_row
    sums = tl.zeros([BLOCK_R, BLOCK_C], tl.float64)
    for d in range(D):
        user = tl.load(user_ptrs + d, mask=group_rows < R, other=0.0).to(tl.float64)
        item = tl.load(item_ptrs + d, mask=columns < C, other=0.0).to(tl.float64)
        sums += user[:, None] * item[None, :]
    if HAS_BIAS:
        bias = tl.load(bias_ptr + items * stride_bias, mask=columns < C, other=0.0)
        sums += bias.to(tl.float64)[None, :]
    inside = (group_rows < R)[:, None] & (columns < C)[None, :]
    offsets = group_rows.to(tl.int64)[:, None] * C + columns[None, :]
    tl.store(block_ptr + offsets, sums.to(block_ptr.dtype.element_ty), mask=inside)


def exact_block(
    users: Tensor, items: Tensor, item_bias: Tensor | None, rows: Tensor, first: int, last: int
) -> Tensor:
    """[R, last - first] exact scores of users[rows]; the tables' rows are contiguous."""
    wide = torch.float64 if users.dtype == torch.float64 else torch.float32
    R, C = len(rows), last - first
    block = torch.empty((R, C), dtype=wide, device=users.device)
    block_r, block_c = 16, 64
    exact_block_kernel[(triton.cdiv(C, block_c), triton.cdiv(R, block_r))](
        users, items, users if item_bias is None else item_bias, rows, block, users.stride(0), items.stride(0),
        1 if item_bias is None else item_bias.stride(0), R, first, C, users.shape[1],
        HAS_BIAS=item_bias is not None, BLOCK_R=block_r, BLOCK_C=block_c,
    )  # fmt: skip
    return block


@triton.jit
def exact_scores(
    users_ptr, items_ptr, bias_ptr, row, items, listed, stride_users_row, stride_items_row, stride_bias, D,
    HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """[BLOCK] fp64: the sums, in index order, of one user's products with listed items, then the bias."""
    quad = tl.arange(0, 4)
    user_ptr = users_ptr + row * stride_users_row
    item_ptrs = items_ptr + items * stride_items_row
    sums = tl.zeros([BLOCK], tl.float64)
    for d in range(0, D, 4):
        # Four columns at a time are one load; beyond D they add +0.0, which changes no sum that began as +0.0.
        inside = listed[:, None] & (d + quad < D)[None, :]
        values = tl.load(item_ptrs[:, None] + d + quad[None, :], mask=inside, other=0.0)
        even, odd = tl.split(tl.reshape(values, (BLOCK, 2, 2)))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        sums += first.to(tl.float64) * tl.load(user_ptr + d).to(tl.float64)
        sums += second.to(tl.float64) * tl.load(user_ptr + d + 1, mask=d + 1 < D, other=0.0).to(tl.float64)
        sums += third.to(tl.float64) * tl.load(user_ptr + d + 2, mask=d + 2 < D, other=0.0).to(tl.float64)
        sums += fourth.to(tl.float64) * tl.load(user_ptr + d + 3, mask=d + 3 < D, other=0.0).to(tl.float64)
    if HAS_BIAS:
        sums += tl.load(bias_ptr + items * stride_bias, mask=listed, other=0.0).to(tl.float64)
    return sums
