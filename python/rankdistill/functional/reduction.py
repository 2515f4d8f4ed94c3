"""What all losses of rows share: the dtype that they are worked in, which places of lists count, how rows become one."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import accumulator_dtype

REDUCTIONS = ("sum", "mean", "none")


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the dtype that their sums are worked in: float64 if one is, else float32."""
    dtype = reduce(torch.promote_types, (accumulator_dtype(t.dtype) for t in tensors))
    return tuple(t.to(dtype) for t in tensors)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x). torch's is x itself from 20 on, which in float64 leaves out what its digits still show."""
    return torch.nn.functional.softplus(x, threshold=40 if x.dtype == torch.float64 else 20)


def counted_places(op: str, scores: Tensor, lengths: Tensor | None) -> Tensor | None:
    """[B, K] bool, the first lengths[b] of each row; None for all. An IndexError for a length outside [0, K] (on a CPU, eager)."""
    if lengths is None:
        return None
    B, K = scores.shape
    checks.expect_tensor(op, "lengths", lengths, 1, (torch.int64,))
    checks.expect(len(lengths) == B, op, f"lengths of shape {[B]}", lengths)
    checks.check_given(op, "lengths", lengths, 0, K + 1)
    return torch.arange(K, device=scores.device) < lengths[:, None]


def reduce_rows(op: str, losses: Tensor, counted: Tensor | None, reduction: str) -> Tensor:
    """The sum, the mean over counted rows (0 where there is none), or the rows as they are.

    Args:
        op: whose name an error has.
        losses: the losses of the rows, of any shape.
        counted: bool in their shape, which rows a mean is over; None for all.
        reduction: "sum", "mean" or "none".

    Returns:
        A scalar, or `losses` for "none".

    Raises:
        ValueError: another reduction.

    Cost:
        O(rows).

    Example:
        >>> reduce_rows("mine", torch.tensor([2.0, 0.0]), torch.tensor([True, False]), "mean")
        tensor(2.)
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction != "mean":
        raise ValueError(f"{op}: expected reduction as one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    count = losses.numel() if counted is None else counted.sum()
    return losses.sum() / torch.as_tensor(count, device=losses.device).clamp_min(1)
