"""Ops whose forward gives a scalar loss and, where a gradient is wanted, its slopes: the backward only scales them."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import accumulator_dtype
from rankdistill.ops.registration import LIBRARY, call, differentiate, no_double_backward


def scale_slopes(grad_loss: Tensor, rows: Tensor, slopes: Tensor) -> Tensor:
    """The gradient by `rows`, in their dtype. The same on every device: it is each op's backward."""
    return (grad_loss.to(slopes.dtype) * slopes).to(rows.dtype)


def define_loss(
    op: str, arguments: str, differentiable: tuple[int, ...], tags: tuple[torch.Tag, ...] = ()
) -> None:
    """Schemas, fakes and autograd of `<op>_forward(arguments, bool with_slopes)`, which has the tags, and `<op>_backward`.

    The forward returns the loss and the slopes of each argument at `differentiable`, of no rows without slopes.
    """
    outputs = ", ".join(["Tensor"] * (1 + len(differentiable)))
    LIBRARY.define(f"{op}_forward({arguments}, bool with_slopes) -> ({outputs})", tags=tags)
    LIBRARY.define(f"{op}_backward(Tensor grad_loss, Tensor rows, Tensor slopes) -> Tensor")

    def fake_forward(*inputs):
        first = inputs[differentiable[0]]
        wide = accumulator_dtype(first.dtype)
        shapes = [(inputs[p].shape[0] if inputs[-1] else 0, inputs[p].shape[1]) for p in differentiable]
        return first.new_empty((), dtype=wide), *(first.new_empty(shape, dtype=wide) for shape in shapes)

    def fake_backward(grad_loss, rows, slopes):
        return rows.new_empty(rows.shape)

    def setup(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.with_slopes, ctx.count = inputs[-1], len(inputs)
        ctx.save_for_backward(*(inputs[p] for p in differentiable), *output[1:])

    def backward(ctx, grad_loss, *_):
        if not ctx.with_slopes:
            raise RuntimeError(f"{op}: expected a call with_slopes for a backward; got one without")
        grads: list[Tensor | None] = [None] * ctx.count
        if grad_loss is not None:
            saved = ctx.saved_tensors
            for at, (rows, slopes) in enumerate(zip(saved, saved[len(differentiable) :])):
                if ctx.needs_input_grad[differentiable[at]]:
                    grads[differentiable[at]] = call(f"{op}_backward", grad_loss, rows, slopes)
        return tuple(grads)

    torch.library.register_fake(f"rankdistill::{op}_forward", fake_forward, lib=LIBRARY)
    torch.library.register_fake(f"rankdistill::{op}_backward", fake_backward, lib=LIBRARY)
    differentiate(f"{op}_forward", backward, setup)
    torch.library.register_autograd(f"rankdistill::{op}_backward", no_double_backward(op), lib=LIBRARY)


def weighted_rows(weights: Tensor, rows: Tensor) -> Tensor:
    """[B, W] rows times weights [B]; a row of weight 0 is 0, whatever it was."""
    found, none = weights[:, None] * rows, weights == 0
    return found.masked_fill_(none[:, None], 0) if bool(none.any()) else found


def check_teacher_and_student(op: str, teacher: Tensor, student: Tensor) -> None:
    """Two tables of as many rows, on one device, of any widths and dtypes."""
    checks.expect_tensor(op, "teacher", teacher, 2)
    checks.expect_tensor(op, "student", student, 2)
    checks.expect(
        teacher.device == student.device, op, f"teacher on the device of student ({student.device})", teacher
    )
    checks.expect(
        teacher.shape[0] == student.shape[0], op, f"teacher with {student.shape[0]} rows, as student", teacher
    )
    checks.expect_no_forward_ad(op, teacher, student)
