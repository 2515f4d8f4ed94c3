"""Users and items of a batch as their vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
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


def expect_tables(
    method: str, **tables: Tensor | np.ndarray | torch.nn.Module
) -> Iterator[tuple[str, Tensor]]:
    """A teacher's tables [n, D_t] by name, as frozen tensors of one width; arrays and embedding layers are tables too."""
    width = None
    for name, table in tables.items():
        held = table if isinstance(table, (Tensor, np.ndarray)) else getattr(table, "weight", None)
        if held is None:
            expected = f"{name} as a tensor, an array or an embedding layer"
            raise TypeError(f"{method}: expected {expected}; got {type(table).__name__}")
        held = torch.as_tensor(held).detach()
        if not held.is_floating_point():
            raise TypeError(f"{method}: expected {name} of floats; got {held.dtype}")
        width = held.shape[-1] if width is None and held.dim() else width
        if held.dim() != 2 or held.shape[1] != width:
            raise ValueError(
                f"{method}: expected {name} of two dimensions and one width; got {list(held.shape)}"
            )
        yield name, held


def learning_own(read: Callable[[Tensor], Tensor], ids: Tensor, share: Share) -> Tensor:
    """[n, D] the vectors of ids [n]: those of the share's rows with gradients, the others as they are."""
    own = share.of(len(ids))
    with torch.no_grad():
        before, after = read(ids[: own.start]), read(ids[own.stop :])
    return torch.cat([before, read(ids[own]), after])
