"""loss[b] = sum over k < lengths[b] of log(sum over k <= l < lengths[b] of e^s_bl + sum over u of e^t_bu) - s_bk.

The sum at k is kept as a pair, sums[k] * e^tops[k], with tops[k] the largest score in it: no exponent is positive,
and no logarithm is taken before a difference of scores was (DESIGN.md PL-1). Always worked in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def suffix_pairs(scores: Tensor, tail: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tops [B, K], sums [B, K], and the tail's top [B]."""
    tops, sums = torch.empty_like(scores), torch.empty_like(scores)
    nothing = scores.new_full((scores.shape[0], 1), -torch.inf)
    tail_top = top = torch.cat([tail, nothing], 1).amax(1)
    total = (tail - top.where(top > -torch.inf, 0)[:, None]).exp().sum(1)
    for k in reversed(range(scores.shape[1])):
        higher = torch.maximum(top, scores[:, k])
        more = total * (top - higher).exp() + (scores[:, k] - higher).exp()
        top, total = higher.where(valid[:, k], top), more.where(valid[:, k], total)
        tops[:, k], sums[:, k] = top, total
    return tops, sums, tail_top


def counted(scores: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which scores count [B, K], and which rows have a length out of range [B]."""
    B, K = scores.shape
    lengths = torch.full((B,), K, device=scores.device) if lengths is None else lengths
    return torch.arange(K, device=scores.device) < lengths[:, None], (lengths < 0) | (lengths > K)


def plackett_luce_forward(scores: Tensor, tail: Tensor, lengths: Tensor | None) -> Tensor:
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    scores, tail = scores.double(), tail.double()
    valid, misfit = counted(scores, lengths)
    tops, sums, _ = suffix_pairs(scores, tail, valid)
    terms = (tops - scores + sums.log()).masked_fill(~valid, 0)
    return terms.sum(1).masked_fill(misfit, torch.nan).to(wide)


def plackett_luce_slopes(
    scores: Tensor, tail: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Each loss's derivatives by its list [B, K]; of its tail, exp(tail - tops [B]) * scales [B]. All in float64."""
    scores, tail = scores.double(), tail.double()
    valid, misfit = counted(scores, lengths)
    tops, sums, tail_top = suffix_pairs(scores, tail, valid)
    slopes = torch.zeros_like(scores)
    top, total = torch.cat([tops, tail_top[:, None]], 1)[:, 0], torch.zeros_like(tail_top)
    for j in range(scores.shape[1]):  # total * e^-top = sum over i <= j of 1 / (sums[i] * e^tops[i])
        more = total * (tops[:, j] - top).exp() + 1 / sums[:, j]
        top, total = tops[:, j].where(valid[:, j], top), more.where(valid[:, j], total)
        slopes[:, j] = (scores[:, j] - top).exp() * total - 1
    slopes = slopes.masked_fill(~valid, 0).masked_fill(misfit[:, None], torch.nan)
    scales = (total * (tail_top - top).exp()).masked_fill(~valid.any(1), 0).masked_fill(misfit, torch.nan)
    return slopes, tail_top.where(tail_top > -torch.inf, 0), scales


def plackett_luce_backward(
    grad_losses: Tensor, scores: Tensor, tail: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    valid, misfit = counted(scores, lengths)
    slopes, tops, scales = plackett_luce_slopes(scores, tail, lengths)
    grad_losses = grad_losses.double()
    grad_scores = (grad_losses[:, None] * slopes).masked_fill(~(valid | misfit[:, None]), 0)
    grad_tail = (grad_losses * scales)[:, None] * (tail.double() - tops[:, None]).exp()
    grad_tail = grad_tail.masked_fill(~(valid.any(1) | misfit)[:, None], 0)
    return grad_scores.to(scores.dtype), grad_tail.to(scores.dtype)
