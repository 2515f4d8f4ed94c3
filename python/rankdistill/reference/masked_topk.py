"""The k best of each row's given scores: descending, equal ones by index, what is excluded left out."""

from __future__ import annotations

import torch
from torch import Tensor


def rankable_scores(
    scores: Tensor, exclude_indptr: Tensor | None, exclude_indices: Tensor | None, exclude_mask: Tensor | None
) -> Tensor:
    """[B, N] bool: not excluded, and greater than -inf (so not NaN)."""
    rankable = scores > -torch.inf
    if exclude_mask is not None:
        rankable &= ~exclude_mask
    if exclude_indptr is not None:
        rows = torch.arange(len(scores), device=scores.device)
        rankable[torch.repeat_interleave(rows, exclude_indptr.diff()), exclude_indices] = False
    return rankable


def masked_topk(
    scores: Tensor,
    k: int,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    exclude_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    rankable = rankable_scores(scores, exclude_indptr, exclude_indices, exclude_mask)
    # Stable, so that ties go to the lower index; what cannot be ranked is -inf, below all that can.
    best = scores.masked_fill(~rankable, -torch.inf).sort(dim=1, descending=True, stable=True)
    lengths = rankable.sum(1).clamp_max(k)
    top = scores.new_full((len(scores), k), -torch.inf)
    indices = torch.full(top.shape, -1, dtype=torch.int64, device=scores.device)
    kept = min(k, scores.shape[1])
    found = torch.arange(kept, device=scores.device) < lengths[:, None]
    top[:, :kept] = best.values[:, :kept]
    indices[:, :kept] = best.indices[:, :kept].masked_fill(~found, -1)
    return top, indices, lengths
