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
    if temperature <= 0:
        raise ValueError(f"ensemble_rankings: expected a temperature above 0; got {temperature}")
    return merged_rankings(lists, weights_of_positions(lists, temperature), k)


def consensus_rankings(
    lists: Tensor,
    deviations: Tensor | None,
    k: int,
    temperature: float = 10.0,
    deviation_temperature: float = 100.0,
) -> Tensor:
    """The k items of each user that several rankings place high, and have long placed alike (ConCF).

    An item's sum over the lists that have it: exp(−position/temperature) + exp(−deviation/deviation_temperature).

    Args:
        lists: [M, U, K] int64, several rankings of each user, best first, each item once; -1 for none.
        deviations: [M, U, K] float, the standard deviations of these items' positions over time; None for 0.
        k: items of the result.
        temperature, deviation_temperature: > 0.

    Returns, Cost: as `ensemble_rankings`.

    Source:
        Kang et al., ConCF, WWW 2022, as released.
    """
    for name, value in (("temperature", temperature), ("deviation_temperature", deviation_temperature)):
        if value <= 0:
            raise ValueError(f"consensus_rankings: expected {name} above 0; got {value}")
    spread = torch.zeros(()) if deviations is None else deviations.double()
    weights = (
        weights_of_positions(lists, temperature) + (-spread.to(lists.device) / deviation_temperature).exp()
    )
    return merged_rankings(lists, weights, k)


def weights_of_positions(lists: Tensor, temperature: float) -> Tensor:
    """[M, U, K] float64 exp(−position/temperature)."""
    positions = torch.arange(lists.shape[2], dtype=torch.float64, device=lists.device)
    return torch.exp(-positions / temperature).expand(lists.shape)


def merged_rankings(lists: Tensor, weights: Tensor, k: int) -> Tensor:
    """The k items of each user with the largest sum of weights [M, U, K] over lists, as `ensemble_rankings`."""
    M, U, K = lists.shape
    ids, order = lists.permute(1, 0, 2).reshape(U, M * K).sort(dim=1, stable=True)
    weights = weights.permute(1, 0, 2).reshape(U, M * K).gather(1, order)
    weights = torch.where(ids >= 0, weights, 0.0)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    group = first.cumsum(1) - 1  # in order of id
    sums = torch.zeros_like(weights).scatter_add_(1, group, weights)
    items = torch.full_like(ids, -1).scatter_(1, group, ids)
    # Stable: equal sums in order of id. What no list has comes last.
    best = torch.where(items >= 0, sums, -1.0).sort(dim=1, descending=True, stable=True).indices[:, :k]
    found = items.gather(1, best)
    return torch.nn.functional.pad(found, (0, k - found.shape[1]), value=-1)
