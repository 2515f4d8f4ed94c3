"""relation[i, j] of rows x_i and y_j: the cosine x·y/(|x||y|), 0 with a zero row; the inner product x·y; or |x − y|².

Always worked in float64. `unit_rows` is what every relation of cosines is made of.
"""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("cosine", "inner_product", "squared_distance")


def unit_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of length 1 [B, D] and the reciprocals of their lengths [B, 1], in float64; both 0 for a row of zeros."""
    wide = x.double()
    if x.dtype == torch.float64 and x.shape[1]:
        # Squares of narrower numbers neither overflow nor vanish in float64; these might.
        largest = wide.abs().amax(1, keepdim=True)
        largest = torch.where(largest == 0, 1.0, largest)
        unit, inverse = normalised(wide / largest)
        return unit, inverse / largest
    return normalised(wide)


def normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    inverse = inverse_lengths(x)
    return x * inverse, inverse


def inverse_lengths(x: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.where(norms == 0, 0.0, 1 / norms)


def through_unit_rows(grad: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """The gradient by rows, given that by their unit rows: (grad − unit (unit · grad)) / length."""
    return (grad - unit * (unit * grad).sum(1, keepdim=True)) * inverse


def relation_forward(x: Tensor, y: Tensor | None, kind: str) -> Tensor:
    other = x if y is None else y
    if kind == "squared_distance":
        matrix = torch.cdist(x.double(), other.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2
    elif kind == "cosine":
        unit = unit_rows(x)[0]
        matrix = unit @ (unit if y is None else unit_rows(y)[0]).t()
    else:
        matrix = x.double() @ other.double().t()
    if y is None:
        matrix = (
            matrix.triu() + matrix.triu(1).t()
        )  # a product may differ in its last bit across the diagonal
    return matrix.to(torch.float64 if x.dtype == torch.float64 else torch.float32, copy=True)


def asked_about(rows: Tensor, grad: Tensor) -> Tensor:
    """Rows [B, D], zeros where all of a row of grad [B, N] is 0: whatever stands there has no part in a gradient."""
    return torch.where((grad != 0).any(1, keepdim=True), rows, 0)


def relation_backward(grad: Tensor, x: Tensor, y: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:
    grad = grad.double()
    if y is None:
        grad = grad + grad.t()
    other = x if y is None else y
    x, other = asked_about(x, grad), asked_about(other, grad.t())
    if kind == "squared_distance":
        if y is None:
            grad = grad - grad.diag().diag()
        # Measured from one of the rows: far from the origin the two products would cancel.
        origin = other[:1].double().nan_to_num(0, 0, 0).sum(0)  # zeros where there is no row
        wide, wide_other = x.double() - origin, other.double() - origin
        grad_x = 2 * (grad.sum(1, keepdim=True) * wide - grad @ wide_other)
        grad_y = 2 * (grad.sum(0)[:, None] * wide_other - grad.t() @ wide)
    elif kind == "cosine":
        (unit, inverse), (unit_y, inverse_y) = unit_rows(x), unit_rows(other)
        grad_x = through_unit_rows(grad @ unit_y, unit, inverse)
        grad_y = through_unit_rows(grad.t() @ unit, unit_y, inverse_y)
    else:
        grad_x, grad_y = grad @ other.double(), grad.t() @ x.double()
    grads = grad_x, grad_y if y is not None else grad_y[:0]
    return tuple(grad.to(x.dtype).contiguous() for grad in grads)
