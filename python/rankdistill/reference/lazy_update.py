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


def missed_decay(
    table: Tensor, marks: Tensor | None, ids: Tensor, log_decay: float, kept: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(whole, part) [M, 1, ...], by which rows become whole·row − part·row: whole − part is the factor they still miss.

    Near 1 it is the factor's distance from 1 that is rounded to the table's dtype, not the factor.
    """
    since = torch.zeros(len(ids), dtype=torch.float64, device=table.device)
    factor = kept * (since if marks is None else log_decay - marks[ids]).exp()
    factor = factor.view(-1, *(1,) * (table.dim() - 1))
    whole = (factor >= 0.5).double()
    return whole.to(table.dtype), (whole - factor).to(table.dtype)


def lazy_sgd_step(
    table: Tensor, marks: Tensor | None, ids: Tensor, grads: Tensor, rate: float, kept: float, log_decay: float,
    log_decay_after: float,
) -> None:  # fmt: skip
    """Without marks no row has missed any decay."""
    rows = table[ids]
    whole, part = missed_decay(table, marks, ids, log_decay, kept)
    table.index_copy_(0, ids, whole * rows - (part * rows + rate * grads))
    if marks is not None:
        marks[ids] = log_decay_after


def decay_catch_up(table: Tensor, marks: Tensor, ids: Tensor | None, log_decay: float) -> None:
    """Ids may repeat here, -1 is none; None stands for every row."""
    ids = torch.arange(len(table), device=table.device) if ids is None else torch.unique(ids[ids >= 0])
    rows = table[ids]
    whole, part = missed_decay(table, marks, ids, log_decay)
    table.index_copy_(0, ids, whole * rows - part * rows)
    marks[ids] = log_decay
