"""How many items score better for a user than given ones, by the scores and the order of inner_product_topk."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference.inner_product_topk import exact_scores
from rankdistill.reference.masked_rank import masked_rank

SCORES = 1 << 22  # the largest piece of the [B, N] scores that exists at a time, but for a row


def inner_product_rank(
    users: Tensor,
    items: Tensor,
    item_ids: Tensor,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    item_bias: Tensor | None,
) -> Tensor:
    ranks = torch.empty_like(item_ids, memory_format=torch.contiguous_format)
    rows = max(1, SCORES // max(1, items.shape[0]))
    for b in range(0, users.shape[0], rows):
        scores = exact_scores(users[b : b + rows], items, item_bias)
        indptr = indices = None
        if exclude_indptr is not None:
            bounds = exclude_indptr[b : b + rows + 1]
            indptr, indices = bounds - bounds[0], exclude_indices[int(bounds[0]) : int(bounds[-1])]
        ranks[b : b + rows] = masked_rank(scores, item_ids[b : b + rows], indptr, indices, None)
    return ranks
