"""Tiles of inner products on a device, approximate with a proven margin, and exact scores.

|tile score - exact score| <= user's norm · item's margin (+ the bias's); norms are rounded up. DESIGN.md TT-1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK_BYTES = 32 << 20  # of the items' operand that exists at a time: it stays in a large second-level cache
BITS_BYTES = 64 << 20  # of the bits that a chunk's scores become
WHOLE_TILES = 128  # a multiple of the rows and of the columns of every tile
LARGEST_WIDTH = 1 << 16
LEAST_NORM, LARGEST_NORM = 2.0**-40, 1e18
DEEP_BYTES = 160 << 10  # of shared memory that three stages of the largest tile fit into; of two, 99 KiB
PROGRAMS = 2048  # enough to fill a device several times over
MOST_TILES_PER_PROGRAM = 16


def shared_bytes(device: torch.device) -> int:
    """Shared memory that a block of the device may have; that of the large ones for tensors on no device."""
    if device.type != "cuda":
        return DEEP_BYTES
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


class TileShape(NamedTuple):
    """Rows and columns of a tile, and its padded width in blocks: fixed by shapes, never by timing."""

    BLOCK_R: int
    BLOCK_N: int
    BLOCK_D: int
    D_BLOCKS: int
    dtype: torch.dtype  # of the operands

    @property
    def width(self) -> int:
        return self.BLOCK_D * self.D_BLOCKS

    def options(self, device: torch.device) -> dict:
        # Triton's interpreter, on CPU tensors, multiplies no bfloat16; fp32 must never be rounded to tf32.
        widen = device.type == "cpu" or self.dtype == torch.float32
        return {
            "BLOCK_R": self.BLOCK_R,
            "BLOCK_N": self.BLOCK_N,
            "BLOCK_D": self.BLOCK_D,
            "D_BLOCKS": self.D_BLOCKS,
            "WIDEN": widen,
            "num_warps": 8 if self.BLOCK_R > 64 else 4,
            "num_stages": 3 if shared_bytes(device) >= DEEP_BYTES else 2,
        }

    def tiles_per_program(self, rows: int, columns: int) -> int:
        tiles = triton.cdiv(rows, self.BLOCK_R) * triton.cdiv(columns, self.BLOCK_N)
        return min(max(tiles // PROGRAMS, 1), MOST_TILES_PER_PROGRAM)

    def grid(self, rows: int, columns: int, tiles: int) -> tuple[int, int]:
        return triton.cdiv(rows, self.BLOCK_R), triton.cdiv(columns, self.BLOCK_N * tiles)


def tile_shape(rows: int, D: int, dtype: torch.dtype, block_n: int) -> TileShape:
    most = 128 if dtype.itemsize == 2 else 32
    block = max(16, triton.next_power_of_2(D)) if most >= D else most // 2
    block_r = 16 if rows <= 16 else 64 if rows <= 64 else 128
    return TileShape(block_r, block_n, block, max(1, triton.cdiv(D, block)), dtype)


def margin_factor(table: torch.dtype, operand: torch.dtype, D: int) -> float:
    """Times both norms: the margin of a tile of operands made from a table. Infinite where nothing is proven."""
    if D > LARGEST_WIDTH:
        return float("inf")
    if operand == torch.float32:
        return (D + 8) * 2.0**-24 * (1 + 2.0**-5)
    rounding = 0.0 if table == operand else 2.0**-7 + 2.0**-16
    return (rounding + (D + 8) * 2.0**-22) * (1 + 2.0**-5)


def norms_above(table: Tensor) -> Tensor:
    """[rows] fp32: bounds of the norms from above; infinite where a margin could not be trusted."""
    norms = torch.linalg.vector_norm(table, dim=1, dtype=torch.float32) * (1 + 2.0**-6)
    return torch.where(norms <= LARGEST_NORM, norms.clamp_min(LEAST_NORM), torch.inf)


def whole_tiles(rows: int) -> int:
    return triton.cdiv(rows, WHOLE_TILES) * WHOLE_TILES


def new_operand(rows: int, shape: TileShape, device: torch.device) -> Tensor:
    """Zeros, so that a padded width adds nothing; rows are padded to whole tiles."""
    return torch.zeros((whole_tiles(rows), shape.width), dtype=shape.dtype, device=device)


class UserRows(NamedTuple):
    """Rows of the users' table as an operand, their norms, and the shape of tiles that serves so many."""

    operand: Tensor
    norms: Tensor
    shape: TileShape


def user_rows(users: Tensor, rows: Tensor, dtype: torch.dtype, block_n: int) -> UserRows:
    shape = tile_shape(len(rows), users.shape[1], dtype, block_n)
    picked = users[rows]
    operand = new_operand(len(rows), shape, users.device)
    operand[: len(rows), : users.shape[1]] = picked
    return UserRows(operand, norms_above(picked), shape)


class Chunk(NamedTuple):
    """Items from `first` on as an operand, with their margins; buffers that the next chunk overwrites."""

    first: int
    count: int
    operand: Tensor
    margins: Tensor
    biases: Tensor
    bias_margins: Tensor


def chunks(items: Tensor, item_bias: Tensor | None, user_rows: UserRows) -> Iterator[Chunk]:
    (N, D), (operand_of_users, norms, shape) = items.shape, user_rows
    size = min(CHUNK_BYTES // (shape.dtype.itemsize * shape.width), BITS_BYTES * 8 // len(norms), N)
    size = whole_tiles(max(size, 1))
    operand = new_operand(size, shape, items.device)
    margins, biases, bias_margins = torch.zeros((3, size), dtype=torch.float32, device=items.device)
    factor = margin_factor(items.dtype, operand_of_users.dtype, D)
    for first in range(0, N, size):
        part = items[first : first + size]
        C = len(part)
        operand[:C, :D] = part
        margins[:C] = norms_above(part) * factor
        if item_bias is not None:
            biases[:C] = item_bias[first : first + size]
            # All roundings that come with a bias; an infinite one is exact.
            bias_margins[:C] = torch.where(biases[:C].abs() < torch.inf, biases[:C].abs() * 2.0**-20, 0.0)
        yield Chunk(first, C, operand, margins, biases, bias_margins)


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
        sums = tl.fma(user[:, None], item[None, :], sums)
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
def add_product(sums, user_ptr, d, D, items):
    user = tl.load(user_ptr + d, mask=d < D, other=0.0).to(tl.float64)
    # Fused, as in exact_block_kernel: fp64 products are not exact, and both must give the same bits.
    return tl.fma(tl.broadcast_to(user, items.shape), items.to(tl.float64), sums)


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
        sums = add_product(sums, user_ptr, d, D, first)
        sums = add_product(sums, user_ptr, d + 1, D, second)
        sums = add_product(sums, user_ptr, d + 2, D, third)
        sums = add_product(sums, user_ptr, d + 3, D, fourth)
    if HAS_BIAS:
        sums += tl.load(bias_ptr + items * stride_bias, mask=listed, other=0.0).to(tl.float64)
    return sums
