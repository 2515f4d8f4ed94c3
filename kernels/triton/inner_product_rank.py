"""Triton kernels of inner_product_rank: tiles count what surely stands before a given item, exact scores settle the rest.

An item that a tile cannot place against every target of its row is counted by its exact score alone. A row with more
of those than its buffer holds is counted from all its exact scores. Excluded items are counted, and then taken off.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton import masked_rank, score_tile, selection
from rankdistill.kernels.triton.masked_rank import count_before, excluded_once, targets_together
from rankdistill.kernels.triton.order import ITEMS_IN_A_KEY, excluded_range, is_excluded
from rankdistill.kernels.triton.score_tile import exact_scores, tile_scores
from torch import Tensor

LEAST_CAPACITY = 1024
TILE_COLUMNS = 64  # wider tiles spill
SETTLE_BLOCK = 128
EXHAUST_ROWS = 256


@triton.jit
def inner_product_rank_targets_kernel(
    users_ptr, items_ptr, bias_ptr, indptr_ptr, indices_ptr, item_ids_ptr, targets_ptr, stride_users_row,
    stride_items_row, stride_bias, nnz, N, D, K, HAS_BIAS: tl.constexpr, HAS_EXCLUSIONS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """[B, K] the given items' exact scores; NaN where there is no item or it cannot be ranked."""
    row = tl.program_id(0).to(tl.int64)
    slots = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    items = tl.load(item_ids_ptr + row * K + slots, mask=slots < K, other=-1)
    ranked = (items >= 0) & (items < N)
    if HAS_EXCLUSIONS:
        begin, end, _ = excluded_range(indptr_ptr, row, nnz)
        ranked = ranked & (is_excluded(indices_ptr, begin, end, items) == 0)
    scores = exact_scores(
        users_ptr, items_ptr, bias_ptr, row, items, ranked, stride_users_row, stride_items_row, stride_bias, D,
        HAS_BIAS, BLOCK,
    ).to(targets_ptr.dtype.element_ty)  # fmt: skip
    targets = tl.where(ranked & (scores > float("-inf")), scores, float("nan"))
    tl.store(targets_ptr + row * K + slots, targets, mask=slots < K)


@triton.jit
def inner_product_rank_count_kernel(
    users_ptr, items_ptr, norms_ptr, margins_ptr, biases_ptr, bias_margins_ptr, rows_ptr, targets_ptr, counts_ptr,
    words_ptr, R, C, K, stride_words, tiles, HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, D_BLOCKS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Counts [B, K] of a chunk's items that surely stand before, and bits [R, C] of the items that no tile places."""
    WORDS: tl.constexpr = BLOCK_N // 32
    group_rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    real_rows = group_rows < R
    rows = tl.load(rows_ptr + group_rows, mask=real_rows, other=0)
    norms = tl.load(norms_ptr + group_rows, mask=real_rows, other=0.0)
    users = tl.load(
        users_ptr + group_rows.to(tl.int64)[:, None] * BLOCK_D * D_BLOCKS + tl.arange(0, BLOCK_D)[None, :]
    )
    word_ptrs = words_ptr + group_rows.to(tl.int64)[:, None] * stride_words + tl.arange(0, WORDS)[None, :]
    weights = tl.full((BLOCK_N,), 1, tl.int32) << (tl.arange(0, BLOCK_N) % 32)
    begin = tl.program_id(1) * tiles
    for tile in range(begin, tl.minimum(begin + tiles, tl.cdiv(C, BLOCK_N))):
        columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        slack = norms[:, None] * tl.load(margins_ptr + columns)[None, :]
        scores = tile_scores(
            users_ptr, users, group_rows, items_ptr, columns, BLOCK_R, BLOCK_N, BLOCK_D, D_BLOCKS, WIDEN
        )
        if HAS_BIAS:
            scores += tl.load(biases_ptr + columns)[None, :]
            slack += tl.load(bias_margins_ptr + columns)[None, :]
        real = (columns < C)[None, :]
        lowest = tl.where(real, scores - slack, float("-inf"))
        highest = tl.where(real, scores + slack, float("-inf"))
        unsure = tl.zeros([BLOCK_R, BLOCK_N], tl.int1)
        for k in range(K):
            targets = tl.load(targets_ptr + rows * K + k, mask=real_rows, other=float("inf"))
            targets = tl.where(targets == targets, targets, float("inf"))[:, None]
            # Written so that NaN is unsure.
            unsure = unsure | (((highest < targets) | (lowest > targets)) == 0)
        words = tl.sum(tl.reshape(tl.where(unsure, weights[None, :], 0), (BLOCK_R, WORDS, 32)), 2)
        tl.store(word_ptrs + tile * WORDS, words, mask=real_rows[:, None])
        lowest = tl.where(unsure, float("-inf"), lowest)
        for k in range(K):
            targets = tl.load(targets_ptr + rows * K + k, mask=real_rows, other=float("inf"))
            before = tl.sum((lowest > targets[:, None]).to(tl.int32), 1).to(tl.int64)
            tl.atomic_add(counts_ptr + rows * K + k, before, mask=real_rows & (before > 0), sem="relaxed")


@triton.jit
def inner_product_rank_settle_kernel(
    users_ptr, items_ptr, bias_ptr, rows_ptr, item_ids_ptr, targets_ptr, counts_ptr, found_counts_ptr, found_ptr,
    stride_users_row, stride_items_row, stride_bias, capacity, D, K, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Adds the unsure items of a row that stand before its targets, by exact scores; not where some did not fit."""
    group_row = tl.program_id(1).to(tl.int64)
    slots = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found = tl.load(found_counts_ptr + group_row)
    listed = (slots < found) & (found <= capacity)
    if tl.max(listed.to(tl.int32), 0) > 0:
        row = tl.load(rows_ptr + group_row)
        items = tl.load(found_ptr + group_row * capacity + slots, mask=listed, other=0).to(tl.int64)
        sums = exact_scores(
            users_ptr, items_ptr, bias_ptr, row, items, listed, stride_users_row, stride_items_row, stride_bias, D,
            HAS_BIAS, BLOCK,
        )  # fmt: skip
        scores = tl.where(listed, sums.to(tl.float32), float("-inf"))
        for first in range(0, K, BLOCK_K):
            add_before(scores, items, row, item_ids_ptr, targets_ptr, counts_ptr, first, K, 1, BLOCK_K)


@triton.jit
def inner_product_rank_excluded_kernel(
    users_ptr, items_ptr, bias_ptr, indptr_ptr, indices_ptr, item_ids_ptr, targets_ptr, counts_ptr, stride_users_row,
    stride_items_row, stride_bias, nnz, N, D, K, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Takes a row's excluded items, each once, off its counts."""
    row = tl.program_id(0).to(tl.int64)
    begin, end, _ = excluded_range(indptr_ptr, row, nnz)
    for at in range(begin, end, BLOCK):
        items, listed = excluded_once(indices_ptr, at + tl.arange(0, BLOCK), begin, end, N)
        sums = exact_scores(
            users_ptr, items_ptr, bias_ptr, row, items, listed, stride_users_row, stride_items_row, stride_bias, D,
            HAS_BIAS, BLOCK,
        )  # fmt: skip
        scores = tl.where(listed, sums.to(targets_ptr.dtype.element_ty), float("-inf"))
        for first in range(0, K, BLOCK_K):
            add_before(scores, items, row, item_ids_ptr, targets_ptr, counts_ptr, first, K, -1, BLOCK_K)


@triton.jit
def add_before(
    scores,
    items,
    row,
    item_ids_ptr,
    targets_ptr,
    counts_ptr,
    first,
    K,
    SIGN: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Adds to one row's counts, or takes off, the scores that stand before its targets from `first` on."""
    slots = first + tl.arange(0, BLOCK_K)
    targets = tl.load(targets_ptr + row * K + slots, mask=slots < K, other=float("nan"))
    target_items = tl.load(item_ids_ptr + row * K + slots, mask=slots < K, other=-1)
    before = SIGN * count_before(scores, items, targets, target_items).to(tl.int64)
    tl.atomic_add(counts_ptr + row * K + slots, before, mask=(slots < K) & (before != 0), sem="relaxed")


def capacity_of(N: int, K: int) -> int:
    """Of the items of a row that tiles cannot place: a few hundred per target at most in a million, ties aside."""
    return min(N, max(LEAST_CAPACITY, 64 * K, N // 256))


def inner_product_rank(
    users: Tensor,
    items: Tensor,
    item_ids: Tensor,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    item_bias: Tensor | None,
) -> Tensor:
    (B, D), N, K = users.shape, items.shape[0], item_ids.shape[1]
    ranks = torch.zeros((B, K), dtype=torch.int64, device=users.device)
    if not B * K:
        return ranks
    users, items = selection.rows_contiguous(users), selection.rows_contiguous(items)
    item_ids = item_ids.contiguous()
    has_bias, has_exclusions = item_bias is not None, exclude_indptr is not None
    bias = item_bias if has_bias else users  # any pointer serves where there is none
    exclude = (
        (exclude_indptr.contiguous(), exclude_indices.contiguous()) if has_exclusions else (ranks, ranks)
    )
    strides = users.stride(0), items.stride(0), bias.stride(0) if has_bias else 0
    wide = torch.float64 if users.dtype == torch.float64 else torch.float32
    targets = torch.empty((B, K), dtype=wide, device=users.device)
    inner_product_rank_targets_kernel[(B, triton.cdiv(K, SETTLE_BLOCK))](
        users, items, bias, *exclude, item_ids, targets, *strides, exclude[1].numel(), N, D, K, HAS_BIAS=has_bias,
        HAS_EXCLUSIONS=has_exclusions, BLOCK=SETTLE_BLOCK,
    )  # fmt: skip
    together = targets_together(K)

    def count(rows: Tensor) -> Tensor:
        """Adds up the ranks of `rows`; returns how many items were unsure in each."""
        group = score_tile.user_rows(users, rows, items.dtype, TILE_COLUMNS)
        found = selection.no_candidates(len(rows), capacity, rows.device)
        words = None
        for chunk in score_tile.chunks(items, item_bias, group):
            if words is None:
                words = torch.empty(
                    (len(rows), len(chunk.operand) // 32), dtype=torch.int32, device=rows.device
                )
            tiles = group.shape.tiles_per_program(len(rows), chunk.count)
            inner_product_rank_count_kernel[group.shape.grid(len(rows), chunk.count, tiles)](
                group.operand, chunk.operand, group.norms, chunk.margins, chunk.biases, chunk.bias_margins, rows,
                targets, ranks, words, len(rows), chunk.count, K, words.stride(0), tiles, HAS_BIAS=has_bias,
                **group.shape.options(rows.device),
            )  # fmt: skip
            found.collect(words, chunk.first, chunk.count)
        inner_product_rank_settle_kernel[(triton.cdiv(capacity, SETTLE_BLOCK), len(rows))](
            users, items, bias, rows, item_ids, targets, ranks, found.counts, found.items, *strides, capacity, D, K,
            HAS_BIAS=has_bias, BLOCK=SETTLE_BLOCK, BLOCK_K=together,
        )  # fmt: skip
        return found.counts

    def exhaust(rows: Tensor) -> None:
        ranks[rows] = 0
        for part in rows.split(EXHAUST_ROWS):
            width = max(selection.BLOCK_ENTRIES // len(part), 1024)
            for first in range(0, N, width):
                scores = score_tile.exact_block(users, items, item_bias, part, first, min(first + width, N))
                masked_rank.add_counts(scores, None, part, first, item_ids, targets, ranks)

    every_row, capacity = torch.arange(B, device=users.device), capacity_of(N, K)
    if wide == torch.float64 or N > ITEMS_IN_A_KEY:
        exhaust(every_row)
    elif N:
        groups = every_row.split(selection.group_rows(4 * capacity + 4 * D))
        unsure = torch.cat([count(rows) for rows in groups])
        overflowing = (unsure > capacity).nonzero()[:, 0]  # the one place that waits for the device
        if overflowing.numel():
            exhaust(overflowing)
    if has_exclusions:
        inner_product_rank_excluded_kernel[(B,)](
            users, items, bias, *exclude, item_ids, targets, ranks, *strides, exclude[1].numel(), N, D, K,
            HAS_BIAS=has_bias, BLOCK=SETTLE_BLOCK, BLOCK_K=together,
        )  # fmt: skip
        targets.masked_fill_(selection.faulty_rows(exclude, N)[:, None], torch.nan)
    return ranks.masked_fill_(targets.isnan(), -1)
