"""How many of a row's given scores stand before those of given items: descending, equal ones by index."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference.masked_topk import rankable_scores


def count_better(scores: Tensor, rankable: Tensor, item_ids: Tensor) -> Tensor:
    """[B, K] how many rankable scores [B, N] are above item_ids' [B, K], or equal and of a lower index.

    -1 for an item that is not in [0, N) or not rankable.
    """
    N = scores.shape[1]
    listed = (item_ids >= 0) & (item_ids < N)
    if N == 0:
        return torch.full_like(item_ids, -1)
    picked = torch.where(listed, item_ids, 0)
    own, ranked = scores.gather(1, picked), listed & rankable.gather(1, picked)
    indices = torch.arange(N, device=scores.device)
    ranks = torch.empty_like(item_ids)
    for k in range(item_ids.shape[1]):
        equal = (scores == own[:, k, None]) & (indices < item_ids[:, k, None])
        ranks[:, k] = (((scores > own[:, k, None]) | equal) & rankable).sum(1)
    return ranks.masked_fill(~ranked, -1)


def masked_rank(
    scores: Tensor,
    item_ids: Tensor,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    exclude_mask: Tensor | None,
) -> Tensor:
    rankable = rankable_scores(scores, exclude_indptr, exclude_indices, exclude_mask)
    return count_better(scores, rankable, item_ids)
