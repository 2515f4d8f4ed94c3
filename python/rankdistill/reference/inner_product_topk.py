"""The k best items of each user: descending <users[b], items[n]> + item_bias[n], ties to the lower index, excluded
items left out."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS, ITEMS = 256, 4096  # the largest piece of the [B, N] scores that exists at a time


def exact_scores(users: Tensor, items: Tensor, item_bias: Tensor | None = None) -> Tensor:
    """[B, N]: the fp64 sums, in index order, of the exact products and then the bias, rounded once."""
    sums = torch.zeros(users.shape[0], items.shape[0], dtype=torch.float64, device=users.device)
    for d in range(users.shape[1]):
        sums += users[:, d, None].double() * items[None, :, d].double()
    if item_bias is not None:
        sums += item_bias.double()
    return sums.to(torch.float64 if users.dtype == torch.float64 else torch.float32)


def inner_product_topk(
    users: Tensor,
    items: Tensor,
    k: int,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    item_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.float64 if users.dtype == torch.float64 else torch.float32
    scores = torch.full((users.shape[0], k), -torch.inf, dtype=wide, device=users.device)
    indices = torch.full(scores.shape, -1, dtype=torch.int64, device=users.device)
    for b in range(0, users.shape[0], ROWS):
        rows = users[b : b + ROWS]
        best, best_indices = scores[b : b + ROWS], indices[b : b + ROWS]
        for n in range(0, items.shape[0], ITEMS):
            bias = None if item_bias is None else item_bias[n : n + ITEMS]
            block = exact_scores(rows, items[n : n + ITEMS], bias)
            if exclude_indptr is not None:
                bounds = exclude_indptr[b : b + ROWS + 1]
                row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), bounds.diff())
                item = exclude_indices[int(bounds[0]) : int(bounds[-1])] - n
                here = (item >= 0) & (item < block.shape[1])
                block[row[here], item[here]] = -torch.inf
            rankable = block > -torch.inf
            block = torch.where(rankable, block, -torch.inf)
            ids = torch.arange(n, n + block.shape[1], device=rows.device)
            # Earlier items stand first and the sort is stable: ties go to the lower index.
            merged, order = torch.cat([best, block], dim=1).sort(dim=1, descending=True, stable=True)
            merged_ids = torch.cat([best_indices, torch.where(rankable, ids, -1)], dim=1).gather(1, order)
            best.copy_(merged[:, :k])
            best_indices.copy_(merged_ids[:, :k])
    return scores, indices, (indices >= 0).sum(dim=1)
