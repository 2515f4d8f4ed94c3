"""Gradients of touched rows alone: which rows a list of ids names, and a table cut down to them."""

from __future__ import annotations

import torch
from torch import Tensor


def compacted(ids: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """The distinct ids of a table's rows, ascending [M], and `ids` as positions among them.

    -1 stays -1; what is out of range stays so (M).
    """
    known = (ids >= 0) & (ids < n_rows)
    touched, positions = torch.unique(ids[known], return_inverse=True)
    compact = torch.where(ids == -1, -1, len(touched))
    compact[known] = positions
    return touched, compact


def coalesce_rows(ids: Tensor, rows: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    touched, compact = compacted(ids, n_rows)
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    sums = torch.zeros((len(touched), *rows.shape[1:]), dtype=wide, device=rows.device)
    if len(touched):
        sums.index_put_((compact,), rows.to(wide), accumulate=True)
    return touched, sums.to(rows.dtype)
