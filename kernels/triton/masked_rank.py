"""Triton kernels of masked_rank: one streaming pass that counts, for each given item of a row, what stands before it.

Items left out by a mask are not counted; those left out by CSR are counted, and then taken off again, one by one.
Counts are integers, so the order of the atomics does not matter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton.order import excluded_range, is_excluded
from rankdistill.kernels.triton.selection import faulty_rows, rows_contiguous
from torch import Tensor

STREAM_BLOCK = 1024
MOST_TARGETS = 16
PROGRAMS = 4096
MOST_BLOCKS_PER_PROGRAM = 16


@triton.jit
def masked_rank_targets_kernel(
    scores_ptr, mask_ptr, indptr_ptr, indices_ptr, item_ids_ptr, targets_ptr, stride_scores_row, stride_mask_row, nnz, N,
    K, HAS_MASK: tl.constexpr, HAS_EXCLUSIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """[B, K] the given items' scores; NaN where there is no item or it cannot be ranked."""
    row = tl.program_id(0).to(tl.int64)
    slots = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    items = tl.load(item_ids_ptr + row * K + slots, mask=slots < K, other=-1)
    ranked = (items >= 0) & (items < N)
    scores = tl.load(scores_ptr + row * stride_scores_row + items, mask=ranked, other=0.0)
    if HAS_MASK:
        ranked = ranked & (tl.load(mask_ptr + row * stride_mask_row + items, mask=ranked, other=1) == 0)
    if HAS_EXCLUSIONS:
        begin, end, _ = excluded_range(indptr_ptr, row, nnz)
        ranked = ranked & (is_excluded(indices_ptr, begin, end, items) == 0)
    scores = scores.to(targets_ptr.dtype.element_ty)
    targets = tl.where(ranked & (scores > float("-inf")), scores, float("nan"))
    tl.store(targets_ptr + row * K + slots, targets, mask=slots < K)


@triton.jit
def count_before(scores, items, targets, target_items):
    """[BLOCK_K] of [BLOCK_N] scores those that stand before each target. NaN and -inf do not; nothing before NaN."""
    above = scores[None, :] > targets[:, None]
    equal = (scores[None, :] == targets[:, None]) & (items[None, :] < target_items[:, None])
    return tl.sum((above | equal).to(tl.int32), 1)


@triton.jit
def masked_rank_count_kernel(
    scores_ptr, mask_ptr, rows_ptr, item_ids_ptr, targets_ptr, counts_ptr, stride_scores_row, stride_mask_row, first, C,
    K, blocks, HAS_MASK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Adds to the counts [B, K] of listed rows what their scores [R, C], of the items from `first` on, put before."""
    group_row = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + group_row)
    slots = tl.program_id(2) * BLOCK_K + tl.arange(0, BLOCK_K)
    targets = tl.load(targets_ptr + row * K + slots, mask=slots < K, other=float("nan"))
    target_items = tl.load(item_ids_ptr + row * K + slots, mask=slots < K, other=-1) - first
    own = tl.arange(0, BLOCK_N)
    counts = tl.zeros([BLOCK_K], tl.int64)
    begin = tl.program_id(1) * blocks
    for block in range(begin, tl.minimum(begin + blocks, tl.cdiv(C, BLOCK_N))):
        before = tl.full((), BLOCK_N, tl.int64) * block
        inside = before + own < C
        score_ptrs = scores_ptr + group_row * stride_scores_row + before + own
        scores = tl.load(score_ptrs, mask=inside, other=float("-inf")).to(targets.dtype)
        if HAS_MASK:
            masked = tl.load(mask_ptr + group_row * stride_mask_row + before + own, mask=inside, other=1) != 0
            scores = tl.where(masked, float("-inf"), scores)
        # Positions within the block fit 32 bits.
        nearby = tl.minimum(tl.maximum(target_items - before, 0), BLOCK_N).to(tl.int32)
        counts += count_before(scores, own, targets, nearby)
    tl.atomic_add(counts_ptr + row * K + slots, counts, mask=(slots < K) & (counts > 0), sem="relaxed")


@triton.jit
def masked_rank_excluded_kernel(
    scores_ptr, mask_ptr, indptr_ptr, indices_ptr, item_ids_ptr, targets_ptr, counts_ptr, stride_scores_row,
    stride_mask_row, nnz, N, K, HAS_MASK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Takes a row's excluded items, each once, off its counts."""
    row = tl.program_id(0).to(tl.int64)
    slots = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    targets = tl.load(targets_ptr + row * K + slots, mask=slots < K, other=float("nan"))
    target_items = tl.load(item_ids_ptr + row * K + slots, mask=slots < K, other=-1)
    counts = tl.zeros([BLOCK_K], tl.int64)
    begin, end, _ = excluded_range(indptr_ptr, row, nnz)
    for first in range(begin, end, BLOCK_N):
        items, counted = excluded_once(indices_ptr, first + tl.arange(0, BLOCK_N), begin, end, N)
        if HAS_MASK:
            counted = counted & (
                tl.load(mask_ptr + row * stride_mask_row + items, mask=counted, other=1) == 0
            )
        scores = tl.load(scores_ptr + row * stride_scores_row + items, mask=counted, other=float("-inf"))
        counts += count_before(scores.to(targets.dtype), items, targets, target_items)
    tl.atomic_add(counts_ptr + row * K + slots, -counts, mask=(slots < K) & (counts > 0), sem="relaxed")


@triton.jit
def excluded_once(indices_ptr, positions, begin, end, N):
    """The excluded items at `positions`, and whether each exists and is the first of its repeats."""
    items = tl.load(indices_ptr + positions, mask=positions < end, other=-1)
    previous = tl.load(indices_ptr + positions - 1, mask=(positions > begin) & (positions < end), other=-1)
    return items, (items >= 0) & (items < N) & (items != previous)


def targets_together(K: int) -> int:
    return min(triton.next_power_of_2(K), MOST_TARGETS)


def add_counts(
    scores: Tensor,
    mask: Tensor | None,
    rows: Tensor,
    first: int,
    item_ids: Tensor,
    targets: Tensor,
    counts: Tensor,
) -> None:
    """Adds to counts[rows] what the scores [R, C], of the items from `first` on, put before the targets."""
    (R, C), K = scores.shape, targets.shape[1]
    blocks, together = triton.cdiv(C, STREAM_BLOCK), targets_together(K)
    per_program = max(min(blocks * R // PROGRAMS, MOST_BLOCKS_PER_PROGRAM), triton.cdiv(blocks, 65535), 1)
    masked_rank_count_kernel[(R, triton.cdiv(blocks, per_program), triton.cdiv(K, together))](
        scores, scores if mask is None else mask, rows, item_ids, targets, counts, scores.stride(0),
        0 if mask is None else mask.stride(0), first, C, K, per_program, HAS_MASK=mask is not None,
        BLOCK_N=STREAM_BLOCK, BLOCK_K=together, num_warps=8,
    )  # fmt: skip


def masked_rank(
    scores: Tensor,
    item_ids: Tensor,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    exclude_mask: Tensor | None,
) -> Tensor:
    (B, N), K = scores.shape, item_ids.shape[1]
    ranks = torch.zeros((B, K), dtype=torch.int64, device=scores.device)
    if not B * K:
        return ranks
    scores, item_ids = rows_contiguous(scores), item_ids.contiguous()
    mask = None if exclude_mask is None else rows_contiguous(exclude_mask).view(torch.uint8)
    has_exclusions = exclude_indptr is not None
    exclude = (
        (exclude_indptr.contiguous(), exclude_indices.contiguous()) if has_exclusions else (ranks, ranks)
    )
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    targets = torch.empty((B, K), dtype=wide, device=scores.device)
    masked, stride_mask = (scores, 0) if mask is None else (mask, mask.stride(0))
    masked_rank_targets_kernel[(B, triton.cdiv(K, 128))](
        scores, masked, *exclude, item_ids, targets, scores.stride(0), stride_mask, exclude[1].numel(), N, K,
        HAS_MASK=mask is not None, HAS_EXCLUSIONS=has_exclusions, BLOCK=128,
    )  # fmt: skip
    if N:
        add_counts(scores, mask, torch.arange(B, device=scores.device), 0, item_ids, targets, ranks)
    if has_exclusions:
        together = targets_together(K)
        masked_rank_excluded_kernel[(B, triton.cdiv(K, together))](
            scores, masked, *exclude, item_ids, targets, ranks, scores.stride(0), stride_mask, exclude[1].numel(), N, K,
            HAS_MASK=mask is not None, BLOCK_N=128, BLOCK_K=together,
        )  # fmt: skip
        targets.masked_fill_(faulty_rows(exclude, N)[:, None], torch.nan)
    return ranks.masked_fill_(targets.isnan(), -1)
