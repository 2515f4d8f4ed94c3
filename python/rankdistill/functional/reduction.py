"""How the losses of rows become one."""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("sum", "mean", "none")


def reduce_rows(op: str, losses: Tensor, counted: Tensor | None, reduction: str) -> Tensor:
    """The sum, the mean over counted rows (0 where there is none), or the rows as they are."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction != "mean":
        raise ValueError(f"{op}: expected reduction as one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    count = losses.numel() if counted is None else counted.sum()
    return losses.sum() / torch.as_tensor(count, device=losses.device).clamp_min(1)
