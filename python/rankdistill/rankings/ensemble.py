"""One ranking of several."""

from __future__ import annotations

import torch
from torch import Tensor


def ensemble_rankings(lists: Tensor, k: int, temperature: float = 10.0) -> Tensor:
    """The k items of each user with the largest sum over lists of exp(−position/temperature), best first.

    Args:
        lists: [M, U, K] int64, several rankings of each user, best first, each item once; -1 for none.
        k: items of the result.
        temperature: of the 0-based positions, > 0.

    Returns:
        [U, k] int64, equal sums by the lower id; -1 where the lists have fewer items.

    Cost:
        O(U·M·K·log(M·K)) time, O(U·M·K) memory.
    """
    M, U, K = lists.shape
    if temperature <= 0:
        raise ValueError(f"ensemble_rankings: expected a temperature above 0; got {temperature}")
    weights = torch.exp(-torch.arange(K, dtype=torch.float64, device=lists.device) / temperature).repeat(M)
    ids, order = lists.permute(1, 0, 2).reshape(U, M * K).sort(dim=1, stable=True)
    weights = torch.where(ids >= 0, weights[order], 0.0)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    group = first.cumsum(1) - 1  # in order of id
    sums = torch.zeros_like(weights).scatter_add_(1, group, weights)
    items = torch.full_like(ids, -1).scatter_(1, group, ids)
    # Stable: equal sums in order of id. What no list has comes last.
    best = torch.where(items >= 0, sums, -1.0).sort(dim=1, descending=True, stable=True).indices[:, :k]
    found = items.gather(1, best)
    return torch.nn.functional.pad(found, (0, k - found.shape[1]), value=-1)
