"""Which elements dropout keeps: halves of Philox words, eight to a block."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference import philox


def dropout_mask(
    ids: Tensor, n_masks: int, width: int, least: int, seed: int, epoch: int, step: int, stream: int
) -> Tensor:
    blocks = -(-width // 8)
    positions = torch.arange(n_masks * blocks, device=ids.device).view(n_masks, 1, blocks)
    words = philox.words(ids[:, None], positions, epoch, stream, step, seed)
    halves = torch.stack([words & 0xFFFF, words >> 16], -1).flatten(2)
    return (halves >= least)[:, :, :width].contiguous()
