"""What the gates of samplers ask of draws: chance alone fails them less than once in a million times."""

from __future__ import annotations

import torch
from torch import Tensor

SPREADS = 6.0  # standard deviations


def race(weights: Tensor, K: int) -> Tensor:
    """The K first of an exponential race: drawn without replacement in proportion to weights [R, n], in any order."""
    return (weights / torch.empty_like(weights).exponential_()).topk(K, dim=1).indices


def expect_shares(name: str, counts: Tensor, shares: Tensor, trials: int, estimated: bool = False) -> None:
    """Counts [n] of what came up in `trials`, of probabilities `shares` [n]: stated, or seen in as many trials."""
    variance = trials * shares * (1 - shares).clamp_min(0) * (2 if estimated else 1)
    # 20: counts of what is next to never drawn are no normal variates.
    wrong = (counts - trials * shares).abs() > SPREADS * variance.sqrt() + 20
    assert not wrong.any(), f"{name}: not the law, at {wrong.nonzero()[:3].flatten().tolist()}"


def expect_subsets(name: str, drawn: Tensor, weights: Tensor) -> None:
    """Columns drawn [R, K] without replacement in proportion to weights [R, n], in any order, as a float64 race draws."""
    drawn, (R, n) = drawn.to(weights.device), weights.shape
    ordered = drawn.sort(1).values
    assert (ordered.diff(dim=1) > 0).all(), f"{name}: a column twice"
    assert ((ordered[:, 0] >= 0) & (ordered[:, -1] < n)).all(), f"{name}: no column"
    weights = weights.double()
    assert (weights.gather(1, drawn) > 0).all(), f"{name}: a column of weight 0"
    heavier_first = weights.argsort(dim=1, descending=True, stable=True)

    def counts(columns: Tensor) -> Tensor:
        came = torch.zeros_like(weights, dtype=torch.bool).scatter_(1, columns, True)
        return came.gather(1, heavier_first).sum(0)

    expect_shares(name, counts(drawn), counts(race(weights, drawn.shape[1])) / R, R, estimated=True)


def expect_uniform(name: str, uniform: Tensor) -> None:
    """Numbers [..., n] that are uniform in [0, 1], and independent of those beside and below them."""
    ordered, total = uniform.flatten().sort().values, uniform.numel()
    middles = (torch.arange(total, device=ordered.device) + 0.5) / total
    assert (ordered - middles).abs().max() < 3 / total**0.5, f"{name}: not uniform"
    expect_independent(name, (uniform - 0.5) * 12**0.5)


def expect_independent(name: str, standardised: Tensor) -> None:
    """Numbers [..., n] of mean 0 and variance 1 that have nothing to do with those beside and below them."""
    for dim in (-1, -2):
        first, second = (standardised.narrow(dim, at, standardised.shape[dim] - 1) for at in (0, 1))
        spread = SPREADS / first.numel() ** 0.5
        assert (first * second).mean().abs() < spread, f"{name}: not independent"
