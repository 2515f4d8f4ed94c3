"""The `n_samples` best of log-weight plus Gumbel noise, positions ascending: a draw without replacement."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference import philox


def position_sample(
    users: Tensor, lengths: Tensor, n_samples: int, temperature: float, seed: int, epoch: int, stream: int
) -> Tensor:
    R, longest = users.shape[0], int(lengths.max()) if users.shape[0] else 0
    position = torch.arange(longest, device=users.device)
    words = philox.words(
        users[:, None], torch.arange((longest + 3) // 4, device=users.device), epoch, stream, 0, seed
    )
    gumbel = philox.gumbel(words.flatten(1)[:, :longest])
    keys = gumbel - (position + 1).double() / temperature
    keys = keys.masked_fill(position >= lengths[:, None], -torch.inf)
    best = keys.sort(dim=1, descending=True, stable=True).indices[:, :n_samples]
    best = torch.where(best < lengths[:, None], best, longest).sort(dim=1).values
    samples = torch.full((R, n_samples), -1, dtype=torch.int64, device=users.device)
    samples[:, : best.shape[1]] = best.masked_fill(best == longest, -1)
    return samples
