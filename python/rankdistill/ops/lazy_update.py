"""Optimiser steps on the touched rows of a table, in place, for rankdistill.optim."""

from __future__ import annotations

import torch

from rankdistill.ops import checks
from rankdistill.ops.native import DTYPE_CODES, _native, address, native_or
from rankdistill.ops.registration import LIBRARY, Unavailable, implement
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import lazy_update as reference

OP = "lazy_update"

LIBRARY.define(
    f"{OP}_adam(Tensor(a!) table, Tensor(b!) means, Tensor(c!) squares, Tensor ids, Tensor grads, float beta1,"
    " float beta2, float step_size, float eps) -> ()"
)
LIBRARY.define(
    f"{OP}_sgd(Tensor(a!) table, Tensor(b!)? marks, Tensor ids, Tensor grads, float rate, float kept, float log_decay,"
    " float log_decay_after) -> ()"
)
LIBRARY.define(f"{OP}_catch_up(Tensor(a!) table, Tensor(b!) marks, Tensor? ids, float log_decay) -> ()")


def width_of(table: torch.Tensor) -> int:
    return table[:1].numel() if len(table) else 0


def row_ids(ids: torch.Tensor) -> torch.Tensor:
    """The same ids as kernels read them: int64 and contiguous."""
    if not isinstance(ids, torch.Tensor) or ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{OP}: expected ids as an int64 or int32 tensor; got {checks.describe(ids)}")
    return ids.to(torch.int64).contiguous()


def expect_rows(table: torch.Tensor, ids: torch.Tensor | None, lowest: int, **beside: tuple) -> None:
    """What addresses do not tell: `beside` are tensors with the shape and dtype that go with the table; ids are its rows."""
    if table.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{OP}: expected table as a float32 or float64 tensor; got {checks.describe(table)}")
    checks.expect(table.dim() >= 1, OP, "table of one dimension or more", table)
    for name, tensor in {"ids": ids, **{name: tensor for name, (tensor, *_) in beside.items()}}.items():
        if tensor is not None and tensor.device != table.device:
            checks.expect(False, OP, f"{name} on the device of table ({table.device})", tensor)
    checks.expect_layout(OP, table=(table, table.shape, table.dtype), **beside)
    if ids is not None:
        checks.check_given(OP, "ids", ids, lowest, len(table))


def marks_of(table: torch.Tensor, marks: torch.Tensor | None) -> dict[str, tuple]:
    return {} if marks is None else {"marks": (marks, table.shape[:1], torch.float64)}


def checked(functions: dict | Unavailable) -> dict | Unavailable:
    """The same functions of arguments that were checked before anything is written."""
    if isinstance(functions, Unavailable):
        return functions

    def step(table, ids, grads, **beside):
        ids, grads = row_ids(ids), grads.contiguous()
        checks.expect(ids.dim() == 1, OP, "ids with 1 dimension", ids)
        beside["grads"] = (grads, (*ids.shape, *table.shape[1:]), table.dtype)
        expect_rows(table, ids, 0, **beside)
        return ids, grads

    def adam(table, means, squares, ids, grads, *settings):
        states = {"means": (means, table.shape, table.dtype), "squares": (squares, table.shape, table.dtype)}
        functions["adam"](table, means, squares, *step(table, ids, grads, **states), *settings)

    def sgd(table, marks, ids, grads, *settings):
        functions["sgd"](table, marks, *step(table, ids, grads, **marks_of(table, marks)), *settings)

    def catch_up(table, marks, ids, log_decay):
        ids = None if ids is None else row_ids(ids)
        expect_rows(table, ids, -1, **marks_of(table, marks))
        functions["catch_up"](table, marks, ids, log_decay)

    return {"adam": adam, "sgd": sgd, "catch_up": catch_up}


def adam_native(table, means, squares, ids, grads, beta1, beta2, step_size, eps):
    _native.lazy_adam_step(
        DTYPE_CODES[table.dtype], address(table), address(means), address(squares), address(ids), address(grads),
        len(ids), width_of(table), beta1, beta2, step_size, eps,
    )  # fmt: skip


def sgd_native(table, marks, ids, grads, rate, kept, log_decay, log_decay_after):
    _native.lazy_sgd_step(
        DTYPE_CODES[table.dtype], address(table), address(marks), address(ids), address(grads), len(ids),
        width_of(table), rate, kept, log_decay, log_decay_after,
    )  # fmt: skip


def catch_up_native(table, marks, ids, log_decay):
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
implement(OP, "CPU", {"native": checked(native_or(NATIVE)), "reference": checked(REFERENCE)})
TRITON = triton_or(OP, "adam", "sgd", "catch_up")
implement(OP, "CUDA", {"triton": checked(TRITON), "reference": checked(REFERENCE)})
