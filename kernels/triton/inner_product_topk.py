"""Triton kernels of inner_product_topk: sample, filter by tensor cores, exact scores of what survived, select.

The filter writes a bit per score, a chunk of items at a time. Survivors go to a buffer per row in whatever order
atomics give; the selection orders them by score and item, so results do not depend on it. The counters go on past a
buffer's end: an overflow is always seen, and redone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton import score_tile, selection
from rankdistill.kernels.triton.order import (
    EMPTY,
    ITEMS_IN_A_KEY,
    excluded_range,
    is_excluded,
    packed_key,
)
from rankdistill.kernels.triton.score_tile import exact_scores, tile_scores
from torch import Tensor

MARGIN_INFLATION = 2.5  # candidates that the buffers have room for, per item that reaches the threshold
SAMPLE_BYTES = 64 << 20
TILE_COLUMNS = 128
RESCORE_BLOCK = 128


@triton.jit
def inner_product_topk_sample_kernel(
    users_ptr, items_ptr, bias_ptr, sample_ptr, R, M, HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, D_BLOCKS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """[R, M] approximate scores of the sampled items."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    users = tl.load(
        users_ptr + rows.to(tl.int64)[:, None] * BLOCK_D * D_BLOCKS + tl.arange(0, BLOCK_D)[None, :]
    )
    scores = tile_scores(
        users_ptr, users, rows, items_ptr, columns, BLOCK_R, BLOCK_N, BLOCK_D, D_BLOCKS, WIDEN
    )
    if HAS_BIAS:
        scores += tl.load(bias_ptr + columns, mask=columns < M, other=0.0)[None, :]
    inside = (rows < R)[:, None] & (columns < M)[None, :]
    tl.store(sample_ptr + rows.to(tl.int64)[:, None] * M + columns[None, :], scores, mask=inside)


@triton.jit
def inner_product_topk_filter_kernel(
    users_ptr, items_ptr, norms_ptr, margins_ptr, biases_ptr, bias_margins_ptr, thresholds_ptr, words_ptr, R, C,
    stride_words, tiles, HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    D_BLOCKS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Bits [R, C]: the items of a chunk whose scores may reach their row's threshold. Bits past C mean nothing."""
    WORDS: tl.constexpr = BLOCK_N // 32
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    norms = tl.load(norms_ptr + rows, mask=rows < R, other=0.0)
    thresholds = tl.load(thresholds_ptr + rows, mask=rows < R, other=0.0)
    users = tl.load(
        users_ptr + rows.to(tl.int64)[:, None] * BLOCK_D * D_BLOCKS + tl.arange(0, BLOCK_D)[None, :]
    )
    word_ptrs = words_ptr + rows.to(tl.int64)[:, None] * stride_words + tl.arange(0, WORDS)[None, :]
    weights = tl.full((BLOCK_N,), 1, tl.int32) << (tl.arange(0, BLOCK_N) % 32)
    begin = tl.program_id(1) * tiles
    for tile in range(begin, tl.minimum(begin + tiles, tl.cdiv(C, BLOCK_N))):
        columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        margins = tl.load(margins_ptr + columns)
        bounds = tile_scores(
            users_ptr, users, rows, items_ptr, columns, BLOCK_R, BLOCK_N, BLOCK_D, D_BLOCKS, WIDEN
        )
        bounds += norms[:, None] * margins[None, :]
        if HAS_BIAS:
            bounds += (tl.load(biases_ptr + columns) + tl.load(bias_margins_ptr + columns))[None, :]
        # Written so that NaN survives. Sums of bits stay in registers, where logging hits one by one would not.
        bits = tl.where(bounds < thresholds[:, None], 0, weights[None, :])
        words = tl.sum(tl.reshape(bits, (BLOCK_R, WORDS, 32)), 2)
        tl.store(word_ptrs + tile * WORDS, words, mask=(rows < R)[:, None])


@triton.jit
def inner_product_topk_rescore_kernel(
    users_ptr, items_ptr, bias_ptr, rows_ptr, indptr_ptr, indices_ptr, counts_ptr, candidates_ptr, keys_ptr,
    stride_users_row, stride_items_row, stride_bias, nnz, capacity, D, HAS_BIAS: tl.constexpr,
    HAS_EXCLUSIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Keys [R, capacity] of the candidates' exact scores; EMPTY where there is none or it cannot be ranked."""
    group_row = tl.program_id(1).to(tl.int64)
    slots = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    listed = slots < tl.minimum(tl.load(counts_ptr + group_row), capacity)
    keys = tl.full([BLOCK], EMPTY, tl.int64)
    if tl.max(listed.to(tl.int32), 0) > 0:
        row = tl.load(rows_ptr + group_row)
        items = tl.load(candidates_ptr + group_row * capacity + slots, mask=listed, other=0).to(tl.int64)
        if HAS_EXCLUSIONS:
            excluded_begin, excluded_end, _ = excluded_range(indptr_ptr, row, nnz)
            listed = listed & (is_excluded(indices_ptr, excluded_begin, excluded_end, items) == 0)
        scores = exact_scores(
            users_ptr, items_ptr, bias_ptr, row, items, listed, stride_users_row, stride_items_row, stride_bias, D,
            HAS_BIAS, BLOCK,
        ).to(tl.float32)  # fmt: skip
        keys = tl.where(listed & (scores > float("-inf")), packed_key(scores, items), EMPTY)
    tl.store(keys_ptr + group_row * capacity + slots, keys, mask=slots < capacity)


@triton.jit
def inner_product_topk_zeros_kernel(
    users_ptr, items_ptr, bias_ptr, scores_ptr, indices_ptr, stride_users_row, stride_items_row, stride_bias, K, D,
    HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gives listed zeros [B, K] their signs, which keys have not."""
    row = tl.program_id(0).to(tl.int64)
    slots = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    items = tl.load(indices_ptr + row * K + slots, mask=slots < K, other=-1)
    zeros = (items >= 0) & (tl.load(scores_ptr + row * K + slots, mask=slots < K, other=1.0) == 0)
    if tl.max(zeros.to(tl.int32), 0) > 0:
        sums = exact_scores(
            users_ptr, items_ptr, bias_ptr, row, items, zeros, stride_users_row, stride_items_row, stride_bias, D,
            HAS_BIAS, BLOCK,
        )  # fmt: skip
        tl.store(scores_ptr + row * K + slots, sums.to(scores_ptr.dtype.element_ty), mask=zeros)


class Tables(NamedTuple):
    """The caller's tensors, rows contiguous."""

    users: Tensor
    items: Tensor
    exclude: tuple[Tensor, Tensor] | None
    item_bias: Tensor | None


class Search:
    """One call's plan and its two steps, for groups of rows."""

    def __init__(self, tables: Tables, lists: selection.Lists, plan: selection.Plan) -> None:
        self.tables, self.lists, self.plan = tables, lists, plan
        N, D = tables.items.shape
        # 16-bit tables are multiplied as they are, wider ones as bfloat16.
        self.dtype = tables.items.dtype if tables.items.dtype.itemsize == 2 else torch.bfloat16
        self.sampled = selection.sampled_items(N, plan.sample, tables.users.device)
        self.sample_items = score_tile.new_operand(
            plan.sample, score_tile.tile_shape(1, D, self.dtype, TILE_COLUMNS), tables.users.device
        )
        self.sample_items[: plan.sample, :D] = tables.items[self.sampled]
        self.sample_bias = None if tables.item_bias is None else tables.item_bias[self.sampled].float()

    def user_rows(self, rows: Tensor) -> score_tile.UserRows:
        return score_tile.user_rows(self.tables.users, rows, self.dtype, TILE_COLUMNS)

    def thresholds(self, group: Tensor) -> Tensor:
        at_once = max(SAMPLE_BYTES // (4 * self.plan.sample), 16)
        return torch.cat([self.part_thresholds(rows) for rows in group.split(at_once)])

    def part_thresholds(self, rows: Tensor) -> Tensor:
        (users, _, shape), M = self.user_rows(rows), self.plan.sample
        sample = torch.empty((len(rows), M), dtype=torch.float32, device=users.device)
        has_bias = self.sample_bias is not None
        inner_product_topk_sample_kernel[shape.grid(len(rows), M, 1)](
            users, self.sample_items, self.sample_bias if has_bias else sample, sample, len(rows), M, HAS_BIAS=has_bias,
            **shape.options(users.device),
        )  # fmt: skip
        if self.tables.exclude is not None:
            selection.drop_excluded_samples(
                sample, rows, self.sampled, self.tables.exclude, self.tables.items.shape[0]
            )
        return selection.thresholds_of(sample, self.plan.rank)

    def search(self, rows: Tensor, thresholds: Tensor) -> None:
        (users, items, exclude, item_bias), capacity = self.tables, self.plan.capacity
        found = selection.no_candidates(len(rows), capacity, rows.device)
        self.filter(self.user_rows(rows), thresholds, found)
        keys = torch.empty((len(rows), capacity), dtype=torch.int64, device=rows.device)
        indptr, indices = exclude or (keys, keys)  # any pointer serves where nothing is excluded
        inner_product_topk_rescore_kernel[(triton.cdiv(capacity, RESCORE_BLOCK), len(rows))](
            users, items, users if item_bias is None else item_bias, rows, indptr, indices, found.counts, found.items,
            keys, users.stride(0), items.stride(0), 0 if item_bias is None else item_bias.stride(0), indices.numel(),
            capacity, items.shape[1], HAS_BIAS=item_bias is not None, HAS_EXCLUSIONS=exclude is not None,
            BLOCK=RESCORE_BLOCK,
        )  # fmt: skip
        selection.finish(self.lists, rows, keys, found.counts, thresholds)

    def filter(self, users: score_tile.UserRows, thresholds: Tensor, found: selection.Candidates) -> None:
        R, words = len(thresholds), None
        for chunk in score_tile.chunks(self.tables.items, self.tables.item_bias, users):
            if words is None:
                words = torch.empty(
                    (R, len(chunk.operand) // 32), dtype=torch.int32, device=thresholds.device
                )
            tiles = users.shape.tiles_per_program(R, chunk.count)
            inner_product_topk_filter_kernel[users.shape.grid(R, chunk.count, tiles)](
                users.operand, chunk.operand, users.norms, chunk.margins, chunk.biases, chunk.bias_margins, thresholds,
                words, R, chunk.count, words.stride(0), tiles, HAS_BIAS=self.tables.item_bias is not None,
                **users.shape.options(words.device),
            )  # fmt: skip
            found.collect(words, chunk.first, chunk.count)


def inner_product_topk(
    users: Tensor,
    items: Tensor,
    k: int,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    item_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    B, N = users.shape[0], items.shape[0]
    exclude = None
    if exclude_indptr is not None and B:
        exclude = exclude_indptr.contiguous(), exclude_indices.contiguous()
    tables = Tables(selection.rows_contiguous(users), selection.rows_contiguous(items), exclude, item_bias)
    wide = torch.float64 if users.dtype == torch.float64 else torch.float32
    lists = selection.new_lists(B, k, wide, users.device)
    if not B * k:
        return lists.scores, lists.indices, lists.lengths.zero_()

    def exhaust(rows: Tensor) -> None:
        block = lambda part, first, last: score_tile.exact_block(
            tables.users, tables.items, item_bias, part, first, last
        )
        selection.exhaust(lists, rows, N, exclude, block)

    plan = selection.plan(N, k, MARGIN_INFLATION)
    if plan.sample and wide == torch.float32 and N <= ITEMS_IN_A_KEY:
        search = Search(tables, lists, plan)
        row_bytes = 12 * plan.capacity + 16 * k + 2 * items.shape[1]
        selection.fill(lists, selection.group_rows(row_bytes), search.thresholds, search.search, exhaust)
        users, items, _, _ = tables
        inner_product_topk_zeros_kernel[(B, triton.cdiv(k, RESCORE_BLOCK))](
            users, items, users if item_bias is None else item_bias, lists.scores, lists.indices, users.stride(0),
            items.stride(0), 0 if item_bias is None else item_bias.stride(0), k, items.shape[1],
            HAS_BIAS=item_bias is not None, BLOCK=RESCORE_BLOCK,
        )  # fmt: skip
    else:
        exhaust(torch.arange(B, device=users.device))
    if exclude is not None:
        selection.spoil_faulty(lists, exclude, N)
    return lists[:3]


def inner_product_topk_prepared(users, items, k, exclude_indptr, exclude_indices, item_bias, prepared):
    """The same: what was prepared for the CPU kernel serves nothing here."""
    return inner_product_topk(users, items, k, exclude_indptr, exclude_indices, item_bias)
