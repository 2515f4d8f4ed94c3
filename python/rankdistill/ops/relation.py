"""The matrix of cosines, inner products or squared distances between rows of one table or of two."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import accumulator_dtype
from rankdistill.ops.registration import LIBRARY, call, differentiate, implement, no_double_backward
from rankdistill.reference import relation as reference

OP = "relation"

LIBRARY.define(f"{OP}_forward(Tensor x, Tensor? y, str kind) -> Tensor")
LIBRARY.define(f"{OP}_backward(Tensor grad, Tensor x, Tensor? y, str kind) -> (Tensor, Tensor)")


@torch.library.register_fake(f"rankdistill::{OP}_forward", lib=LIBRARY)
def _(x, y, kind):
    return x.new_empty((x.shape[0], (x if y is None else y).shape[0]), dtype=accumulator_dtype(x.dtype))


@torch.library.register_fake(f"rankdistill::{OP}_backward", lib=LIBRARY)
def _(grad, x, y, kind):
    return x.new_empty(x.shape), x.new_empty((0 if y is None else y.shape[0], x.shape[1]))


REFERENCE = {"forward": reference.relation_forward, "backward": reference.relation_backward}
implement(OP, "CPU", {"reference": REFERENCE})
implement(OP, "CUDA", {"reference": REFERENCE})


def _setup(ctx, inputs, output):
    x, y, ctx.kind = inputs
    ctx.save_for_backward(x, y)


def _backward(ctx, grad):
    x, y = ctx.saved_tensors
    grad_x, grad_y = call(f"{OP}_backward", grad, x, y, ctx.kind)
    return grad_x, None if y is None else grad_y, None


differentiate(f"{OP}_forward", _backward, _setup)
torch.library.register_autograd(f"rankdistill::{OP}_backward", no_double_backward(OP), lib=LIBRARY)


def check_kind(op: str, kind: str) -> None:
    kinds = ", ".join(reference.KINDS)
    checks.expect(kind in reference.KINDS, op, f"kind as one of {kinds}", repr(kind))


def relation(x: Tensor, y: Tensor | None = None, kind: str = "cosine") -> Tensor:
    """The relation of every row of x to every row of y, or of x itself: the matrix, for those who want to see it.

    relation[i, j] = x_i·y_j / (‖x_i‖‖y_j‖), x_i·y_j, or ‖x_i − y_j‖²

    The losses between two such matrices (`relation_distance` and its kin) never make them.

    Args:
        x: [B, D] float.
        y: [N, D] float of the same dtype; None: x.
        kind: "cosine", "inner_product" or "squared_distance".

    Returns:
        [B, N] float32 (float64 for float64 x), worked in float64 and rounded once.

    Contract:
        A cosine with a row of zeros is 0, with gradient 0. Without y the matrix is exactly symmetric. Coincident rows
        have a squared distance of exactly 0. Non-finite rows give NaN in their own entries only.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes, devices or kind.

    Cost:
        O(B·N·D) time; 8 bytes per entry beside the result.

    Source:
        Kang et al., Topology Distillation for Recommender System, KDD 2021, equation 2 (cosines).

    Example:
        >>> relation(torch.tensor([[3.0, 0.0], [0.0, 5.0], [2.0, 2.0]]))
        tensor([[1.0000, 0.0000, 0.7071],
                [0.0000, 1.0000, 0.7071],
                [0.7071, 0.7071, 1.0000]])
    """
    x, y = checks.alike_under_autocast(x, y)
    checks.expect_tensor(OP, "x", x, 2)
    check_kind(OP, kind)
    if y is not None:
        checks.expect_tensor(OP, "y", y, 2)
        checks.expect_same(OP, "x", x, "y", y)
        checks.expect(y.shape[1] == x.shape[1], OP, f"y of width {x.shape[1]}, as x", y)
    checks.expect_no_forward_ad(OP, x, y)
    return call(f"{OP}_forward", x, y, kind)
