"""loss[b] = sum over k < lengths[b] of log(sum over k <= l < lengths[b] of e^s_bl + sum over u of e^t_bu) - s_bk.

Always worked in float64, which its log-normalisers need where scores are large.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_normalisers(scores: Tensor, tail: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The logs of the sums at every k [B, K], which of them count [B, K], and which rows are undefined [B, 1]."""
    B, K = scores.shape
    lengths = scores.new_full((B,), K, dtype=torch.int64) if lengths is None else lengths
    valid = torch.arange(K, device=scores.device) < lengths[:, None]
    masses = torch.cat([tail.logsumexp(1, keepdim=True), scores.masked_fill(~valid, -torch.inf).flip(1)], 1)
    logs = masses.logcumsumexp(1)[:, 1:].flip(1)
    undefined = (valid & ~logs.isfinite()).any(1) | (lengths < 0) | (lengths > K)
    return logs, valid, undefined[:, None]


def plackett_luce_forward(scores: Tensor, tail: Tensor, lengths: Tensor | None) -> Tensor:
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    scores, tail = scores.double(), tail.double()
    logs, valid, undefined = log_normalisers(scores, tail, lengths)
    terms = (logs - scores).masked_fill(~valid, 0)
    return terms.sum(1).masked_fill(undefined[:, 0], torch.nan).to(wide)


def plackett_luce_backward(
    grad_losses: Tensor, scores: Tensor, tail: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    dtype = scores.dtype
    grad_losses, scores, tail = grad_losses.double()[:, None], scores.double(), tail.double()
    logs, valid, undefined = log_normalisers(scores, tail, lengths)
    inverses = (-logs).masked_fill(~valid, -torch.inf)
    last = inverses.logsumexp(1, keepdim=True)  # log of c_j at the list's end, [B, 1]
    grad_scores = grad_losses * ((scores + inverses.logcumsumexp(1)).exp() - 1)
    grad_tail = (grad_losses * (tail + last).exp()).masked_fill(~valid.any(1, keepdim=True), 0)
    return (
        grad_scores.masked_fill(~valid, 0).masked_fill(undefined & valid, torch.nan).to(dtype),
        grad_tail.masked_fill(undefined, torch.nan).to(dtype),
    )
