"""Which ids of one list stand in another."""

from __future__ import annotations

import torch
from torch import Tensor


def is_in(ids: Tensor, others: Tensor) -> Tensor:
    """[..., K] bool: which ids [..., K] int64 are among others [..., M]; ids below 0 are in nothing.

    Leading dimensions broadcast. O((K + M)·log M) time per row.
    """
    rows = torch.broadcast_shapes(ids.shape[:-1], others.shape[:-1])
    ids = ids.expand(*rows, -1)
    if others.shape[-1] == 0:
        return torch.zeros_like(ids, dtype=torch.bool)
    ordered = others.expand(*rows, -1).sort(dim=-1).values.contiguous()
    at = torch.searchsorted(ordered, ids.contiguous()).clamp_max(others.shape[-1] - 1)
    return (ordered.gather(-1, at) == ids) & (ids >= 0)
