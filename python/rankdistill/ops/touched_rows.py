"""Gradients of touched rows alone: sorting ids, adding up what belongs to each, and what autograd gets of it."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, native_or
from rankdistill.ops.registration import LIBRARY, implement
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import touched_rows as reference

OP = "coalesce_rows"

LIBRARY.define(f"{OP}(Tensor ids, Tensor rows, int n_rows) -> (Tensor, Tensor)")


def occurrences(ids: Tensor, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of ids [n] int64 in [-1, n_rows), contiguous, on the CPU: the distinct ones, ascending [M]; where each occurs,
    by id and then by position; and where each one's occurrences begin [M + 1]. -1 occurs nowhere."""
    order, touched, starts = (torch.empty(ids.numel() + extra, dtype=torch.int64) for extra in (0, 0, 1))
    found = _native.touched_rows(
        address(ids), ids.numel(), n_rows, address(order), address(touched), address(starts)
    )
    return touched[:found].clone(), order, starts


def sum_rows(rows: Tensor, order: Tensor, starts: Tensor, n_touched: int) -> Tensor:
    """[M, ...] the rows [n, ...] of each touched id added up, in the accumulator's dtype."""
    sums = torch.empty((n_touched, *rows.shape[1:]), dtype=accumulator_dtype(rows.dtype))
    _native.sum_touched_rows(
        DTYPE_CODES[rows.dtype], address(rows), address(order), address(starts), address(sums), n_touched,
        rows[:1].numel() if len(rows) else 0,
    )  # fmt: skip
    return sums


def coalesce_native(ids, rows, n_rows):
    ids, rows = ids.contiguous(), rows.contiguous()
    checks.check_indices(OP, "ids", ids, 0, n_rows)
    touched, order, starts = occurrences(ids, n_rows)
    return touched, sum_rows(rows, order, starts, len(touched)).to(rows.dtype)


REFERENCE = {"": reference.coalesce_rows}
NATIVE = {"": coalesce_native}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
LAUNCHERS = triton_or("touched_rows", "coalesce")
TRITON = {"": LAUNCHERS["coalesce"]} if isinstance(LAUNCHERS, dict) else LAUNCHERS
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def coalesce_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The touched rows of a sparse gradient, ascending [M], and their values [M, ...]; sums in the order given."""
    ids, rows = gradient._indices()[0], gradient._values()
    if gradient.is_coalesced() or ascending(ids, gradient.shape[0]):
        return ids, rows
    return torch.ops.rankdistill.coalesce_rows(ids, rows, gradient.shape[0])


def ascending(ids: Tensor, n_rows: int) -> bool:
    """Whether ids [n] on the CPU are distinct, ascending and in range: a coalesced gradient's, of which autograd drops the
    mark where it has nothing to add to it. On a device the host would have to wait for the answer."""
    if ids.is_cuda or not len(ids) or not 0 <= int(ids[0]) <= int(ids[-1]) < n_rows:
        return False
    return bool((ids[1:] > ids[:-1]).all())


def as_sparse(touched: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """A coalesced sparse tensor of a table's shape from distinct ascending ids and their rows."""
    return torch.sparse_coo_tensor(touched[None], rows, shape, is_coalesced=True, check_invariants=False)


def expect_eager(op: str, sparse_grad: bool) -> None:
    """For fake functions: a gradient has as many rows as are touched, which a compiled graph cannot know."""
    if sparse_grad:
        raise RuntimeError(
            f"{op}: expected sparse_grad in eager mode only; got torch.compile. Choose a dense gradient there"
        )
