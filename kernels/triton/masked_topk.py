"""Triton kernels of masked_topk: a threshold per row from a sample, one streaming pass, selection of what reached it.

A row without a threshold (few columns, or k near their number) has a key per column instead of a list of survivors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton import selection
from rankdistill.kernels.triton.order import EMPTY, ITEMS_IN_A_KEY, count_bits, packed_key
from torch import Tensor

SURVIVORS_PER_EXPECTED = 2.0
STREAM_BLOCK = 8192
SAMPLE_BLOCK = 256


@triton.jit
def masked_topk_sample_kernel(
    scores_ptr, mask_ptr, rows_ptr, sampled_ptr, sample_ptr, stride_scores_row, stride_mask_row, M,
    HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """[R, M] the sampled scores, -inf where masked."""
    group_row = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + group_row)
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = number < M
    columns = tl.load(sampled_ptr + number, mask=inside, other=0)
    scores = tl.load(scores_ptr + row * stride_scores_row + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_MASK:
        masked = tl.load(mask_ptr + row * stride_mask_row + columns, mask=inside, other=0) != 0
        scores = tl.where(masked, float("-inf"), scores)
    tl.store(sample_ptr + group_row * M + number, scores, mask=inside)


@triton.jit
def masked_topk_stream_kernel(
    scores_ptr, mask_ptr, rows_ptr, thresholds_ptr, counts_ptr, keys_ptr, stride_scores_row, stride_mask_row, N,
    capacity, HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Appends the keys of the scores that reach their row's threshold; the count goes on past the capacity."""
    WORDS: tl.constexpr = BLOCK // 32
    group_row = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + group_row)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    columns = first + tl.arange(0, BLOCK)
    row_scores = scores_ptr + row * stride_scores_row
    scores = tl.load(row_scores + columns, mask=columns < N, other=float("-inf")).to(tl.float32)
    hits = scores >= tl.load(thresholds_ptr + group_row)  # never NaN or -inf
    if HAS_MASK:
        hits = hits & (tl.load(mask_ptr + row * stride_mask_row + columns, mask=hits, other=0) == 0)
    weights = tl.full((BLOCK,), 1, tl.int32) << (tl.arange(0, BLOCK) % 32)
    words = tl.sum(tl.reshape(tl.where(hits, weights, 0), (WORDS, 32)), 1).to(tl.uint32, bitcast=True)
    bits = count_bits(words)
    total = tl.sum(bits, 0)
    if total > 0:
        slots = tl.atomic_add(counts_ptr + group_row, total, sem="relaxed") + tl.cumsum(bits, 0) - bits
        for _ in range(tl.max(bits, 0)):
            items = first + tl.arange(0, WORDS) * 32 + count_bits(words ^ (words - 1)) - 1
            kept = (words != 0) & (slots < capacity)
            keys = packed_key(tl.load(row_scores + items, mask=kept, other=0.0).to(tl.float32), items)
            tl.store(keys_ptr + group_row * capacity + slots, keys, mask=kept)
            words = words & (words - 1)
            slots += 1


@triton.jit
def masked_topk_keys_kernel(
    scores_ptr, mask_ptr, rows_ptr, keys_ptr, stride_scores_row, stride_mask_row, N, HAS_MASK: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """[R, N] the key of every score."""
    group_row = tl.program_id(1).to(tl.int64)
    row = tl.load(rows_ptr + group_row)
    columns = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < N
    scores = tl.load(scores_ptr + row * stride_scores_row + columns, mask=inside, other=float("-inf")).to(
        tl.float32
    )
    kept = scores > float("-inf")
    if HAS_MASK:
        kept = kept & (tl.load(mask_ptr + row * stride_mask_row + columns, mask=inside, other=0) == 0)
    tl.store(
        keys_ptr + group_row * N + columns, tl.where(kept, packed_key(scores, columns), EMPTY), mask=inside
    )


class Search:
    """One call's plan and its two steps, for groups of rows."""

    def __init__(self, scores: Tensor, exclude, mask: Tensor | None, lists, plan) -> None:
        self.scores, self.exclude, self.mask, self.lists, self.plan = scores, exclude, mask, lists, plan
        self.sampled = selection.sampled_items(scores.shape[1], plan.sample, scores.device)
        self.has_mask = mask is not None
        self.masked = scores if mask is None else mask  # any pointer serves where there is no mask
        self.strides = scores.stride(0), 0 if mask is None else mask.stride(0)

    def thresholds(self, rows: Tensor) -> Tensor:
        M = self.plan.sample
        if not M:
            return torch.full((len(rows),), selection.NO_THRESHOLD.value, device=rows.device)
        sample = torch.empty((len(rows), M), dtype=torch.float32, device=rows.device)
        masked_topk_sample_kernel[(triton.cdiv(M, SAMPLE_BLOCK), len(rows))](
            self.scores, self.masked, rows, self.sampled, sample, *self.strides, M, HAS_MASK=self.has_mask,
            BLOCK=SAMPLE_BLOCK,
        )  # fmt: skip
        if self.exclude is not None:
            selection.drop_excluded_samples(sample, rows, self.sampled, self.exclude, self.scores.shape[1])
        return selection.thresholds_of(sample, self.plan.rank)

    def search(self, rows: Tensor, thresholds: Tensor) -> None:
        R, N, capacity = len(rows), self.scores.shape[1], self.plan.capacity
        keys = torch.full((R, capacity), EMPTY.value, dtype=torch.int64, device=rows.device)
        counts = torch.zeros(R, dtype=torch.int32, device=rows.device)
        if self.plan.sample:
            masked_topk_stream_kernel[(triton.cdiv(N, STREAM_BLOCK), R)](
                self.scores, self.masked, rows, thresholds, counts, keys, *self.strides, N, capacity,
                HAS_MASK=self.has_mask, BLOCK=STREAM_BLOCK, num_warps=8,
            )  # fmt: skip
        else:
            masked_topk_keys_kernel[(triton.cdiv(N, 1024), R)](
                self.scores, self.masked, rows, keys, *self.strides, N, HAS_MASK=self.has_mask, BLOCK=1024
            )
        if self.exclude is not None:
            selection.drop_excluded_keys_kernel[(triton.cdiv(capacity, 1024), R)](
                keys, rows, *self.exclude, self.exclude[1].numel(), capacity, BLOCK=1024
            )
        selection.finish(self.lists, rows, keys, counts, thresholds)


def masked_topk(
    scores: Tensor,
    k: int,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    exclude_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    B, N = scores.shape
    scores = selection.rows_contiguous(scores)
    mask = None if exclude_mask is None else selection.rows_contiguous(exclude_mask).view(torch.uint8)
    exclude = None
    if exclude_indptr is not None and B:
        exclude = exclude_indptr.contiguous(), exclude_indices.contiguous()
    lists = selection.new_lists(B, k, scores.dtype, scores.device)
    if not B * k:
        return lists.scores, lists.indices, lists.lengths.zero_()

    def block(rows: Tensor, first: int, last: int) -> Tensor:
        part = scores[:, first:last][rows]
        part = part if part.dtype == torch.float64 else part.float()
        return part if mask is None else part.masked_fill_(mask[:, first:last][rows].bool(), -torch.inf)

    exhaust = lambda rows: selection.exhaust(lists, rows, N, exclude, block)
    if N and scores.dtype != torch.float64 and N <= ITEMS_IN_A_KEY:
        plan = selection.plan(N, k, SURVIVORS_PER_EXPECTED)
        search = Search(scores, exclude, mask, lists, plan)
        row_bytes = 8 * plan.capacity + 16 * k + 4 * plan.sample
        selection.fill(lists, selection.group_rows(row_bytes), search.thresholds, search.search, exhaust)
    else:
        exhaust(torch.arange(B, device=scores.device))
    if N:  # keys have no signs of zeros
        given = scores.gather(1, lists.indices.clamp(0, N - 1))
        torch.where(lists.indices >= 0, given, lists.scores, out=lists.scores)
    if exclude is not None:
        selection.spoil_faulty(lists, exclude, N)
    return lists[:3]
