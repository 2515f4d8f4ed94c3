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
from torch import Tensor

from rankdistill.kernels.triton import score_tile, selection
from rankdistill.kernels.triton.order import (
    EMPTY,
    ITEMS_IN_A_KEY,
    count_bits,
    excluded_range,
    is_excluded,
    packed_key,
)
from rankdistill.kernels.triton.score_tile import BLOCK_N, exact_scores, tile_scores

MARGIN_INFLATION = 2.5  # candidates that the buffers have room for, per item that reaches the threshold
SAMPLE_BYTES = 64 << 20
MOST_TILES_PER_PROGRAM = 16
PROGRAMS = 2048  # enough to fill a device several times over
BITS_BYTES = 64 << 20
COLLECT_BLOCK = 1024
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
    users_ptr, items_ptr, norms_ptr, margins_ptr, bias_ptr, thresholds_ptr, words_ptr, R, C, stride_words, tiles,
    HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
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
            bounds += tl.load(bias_ptr + columns)[None, :]
        # Written so that NaN survives. Sums of bits stay in registers, where logging hits one by one would not.
        bits = tl.where(bounds < thresholds[:, None], 0, weights[None, :])
        words = tl.sum(tl.reshape(bits, (BLOCK_R, WORDS, 32)), 2)
        tl.store(word_ptrs + tile * WORDS, words, mask=(rows < R)[:, None])


@triton.jit
def inner_product_topk_collect_kernel(
    words_ptr, counts_ptr, candidates_ptr, C, first, stride_words, capacity, BLOCK: tl.constexpr
):
    """Appends the items whose bits are set to their row's candidates; the count goes on past the capacity."""
    row = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    words = tl.load(words_ptr + row * stride_words + number, mask=number * 32 < C, other=0)
    words = words.to(tl.uint32, bitcast=True)
    past = tl.minimum(tl.maximum((number + 1) * 32 - C, 0), 31).to(tl.uint32)
    words = (words << past) >> past
    bits = count_bits(words)
    total = tl.sum(bits, 0)
    if total > 0:
        slots = tl.atomic_add(counts_ptr + row, total, sem="relaxed") + tl.cumsum(bits, 0) - bits
        for _ in range(tl.max(bits, 0)):
            items = first + number * 32 + count_bits(words ^ (words - 1)) - 1
            tl.store(candidates_ptr + row * capacity + slots, items, mask=(words != 0) & (slots < capacity))
            words = words & (words - 1)
            slots += 1


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


class Tables(NamedTuple):
    """The caller's tensors, rows contiguous."""

    users: Tensor
    items: Tensor
    exclude: tuple[Tensor, Tensor] | None
    item_bias: Tensor | None

    @property
    def widen(self) -> bool:
        return self.users.device.type == "cpu"  # Triton's interpreter, which cannot multiply bfloat16


class Search:
    """One call's plan and its two steps, for groups of rows."""

    def __init__(self, tables: Tables, lists: selection.Lists, plan: selection.Plan) -> None:
        self.tables, self.lists, self.plan = tables, lists, plan
        N, D = tables.items.shape
        self.factor = score_tile.margin_factor(tables.users.dtype, D)
        sampled = selection.sampled_items(N, plan.sample, tables.users.device)
        width = score_tile.tile_shape(1, D).width
        self.sampled = sampled
        self.sample_items = score_tile.new_operand(plan.sample, BLOCK_N, width, tables.items)
        self.sample_items[: plan.sample, :D] = tables.items[sampled]
        self.sample_bias = None if tables.item_bias is None else tables.item_bias[sampled].float()

    def operand(self, rows: Tensor) -> tuple[Tensor, score_tile.TileShape]:
        D = self.tables.users.shape[1]
        shape = score_tile.tile_shape(len(rows), D)
        users = score_tile.new_operand(len(rows), shape.BLOCK_R, shape.width, self.tables.users)
        users[: len(rows), :D] = self.tables.users[rows]
        return users, shape

    def thresholds(self, group: Tensor) -> Tensor:
        M = self.plan.sample
        return torch.cat(
            [self.part_thresholds(rows) for rows in group.split(max(SAMPLE_BYTES // (4 * M), 16))]
        )

    def part_thresholds(self, rows: Tensor) -> Tensor:
        (users, shape), M = self.operand(rows), self.plan.sample
        sample = torch.empty((len(rows), M), dtype=torch.float32, device=users.device)
        grid = triton.cdiv(len(rows), shape.BLOCK_R), triton.cdiv(M, BLOCK_N)
        has_bias = self.sample_bias is not None
        inner_product_topk_sample_kernel[grid](
            users, self.sample_items, self.sample_bias if has_bias else sample, sample, len(rows), M, HAS_BIAS=has_bias,
            BLOCK_R=shape.BLOCK_R, BLOCK_N=BLOCK_N, BLOCK_D=shape.BLOCK_D, D_BLOCKS=shape.D_BLOCKS,
            WIDEN=self.tables.widen, num_warps=shape.warps, num_stages=3,
        )  # fmt: skip
        if self.tables.exclude is not None:
            indptr, indices = self.tables.exclude
            selection.drop_excluded_samples_kernel[(len(rows),)](
                sample,
                rows,
                self.sampled,
                indptr,
                indices,
                indices.numel(),
                self.tables.items.shape[0],
                M,
                BLOCK=128,
            )
        return selection.thresholds_of(sample, self.plan.rank)

    def search(self, rows: Tensor, thresholds: Tensor) -> None:
        (users, shape), R = self.operand(rows), len(rows)
        capacity, device = self.plan.capacity, users.device
        norms = score_tile.norms_above(self.tables.users[rows])
        counts = torch.zeros(R, dtype=torch.int32, device=device)
        candidates = torch.empty((R, capacity), dtype=torch.int32, device=device)
        self.filter(users, shape, norms, thresholds, counts, candidates)
        keys = torch.empty((R, capacity), dtype=torch.int64, device=device)
        tables, exclude = self.tables, self.tables.exclude
        has_bias = tables.item_bias is not None
        inner_product_topk_rescore_kernel[(triton.cdiv(capacity, RESCORE_BLOCK), R)](
            tables.users, tables.items, tables.item_bias if has_bias else keys, rows,
            *(exclude if exclude is not None else (keys, keys)), counts, candidates, keys, tables.users.stride(0),
            tables.items.stride(0), tables.item_bias.stride(0) if has_bias else 1,
            0 if exclude is None else exclude[1].numel(), capacity, tables.items.shape[1], HAS_BIAS=has_bias,
            HAS_EXCLUSIONS=exclude is not None, BLOCK=RESCORE_BLOCK,
        )  # fmt: skip
        del candidates
        selection.finish(self.lists, rows, keys, counts, thresholds)

    def filter(self, users, shape, norms, thresholds, counts, candidates) -> None:
        """Passes the items by in chunks."""
        (N, D), R, device = self.tables.items.shape, len(norms), users.device
        size = min(score_tile.CHUNK_BYTES // (2 * shape.width), BITS_BYTES * 8 // R, N)
        size = max(triton.cdiv(size, BLOCK_N), 1) * BLOCK_N
        operand = score_tile.new_operand(size, BLOCK_N, shape.width, self.tables.items)
        margins, bias = torch.zeros((2, size), dtype=torch.float32, device=device)
        words = torch.empty((R, size // 32), dtype=torch.int32, device=device)
        has_bias = self.tables.item_bias is not None
        row_tiles = triton.cdiv(R, shape.BLOCK_R)
        for first in range(0, N, size):
            items = self.tables.items[first : first + size]
            C = len(items)
            operand[:C, :D] = items
            margins[:C] = score_tile.norms_above(items) * self.factor
            if has_bias:
                bias[:C] = score_tile.bias_above(self.tables.item_bias[first : first + size])
            tiles = triton.cdiv(C, BLOCK_N)
            per_program = min(max(row_tiles * tiles // PROGRAMS, 1), MOST_TILES_PER_PROGRAM)
            inner_product_topk_filter_kernel[(row_tiles, triton.cdiv(tiles, per_program))](
                users, operand, norms, margins, bias, thresholds, words, R, C, words.stride(0), per_program,
                HAS_BIAS=has_bias, BLOCK_R=shape.BLOCK_R, BLOCK_N=BLOCK_N, BLOCK_D=shape.BLOCK_D,
                D_BLOCKS=shape.D_BLOCKS, WIDEN=self.tables.widen, num_warps=shape.warps, num_stages=3,
            )  # fmt: skip
            inner_product_topk_collect_kernel[(R, triton.cdiv(C, 32 * COLLECT_BLOCK))](
                words, counts, candidates, C, first, words.stride(0), candidates.shape[1], BLOCK=COLLECT_BLOCK
            )


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
    if not B:
        return lists[:3]

    def exhaust(rows: Tensor) -> None:
        block = lambda part, first, last: score_tile.exact_block(
            tables.users, tables.items, item_bias, part, first, last
        )
        selection.exhaust(lists, rows, N, exclude, block)

    plan = selection.plan(N, k, MARGIN_INFLATION)
    if k and plan.sample and wide == torch.float32 and N <= ITEMS_IN_A_KEY:
        search = Search(tables, lists, plan)
        row_bytes = 12 * plan.capacity + 16 * k + 2 * search.sample_items.shape[1]
        selection.fill(lists, selection.group_rows(row_bytes), search.thresholds, search.search, exhaust)
    else:
        exhaust(torch.arange(B, device=users.device))
    if exclude is not None:
        selection.spoil_faulty(lists, exclude, N)
    return lists[:3]


def inner_product_topk_prepared(users, items, k, exclude_indptr, exclude_indices, item_bias, prepared):
    """The same: what was prepared for the CPU kernel serves nothing here."""
    return inner_product_topk(users, items, k, exclude_indptr, exclude_indices, item_bias)
