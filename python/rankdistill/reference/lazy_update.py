"""Optimiser steps that read and write the touched rows of a table alone, in place; ids [M] are distinct."""

from __future__ import annotations

import torch
from torch import Tensor


def lazy_adam_step(
    table: Tensor, means: Tensor, squares: Tensor, ids: Tensor, grads: Tensor, beta1: float, beta2: float,
    step_size: float, eps: float,
) -> None:  # fmt: skip
    mean, square = means[ids], squares[ids]
    mean += (grads - mean) * (1 - beta1)
    square += (grads * grads - square) * (1 - beta2)
    means.index_copy_(0, ids, mean)
    squares.index_copy_(0, ids, square)
    table.index_copy_(0, ids, table[ids] - step_size * (mean / (square.sqrt() + eps)))


def missed_decay(table: Tensor, marks: Tensor, ids: Tensor, log_decay: float) -> Tensor:
    """What the rows still have to be multiplied by, [M, 1, ...] in fp64."""
    return (log_decay - marks[ids]).exp().view(-1, *(1,) * (table.dim() - 1))


def lazy_sgd_step(
    table: Tensor, marks: Tensor, ids: Tensor, grads: Tensor, rate: float, kept: float, log_decay: float,
    log_decay_after: float,
) -> None:  # fmt: skip
    factor = (kept * missed_decay(table, marks, ids, log_decay)).to(table.dtype)
    table.index_copy_(0, ids, table[ids] * factor - rate * grads)
    marks[ids] = log_decay_after


def decay_catch_up(table: Tensor, marks: Tensor, ids: Tensor | None, log_decay: float) -> None:
    """Ids may repeat here, those below 0 are none; None stands for every row."""
    ids = torch.arange(len(table), device=table.device) if ids is None else torch.unique(ids[ids >= 0])
    factor = missed_decay(table, marks, ids, log_decay).to(table.dtype)
    table.index_copy_(0, ids, table[ids] * factor)
    marks[ids] = log_decay
