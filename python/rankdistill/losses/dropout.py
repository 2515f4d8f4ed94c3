"""Dropout, and other noise, that a resumed run repeats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankdistill.sampling import epoch_seed


def in_sixteen_bits(share: float) -> float:
    """The share of 2^16 equally likely draws that is nearest."""
    return round(share * 2**16) / 2**16


class EpochDropout:
    """Dropout whose draws depend on the seed, the epoch and the order of calls in it alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator = torch.Generator()

    def begin(self, epoch: int, device: torch.device) -> None:
        if self._generator.device != device:
            self._generator = torch.Generator(device)
        self._generator.manual_seed(epoch_seed(self.seed, epoch))

    def kept(self, shape: tuple[int, ...], share_dropped: float) -> Tensor:
        """Which are kept, as bool: 16 random bits each, so that what is dropped is `in_sixteen_bits` of the share."""
        device, count, last = self._generator.device, math.prod(shape), round(share_dropped * 2**16)
        if last == 0:
            return torch.ones(shape, dtype=torch.bool, device=device)
        bits = torch.empty((count + 3) // 4, dtype=torch.int64, device=device)
        bits.random_(-(2**63), None, generator=self._generator)
        return (bits.view(torch.int16)[:count] > last - 1 - 2**15).view(shape)

    def factors(self, shape: tuple[int, ...], share_dropped: float) -> Tensor:
        """0, or 1 over the share that is kept."""
        device = self._generator.device
        if share_dropped == 0:
            return torch.ones(shape, device=device)
        drawn = torch.rand(shape, generator=self._generator, device=device)
        return (drawn >= share_dropped) / max(1 - share_dropped, 1e-12)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal variates."""
        return torch.randn(shape, generator=self._generator, device=self._generator.device)
