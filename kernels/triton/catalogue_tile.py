"""Tiles of scores of rows by items of the whole catalogue: products, what a row does not count, weights."""

from __future__ import annotations

import triton
import triton.language as tl
from rankdistill.kernels.triton.order import first_not_below

LOWEST = tl.constexpr(-float("inf"))
NO_ITEM = tl.constexpr(2**62)


@triton.jit
def product(left, right, total, PRECISION: tl.constexpr):
    """total + left · right, of operands in their storage or widened to the total's dtype."""
    wide: tl.constexpr = total.dtype
    if PRECISION == "storage":
        total = tl.dot(left, right, total)
    else:
        total = tl.dot(left.to(wide), right.to(wide), total, input_precision=PRECISION, out_dtype=wide)
    return total


@triton.jit
def weighted(weights, table, total, PRECISION: tl.constexpr):
    """total + weights · table. A weight beside bfloat16 numbers is two of them, its high and its low half."""
    if PRECISION != "storage":
        total = product(weights, table, total, PRECISION)
    elif table.dtype == tl.bfloat16:
        high = weights.to(tl.bfloat16)
        total = tl.dot(high, table, total)
        total = tl.dot((weights - high.to(tl.float32)).to(tl.bfloat16), table, total)
    else:
        total = product(weights, table, total, "tf32x3")
    return total


@triton.jit
def table_tile(table_ptr, rows, real, d, stride_row, D):
    return tl.load(
        table_ptr + rows.to(tl.int64)[:, None] * stride_row + d[None, :],
        mask=real[:, None] & (d < D)[None, :],
        other=0.0,
    )


@triton.jit
def score_tile(
    users_ptr, users, items_ptr, bias_ptr, rows, real, columns, there, stride_users_row, stride_items_row, stride_bias,
    D, dtype: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, D_BLOCKS: tl.constexpr,
):  # fmt: skip
    """[BLOCK_R, BLOCK_N] scores, -inf past the catalogue; `users` is the rows' tile where one block holds the width."""
    d = tl.arange(0, BLOCK_D)
    scores = tl.zeros([BLOCK_R, BLOCK_N], dtype)
    if D_BLOCKS == 1:
        items = table_tile(items_ptr, columns, there, d, stride_items_row, D)
        scores = product(users, items.T, scores, PRECISION)
    else:
        for block in range(D_BLOCKS):
            some_users = table_tile(users_ptr, rows, real, block * BLOCK_D + d, stride_users_row, D)
            some_items = table_tile(items_ptr, columns, there, block * BLOCK_D + d, stride_items_row, D)
            scores = product(some_users, some_items.T, scores, PRECISION)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + columns.to(tl.int64) * stride_bias, mask=there, other=0.0)
        scores += bias.to(dtype)[None, :]
    return tl.where(there[None, :], scores, LOWEST)


@triton.jit
def id_at(indices_ptr, position, end):
    return tl.load(indices_ptr + position, mask=position < end, other=NO_ITEM)


@triton.jit
def edges_of(edges_ptr, indices_ptr, rows, real, segment, SEGMENTS: tl.constexpr, EXCLUDES: tl.constexpr):
    """Where the exclusions of each row within a segment begin and end, and the first of their ids."""
    if EXCLUDES:
        edge_ptrs = edges_ptr + rows.to(tl.int64) * (SEGMENTS + 1) + segment
        begin = tl.load(edge_ptrs, mask=real, other=0)
        end = tl.load(edge_ptrs + 1, mask=real, other=0)
        return begin, end, id_at(indices_ptr, begin, end)
    nothing = rows.to(tl.int64) * 0
    return nothing, nothing, nothing + NO_ITEM


@triton.jit
def drop_excluded(scores, columns, tile_end, indices_ptr, position, end, excluded, EXCLUDES: tl.constexpr):
    """-inf for excluded items; `position` and `excluded` move on past the tile."""
    if EXCLUDES:
        while tl.min(excluded, 0) < tile_end:
            scores = tl.where(columns[None, :] == excluded[:, None], LOWEST, scores)
            position += (excluded < tile_end).to(tl.int64)
            excluded = id_at(indices_ptr, position, end)
    return scores, position, excluded


@triton.jit
def counted_scores(
    users_ptr, users, items_ptr, bias_ptr, rows, real, columns, there, tile, indices_ptr, at, end, excluded, listed_ptr,
    list_at, list_end, listed, stride_users_row, stride_items_row, stride_bias, D, dtype: tl.constexpr,
    HAS_BIAS: tl.constexpr, EXCLUDES: tl.constexpr, LISTS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, D_BLOCKS: tl.constexpr,
):  # fmt: skip
    """A tile's scores, -inf for what is excluded or listed; and where both stand past it."""
    scores = score_tile(
        users_ptr, users, items_ptr, bias_ptr, rows, real, columns, there, stride_users_row, stride_items_row,
        stride_bias, D, dtype, HAS_BIAS, PRECISION, BLOCK_R, BLOCK_N, BLOCK_D, D_BLOCKS,
    )  # fmt: skip
    tile_end = (tile + 1) * BLOCK_N
    scores, at, excluded = drop_excluded(scores, columns, tile_end, indices_ptr, at, end, excluded, EXCLUDES)
    scores, list_at, listed = drop_excluded(
        scores, columns, tile_end, listed_ptr, list_at, list_end, listed, LISTS
    )
    return scores, at, excluded, list_at, listed


@triton.jit
def edges_from(
    edges_ptr, indices_ptr, rows, real, segment, item, SEGMENTS: tl.constexpr, EXCLUDES: tl.constexpr
):
    """As `edges_of`, from an item of the segment on."""
    begin, end, excluded = edges_of(edges_ptr, indices_ptr, rows, real, segment, SEGMENTS, EXCLUDES)
    if EXCLUDES:
        begin = first_not_below(indices_ptr, begin, end, item, tl.max(end - begin, 0))
        excluded = id_at(indices_ptr, begin, end)
    return begin, end, excluded


@triton.jit
def kept_rows(norms, floors, tile_norms_ptr, tile_biases_ptr, tile, real):
    """Rows of whose mass the tile may hold more than the share to be skipped. Written so that NaN is kept."""
    bound = norms * tl.load(tile_norms_ptr + tile) + tl.load(tile_biases_ptr + tile)
    return real & ((bound < floors) == 0)


@triton.jit
def weight_tile(scores, tops, scales):
    """A row without a gradient has weights of exactly 0, whatever its scores are."""
    weights = scales[:, None] * tl.exp(scores - tops[:, None])
    return tl.where(scales[:, None] == 0, 0.0, weights)
