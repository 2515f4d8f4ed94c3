"""Rows of a table picked by ids, beside another op that the table goes to: its gradient is one, dense or coalesced."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

from rankdistill.ops.touched_rows import as_sparse, coalesce_rows


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, ids):
        ctx.save_for_backward(ids)
        ctx.shape = table.shape
        return table.index_select(0, ids)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        touched, rows = torch.ops.rankdistill.coalesce_rows(*ctx.saved_tensors, grad, ctx.shape[0])
        return as_sparse(touched, rows, ctx.shape), None


def table_rows(table: Tensor, ids: Tensor) -> Tensor:
    """table[ids] of ids [n] in range, for a table of `shared`: its gradient is sparse."""
    if torch.compiler.is_compiling():  # which cannot know how many rows are touched
        return embedding(ids, table.reshape(len(table), -1)).reshape(len(ids), *table.shape[1:])
    return _Rows.apply(table, ids)


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table):
        ctx.set_materialize_grads(False)
        return table.view_as(table), table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, of_rows):
        if grad is None or of_rows is None:
            return of_rows if grad is None else grad
        if not of_rows.is_sparse:
            return grad + of_rows
        ids, rows = coalesce_rows(of_rows)
        if not grad.is_sparse:
            return grad.index_add_(0, ids, rows)  # nobody else has it
        own_ids, own = coalesce_rows(grad)
        touched = torch.cat([own_ids, ids]).unique()
        joined, places = own.new_empty((len(touched), *own.shape[1:])), torch.searchsorted(touched, ids)
        joined.index_fill_(0, places, 0)
        joined.index_copy_(0, torch.searchsorted(touched, own_ids), own)
        joined.index_add_(0, places, rows)
        return as_sparse(touched, joined, grad.shape)


def shared(table: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The table for an op of its own, whose gradient may be sparse, and for `table_rows`."""
    if table is None or not table.requires_grad or torch.compiler.is_compiling():
        return table, table
    return _Shared.apply(table)
