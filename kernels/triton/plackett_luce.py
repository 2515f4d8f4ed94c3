"""Triton kernels of plackett_luce: one program per row, the list in registers, the tail in blocks.

Sums are carried as pairs (top, sum), standing for sum · e^top, and combined without a positive exponent.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_LIST = 4096
TAIL_BLOCK = 1024
LOWEST = tl.constexpr(-float("inf"))


@triton.jit
def add_pairs(top_a, sum_a, top_b, sum_b):
    """The pair of both sums; a top of -inf is an empty sum."""
    top = tl.maximum(top_a, top_b)
    safe = tl.where(top == LOWEST, 0.0, top)
    return top, sum_a * tl.exp(top_a - safe) + sum_b * tl.exp(top_b - safe)


@triton.jit
def tail_pair(
    tail_ptr, row, stride_tail_row, L, dtype: tl.constexpr, TAIL_BLOCKS: tl.constexpr, BLOCK_L: tl.constexpr
):
    """The tail's largest score and the sum of e^(score - largest)."""
    top = tl.full((), LOWEST, dtype)
    total = tl.full((), 0.0, dtype)
    for block in range(TAIL_BLOCKS):
        offsets = block * BLOCK_L + tl.arange(0, BLOCK_L)
        scores = tl.load(tail_ptr + row * stride_tail_row + offsets, mask=offsets < L, other=LOWEST).to(dtype)
        block_top = tl.max(scores, 0)
        safe = tl.where(block_top == LOWEST, 0.0, block_top)
        top, total = add_pairs(top, total, block_top, tl.sum(tl.exp(scores - safe), 0))
    return top, total


@triton.jit
def list_pairs(
    scores_ptr, row, stride_scores_row, length, tail_top, tail_sum, dtype: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Of every position: its score, and the pair of all scores from it on, tail included."""
    offsets = tl.arange(0, BLOCK_K)
    scores = tl.load(scores_ptr + row * stride_scores_row + offsets, mask=offsets < length, other=LOWEST).to(
        dtype
    )
    ones = tl.where(scores == LOWEST, 0.0, 1.0).to(dtype)
    tops, sums = tl.associative_scan((scores, ones), 0, add_pairs, reverse=True)
    tops, sums = add_pairs(tops, sums, tail_top, tail_sum)
    return offsets, scores, tops, sums


@triton.jit
def row_is_bad(scores, tail_top, tail_sum, length, K, offsets):
    """Such a row is NaN: NaN or +inf among what counts, a length out of range, or no mass at the list's end."""
    counts = offsets < length
    bad = tl.max(tl.where(counts & ((scores != scores) | (scores == float("inf"))), 1, 0), 0) > 0
    bad = bad | (tail_sum != tail_sum) | (tail_top == float("inf"))
    # The last normaliser is the smallest: the last score and the tail.
    last = tl.max(tl.where(offsets == length - 1, scores, LOWEST), 0)
    bad = bad | ((last == LOWEST) & (tail_top == LOWEST))
    return bad | (length < 0) | (length > K)


@triton.jit
def row_loss(scores, tops, sums, counts):
    terms = (tl.where(counts, tops, 0.0) - tl.where(counts, scores, 0.0)) + tl.log(
        tl.where(counts, sums, 1.0)
    )
    return tl.sum(tl.where(counts, terms, 0.0), 0)


@triton.jit
def plackett_luce_forward_kernel(
    scores_ptr, tail_ptr, lengths_ptr, losses_ptr, stride_scores_row, stride_tail_row, K, L,
    HAS_LENGTHS: tl.constexpr, BLOCK_K: tl.constexpr, TAIL_BLOCKS: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    dtype = losses_ptr.dtype.element_ty
    length = K
    if HAS_LENGTHS:
        length = tl.load(lengths_ptr + row)
    kept = tl.minimum(tl.maximum(length, 0), K)
    tail_top, tail_sum = tail_pair(tail_ptr, row, stride_tail_row, L, dtype, TAIL_BLOCKS, BLOCK_L)
    offsets, scores, tops, sums = list_pairs(
        scores_ptr, row, stride_scores_row, kept, tail_top, tail_sum, dtype, BLOCK_K
    )
    loss = row_loss(scores, tops, sums, offsets < kept)
    bad = row_is_bad(scores, tail_top, tail_sum, length, K, offsets) & (length != 0)
    tl.store(losses_ptr + row, tl.where(bad, float("nan"), loss))


@triton.jit
def plackett_luce_backward_kernel(
    grad_losses_ptr, scores_ptr, tail_ptr, lengths_ptr, grad_scores_ptr, grad_tail_ptr, stride_grad,
    stride_scores_row, stride_tail_row, stride_grad_scores_row, stride_grad_tail_row, K, L,
    HAS_LENGTHS: tl.constexpr, GIVES_LOSSES: tl.constexpr, BLOCK_K: tl.constexpr, TAIL_BLOCKS: tl.constexpr,
    BLOCK_L: tl.constexpr,
):  # fmt: skip
    """Where it gives the losses itself, to the place of their gradients, those are 1."""
    row = tl.program_id(0).to(tl.int64)
    dtype = grad_losses_ptr.dtype.element_ty
    grad = 1.0
    if not GIVES_LOSSES:
        grad = tl.load(grad_losses_ptr + row * stride_grad)
    length = K
    if HAS_LENGTHS:
        length = tl.load(lengths_ptr + row)
    kept = tl.minimum(tl.maximum(length, 0), K)
    tail_top, tail_sum = tail_pair(tail_ptr, row, stride_tail_row, L, dtype, TAIL_BLOCKS, BLOCK_L)
    offsets, scores, tops, sums = list_pairs(
        scores_ptr, row, stride_scores_row, kept, tail_top, tail_sum, dtype, BLOCK_K
    )
    counts = offsets < kept
    loss = row_loss(scores, tops, sums, counts) if GIVES_LOSSES else 0.0
    bad = row_is_bad(scores, tail_top, tail_sum, length, K, offsets) & (length != 0)
    if GIVES_LOSSES:
        tl.store(grad_losses_ptr + row * stride_grad, tl.where(bad, float("nan"), loss))
    # Σ_{i ≤ j} 1/(sums_i·e^tops_i) as pairs (−tops, 1/sums): the tops never rise along the list.
    tops_below, inverses = tl.associative_scan(
        (tl.where(counts, -tops, LOWEST), tl.where(counts, 1.0 / tl.where(counts, sums, 1.0), 0.0).to(dtype)),
        0,
        add_pairs,
    )
    exponent = tl.where(counts, tl.where(counts, scores, 0.0) + tl.where(counts, tops_below, 0.0), LOWEST)
    grad_scores = tl.where(counts, grad * (tl.exp(exponent) * inverses - 1.0), 0.0)
    grad_scores = tl.where(bad & (counts | (length < 0) | (length > K)), float("nan"), grad_scores)
    tl.store(
        grad_scores_ptr + row * stride_grad_scores_row + offsets,
        grad_scores.to(grad_scores_ptr.dtype.element_ty),
        mask=offsets < K,
    )
    last = tl.max(tl.where(counts, tops_below, LOWEST), 0)
    mass = tl.sum(tl.where(offsets == kept - 1, inverses, 0.0), 0)
    for block in range(TAIL_BLOCKS):
        columns = block * BLOCK_L + tl.arange(0, BLOCK_L)
        inside = columns < L
        tail = tl.load(tail_ptr + row * stride_tail_row + columns, mask=inside, other=LOWEST).to(dtype)
        below = tl.where((tail == LOWEST) | (kept == 0), LOWEST, tail + tl.where(kept == 0, 0.0, last))
        grad_tail = tl.where(kept == 0, 0.0, grad * (tl.exp(below) * mass))
        grad_tail = tl.where(bad, float("nan"), grad_tail)
        tl.store(
            grad_tail_ptr + row * stride_grad_tail_row + columns,
            grad_tail.to(grad_tail_ptr.dtype.element_ty),
            mask=inside,
        )


def blocks(K: int, L: int) -> dict[str, int]:
    """Compile-time sizes and warps for lists of K and tails of L."""
    if K > LARGEST_LIST:
        raise ValueError(
            f"plackett_luce: expected lists of at most {LARGEST_LIST} on CUDA; got {K}. "
            "RANKDISTILL_BACKEND=reference serves longer ones"
        )
    block = max(16, triton.next_power_of_2(K))
    return {
        "BLOCK_K": block,
        "TAIL_BLOCKS": triton.cdiv(L, TAIL_BLOCK),
        "BLOCK_L": TAIL_BLOCK,
        "num_warps": 4 if block <= 512 else 8,
    }


def rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[1] <= 1 or matrix.stride(1) == 1 else matrix.contiguous()


def plackett_luce_forward(scores: Tensor, tail: Tensor, lengths: Tensor | None) -> Tensor:
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    (B, K), L = scores.shape, tail.shape[1]
    losses = torch.empty(B, dtype=wide, device=scores.device)
    options = blocks(K, L)
    if B:
        scores, tail = rows(scores), rows(tail)
        plackett_luce_forward_kernel[(B,)](
            scores, tail, losses if lengths is None else lengths.contiguous(), losses, scores.stride(0), tail.stride(0),
            K, L, HAS_LENGTHS=lengths is not None, **options,
        )  # fmt: skip
    return losses


def plackett_luce_backward(
    grad_losses: Tensor, scores: Tensor, tail: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    grads = tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (scores, tail))
    launch_backward(grad_losses.to(wide), scores, tail, lengths, grads, gives_losses=False)
    return grads


def plackett_luce_slopes(
    scores: Tensor, tail: Tensor, lengths: Tensor | None, slopes: tuple[Tensor, Tensor]
) -> Tensor:
    """The losses, and into `slopes`, of the shapes of scores and tail with contiguous rows, their derivatives."""
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    losses = torch.empty(len(scores), dtype=wide, device=scores.device)
    launch_backward(losses, scores, tail, lengths, slopes, gives_losses=True)
    return losses


def launch_backward(
    losses: Tensor, scores: Tensor, tail: Tensor, lengths: Tensor | None, grads: tuple[Tensor, Tensor],
    gives_losses: bool,
) -> None:  # fmt: skip
    """With the gradients of the losses, or the losses to write, in `losses`."""
    (B, K), L = scores.shape, tail.shape[1]
    options = blocks(K, L)
    if B:
        scores, tail = rows(scores), rows(tail)
        plackett_luce_backward_kernel[(B,)](
            losses, scores, tail, losses if lengths is None else lengths.contiguous(), *grads, losses.stride(0),
            scores.stride(0), tail.stride(0), grads[0].stride(0), grads[1].stride(0), K, L,
            HAS_LENGTHS=lengths is not None, GIVES_LOSSES=gives_losses, **options,
        )  # fmt: skip
