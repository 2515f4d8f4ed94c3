"""Users and items of a batch as their vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rankdistill.losses.batch import Share


class Entities(NamedTuple):
    """Unique users or items of a batch, with their vectors.

    side "user" or "item"; ids [n] int64; teacher [n, D_t]; student [n, D_s]; weights [n]; part [n] int64, which of
    positives (0) and negatives (1) a row stands for.
    """

    side: str
    ids: Tensor
    teacher: Tensor
    student: Tensor
    weights: Tensor
    part: Tensor


def learning_own(read: Callable[[Tensor], Tensor], ids: Tensor, share: Share) -> Tensor:
    """[n, D] the vectors of ids [n]: those of the share's rows with gradients, the others as they are."""
    own = share.of(len(ids))
    with torch.no_grad():
        before, after = read(ids[: own.start]), read(ids[own.stop :])
    return torch.cat([before, read(ids[own]), after])
