"""Standard Gumbel variates of ids: their Philox words, four to a block."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference import philox

# Where the second of two parts that share ids draws.
PART = 1 << 20


def gumbel_noise(
    ids: Tensor, parts: Tensor | None, count: int, seed: int, epoch: int, step: int, stream: int
) -> Tensor:
    positions = torch.arange(-(-count // 4), device=ids.device)
    if parts is not None:
        positions = positions + (parts * PART)[:, None]
    words = philox.words(ids[:, None], positions, epoch, stream, step, seed)
    return philox.gumbel(words).flatten(1)[:, :count].contiguous()
