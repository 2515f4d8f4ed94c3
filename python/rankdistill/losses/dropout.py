"""Dropout, and other noise, that a resumed run repeats."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.sampling import epoch_seed


class EpochDropout:
    """Dropout whose draws depend on the seed, the epoch and the order of calls in it alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator = torch.Generator()

    def begin(self, epoch: int, device: torch.device) -> None:
        if self._generator.device != device:
            self._generator = torch.Generator(device)
        self._generator.manual_seed(epoch_seed(self.seed, epoch))

    def factors(
        self, shape: tuple[int, ...], share_dropped: float, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """0, or 1 over the share that is kept."""
        device = self._generator.device
        if share_dropped == 0:
            return torch.ones(shape, dtype=dtype, device=device)
        drawn = torch.rand(shape, generator=self._generator, device=device)
        return (drawn >= share_dropped).to(dtype) / max(1 - share_dropped, 1e-12)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal variates."""
        return torch.randn(shape, generator=self._generator, device=self._generator.device)
