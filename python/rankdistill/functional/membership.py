"""Which ids of one list stand in another."""

from __future__ import annotations

import torch
from torch import Tensor


def is_in(ids: Tensor, others: Tensor) -> Tensor:
    """[..., K] bool: which ids [..., K] int64 are among others [..., M]; ids below 0 are in nothing.

    Leading dimensions broadcast. O((K + M)·log M) time per row.
    """
    return places_in(ids, others) >= 0


def places_in(ids: Tensor, others: Tensor) -> Tensor:
    """[..., K] int64: where ids [..., K] int64 stand among others [..., M], the first place of each; -1 for nowhere.

    As `is_in`.
    """
    rows = torch.broadcast_shapes(ids.shape[:-1], others.shape[:-1])
    ids = ids.expand(*rows, -1)
    if others.shape[-1] == 0:
        return torch.full_like(ids, -1)
    ordered, places = others.expand(*rows, -1).sort(dim=-1, stable=True)
    at = torch.searchsorted(ordered.contiguous(), ids.contiguous()).clamp_max(others.shape[-1] - 1)
    found = (ordered.gather(-1, at) == ids) & (ids >= 0)
    return places.gather(-1, at).masked_fill(~found, -1)
