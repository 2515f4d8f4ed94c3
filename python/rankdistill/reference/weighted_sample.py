"""The `n_samples` first of an exponential race, ascending: draws without replacement in proportion to weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference import philox

SMALLEST = torch.finfo(torch.float64).tiny  # smaller weights are never drawn


def weighted_sample(
    users: Tensor, weights: Tensor, n_samples: int, seed: int, epoch: int, stream: int
) -> Tensor:
    R, M = weights.shape
    blocks = torch.arange((M + 3) // 4, device=users.device)
    words = philox.words(users[:, None], blocks, epoch, stream, 0, seed).flatten(1)[:, :M]
    wide = weights.double()
    malformed = ~((wide >= 0) & (wide < torch.inf)).all(1, keepdim=True)
    drawable = (wide >= SMALLEST) & ~malformed
    keys = wide.clamp(2.0**-1000, 2.0**990) / philox.exponential(words)
    keys = keys.masked_fill(~drawable, -torch.inf)
    best = keys.sort(dim=1, descending=True, stable=True).indices[:, :n_samples]
    best = torch.where(drawable.gather(1, best), best, M).sort(dim=1).values
    samples = torch.full((R, n_samples), -1, dtype=torch.int64, device=users.device)
    samples[:, : best.shape[1]] = best.masked_fill(best == M, -1)
    return samples
