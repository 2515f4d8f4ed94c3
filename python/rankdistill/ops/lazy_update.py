"""Optimiser steps on the touched rows of a table, in place, for rankdistill.optim."""

from __future__ import annotations

import torch

from rankdistill.ops import checks
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, native_or
from rankdistill.ops.registration import LIBRARY, implement
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import lazy_update as reference

OP = "lazy_update"

LIBRARY.define(
    f"{OP}_adam(Tensor(a!) table, Tensor(b!) means, Tensor(c!) squares, Tensor ids, Tensor grads, float beta1,"
    " float beta2, float step_size, float eps) -> ()"
)
LIBRARY.define(
    f"{OP}_sgd(Tensor(a!) table, Tensor(b!) marks, Tensor ids, Tensor grads, float rate, float kept, float log_decay,"
    " float log_decay_after) -> ()"
)
LIBRARY.define(f"{OP}_catch_up(Tensor(a!) table, Tensor(b!) marks, Tensor? ids, float log_decay) -> ()")


def width_of(table: torch.Tensor) -> int:
    return table[:1].numel() if len(table) else 0


def expect_steps(table: torch.Tensor, ids: torch.Tensor, grads: torch.Tensor, **states: torch.Tensor) -> None:
    """Contiguous tensors of the shapes that go with the table, whose pointers know neither; ids that are its rows."""
    wide = accumulator_dtype(table.dtype)
    checks.expect_layout(OP, table=(table, table.shape, table.dtype))
    checks.expect_layout(OP, **{name: (state, table.shape, wide) for name, state in states.items()})
    checks.expect_layout(OP, grads=(grads, (len(ids), *table.shape[1:]), table.dtype))
    checks.check_indices(OP, "ids", ids, 0, len(table))


def adam_native(table, means, squares, ids, grads, beta1, beta2, step_size, eps):
    ids, grads = ids.contiguous(), grads.contiguous()
    expect_steps(table, ids, grads, means=means, squares=squares)
    _native.lazy_adam_step(
        DTYPE_CODES[table.dtype], address(table), address(means), address(squares), address(ids), address(grads),
        len(ids), width_of(table), beta1, beta2, step_size, eps,
    )  # fmt: skip


def sgd_native(table, marks, ids, grads, rate, kept, log_decay, log_decay_after):
    ids, grads = ids.contiguous(), grads.contiguous()
    expect_steps(table, ids, grads)
    checks.expect_layout(OP, marks=(marks, (len(table),), torch.float64))
    _native.lazy_sgd_step(
        DTYPE_CODES[table.dtype], address(table), address(marks), address(ids), address(grads), len(ids),
        width_of(table), rate, kept, log_decay, log_decay_after,
    )  # fmt: skip


def catch_up_native(table, marks, ids, log_decay):
    checks.expect_layout(
        OP, table=(table, table.shape, table.dtype), marks=(marks, (len(table),), torch.float64)
    )
    if ids is not None:
        ids = ids.contiguous()
        checks.check_indices(OP, "ids", ids, -1, len(table))
    _native.decay_catch_up(
        DTYPE_CODES[table.dtype], address(table), address(marks), address(ids),
        len(table) if ids is None else ids.numel(), width_of(table), log_decay,
    )  # fmt: skip


REFERENCE = {
    "adam": reference.lazy_adam_step,
    "sgd": reference.lazy_sgd_step,
    "catch_up": reference.decay_catch_up,
}
NATIVE = {"adam": adam_native, "sgd": sgd_native, "catch_up": catch_up_native}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
TRITON = triton_or(OP, "adam", "sgd", "catch_up")
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})
