"""What the Triton kernels over pairs of rows share: a tile of two products, and a tile's share of a row's gradient.

Tables are contiguous, float64, or float32 for 16-bit storage. Products of float32 are tf32x3: three tensor-core products
per product, with the accuracy of float32. A program owns a block of rows and sweeps all columns in order, so a sum has one order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK_ROWS = 32
BLOCK_COLUMNS = 32
BLOCK_WIDTH = 16
WARPS = 8


@triton.jit
def product_tile(
    table_ptr, rows, columns, rows_end, columns_end, WIDTH: tl.constexpr, dtype: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Inner products of table rows `rows` [I] and `columns` [J]; 0 past either end."""
    total = tl.zeros((BLOCK_I, BLOCK_J), dtype)
    for start in range(0, WIDTH, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        left = tl.load(
            table_ptr + rows[:, None] * WIDTH + d, mask=(rows[:, None] < rows_end) & (d < WIDTH), other=0.0
        )
        right = tl.load(
            table_ptr + columns[None, :] * WIDTH + d[:, None],
            mask=(columns[None, :] < columns_end) & (d[:, None] < WIDTH),
            other=0.0,
        )
        total = tl.dot(left, right, total, input_precision="tf32x3", out_dtype=dtype)
    return total


@triton.jit
def weighted_rows(
    weights, table_ptr, columns, columns_end, width_start, WIDTH: tl.constexpr, dtype: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Σ_j weights[i, j] · table row j, of the BLOCK_S numbers from `width_start` on."""
    d = width_start + tl.arange(0, BLOCK_S)
    right = tl.load(
        table_ptr + columns[:, None] * WIDTH + d,
        mask=(columns[:, None] < columns_end) & (d < WIDTH),
        other=0.0,
    )
    return tl.dot(weights, right, input_precision="tf32x3", out_dtype=dtype)


def width_block(width: int) -> int:
    """Columns of the gradient that a program works on: all of a narrow student's."""
    return min(128, max(16, triton.next_power_of_2(width)))


def product_dtype(storage: torch.dtype) -> torch.dtype:
    """Of the kernels' tables and sums: 16-bit rows alone can do with less than float64 (DESIGN.md RE-3)."""
    return torch.float32 if storage.itemsize == 2 else torch.float64
