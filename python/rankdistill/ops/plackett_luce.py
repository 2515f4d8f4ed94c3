"""The negative log-likelihood of an order under the Plackett–Luce model, with a tail of unordered competitors."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, native_or
from rankdistill.ops.registration import LIBRARY, implement, no_double_backward
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import plackett_luce as reference

OP = "plackett_luce"

LIBRARY.define(f"{OP}_forward(Tensor scores, Tensor tail, Tensor? lengths) -> Tensor")
LIBRARY.define(
    f"{OP}_backward(Tensor grad_losses, Tensor scores, Tensor tail, Tensor? lengths) -> (Tensor, Tensor)"
)


@torch.library.register_fake(f"rankdistill::{OP}_forward", lib=LIBRARY)
def _(scores, tail, lengths):
    return scores.new_empty(scores.shape[:1], dtype=accumulator_dtype(scores.dtype))


@torch.library.register_fake(f"rankdistill::{OP}_backward", lib=LIBRARY)
def _(grad_losses, scores, tail, lengths):
    return scores.new_empty(scores.shape), tail.new_empty(tail.shape)


def check_lengths(scores: Tensor, lengths: Tensor | None) -> None:
    if lengths is not None:
        checks.check_indices(OP, "lengths", lengths.contiguous(), 0, scores.shape[1] + 1)


def forward_reference(scores, tail, lengths):
    if scores.device.type == "cpu":
        check_lengths(scores, lengths)
    return reference.plackett_luce_forward(scores, tail, lengths)


def backward_reference(grad_losses, scores, tail, lengths):
    if scores.device.type == "cpu":
        check_lengths(scores, lengths)
    return reference.plackett_luce_backward(grad_losses, scores, tail, lengths)


def rows(matrix: Tensor) -> Tensor:
    """The matrix, copied only where a row is not contiguous: rows may lie any distance apart."""
    return matrix if matrix.shape[1] <= 1 or matrix.stride(1) == 1 else matrix.contiguous()


def forward_native(scores, tail, lengths):
    scores, tail = rows(scores), rows(tail)
    lengths = None if lengths is None else lengths.contiguous()
    check_lengths(scores, lengths)
    losses = torch.empty(scores.shape[0], dtype=accumulator_dtype(scores.dtype))
    _native.plackett_luce_forward(
        DTYPE_CODES[scores.dtype], address(scores), scores.stride(0), address(tail), tail.stride(0),
        address(lengths), address(losses), *scores.shape, tail.shape[1],
    )  # fmt: skip
    return losses


def backward_native(grad_losses, scores, tail, lengths):
    wide = accumulator_dtype(scores.dtype)
    scores, tail, grad_losses = rows(scores), rows(tail), grad_losses.to(wide).contiguous()
    lengths = None if lengths is None else lengths.contiguous()
    check_lengths(scores, lengths)
    grad_scores, grad_tail = torch.empty(scores.shape, dtype=wide), torch.empty(tail.shape, dtype=wide)
    _native.plackett_luce_backward(
        DTYPE_CODES[scores.dtype], address(grad_losses), address(scores), scores.stride(0), address(tail),
        tail.stride(0), address(lengths), address(grad_scores), address(grad_tail), *scores.shape, tail.shape[1],
    )  # fmt: skip
    return grad_scores.to(scores.dtype), grad_tail.to(tail.dtype)


REFERENCE = {"forward": forward_reference, "backward": backward_reference}
NATIVE = {"forward": forward_native, "backward": backward_native}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"triton": triton_or(OP, "forward", "backward"), "reference": REFERENCE})


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_losses):
    return *torch.ops.rankdistill.plackett_luce_backward(grad_losses, *ctx.saved_tensors), None


torch.library.register_autograd(f"rankdistill::{OP}_forward", _backward, setup_context=_setup, lib=LIBRARY)
torch.library.register_autograd(f"rankdistill::{OP}_backward", no_double_backward(OP), lib=LIBRARY)


def plackett_luce(scores: Tensor, tail: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
    """The Plackett–Luce negative log-likelihood of each row's order, best first, before an unordered tail.

    losses[b] = Σ_{k < lengths[b]} [ log( Σ_{k ≤ l < lengths[b]} e^scores[b, l] + Σ_u e^tail[b, u] ) − scores[b, k] ]

    Args:
        scores: [B, K] float scores of the listed items, in the order whose likelihood is wanted.
        tail: [B, L] float scores, of the same dtype, of the items below the list, in any order; or [B]: the logs of
            their summed exponentials (a log-mass is one score). -inf is no mass. None: no tail.
        lengths: [B] int64 in [0, K], how many of a row's scores count; None: all K.

    Returns:
        losses [B], float32 (float64 for float64 scores), not reduced.

    Contract:
        Length 0 gives loss 0 and gradient 0. Scores beyond a row's length never matter, whatever they are, and
        have gradient 0. Finite scores of any size give finite losses and gradients. A listed score of -inf above a
        finite one, or above a tail with mass, makes its row's loss +inf and leaves the gradient finite. A NaN or
        +inf, or a normaliser without mass, makes its row's loss and gradient NaN; other rows keep their bits.
        One order of summation per row: the same bits for any number of threads. On CUDA a length out of range
        makes its row NaN, and the Triton kernel takes K up to 4096.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.
        IndexError: a length out of range (CPU).

    Cost:
        O(B·(K + L)) time, forward and backward; no memory beyond the results. Rows may be strided: views of one
        [B, K + L] tensor are not copied.

    Source:
        Kang et al., DE-RRD, CIKM 2020, equation 8 (relaxed ranking distillation); Xia et al., ListMLE, ICML 2008
        (no tail).

    Example:
        >>> plackett_luce(torch.zeros(1, 3)).exp()  # 3! orders, equally likely
        tensor([6.])
    """
    checks.expect_tensor(OP, "scores", scores, 2)
    B, _K = scores.shape
    if tail is None:
        tail = scores.new_empty((B, 0))
    elif isinstance(tail, Tensor) and tail.dim() == 1:
        tail = tail[:, None]
    checks.expect_tensor(OP, "tail", tail, 2)
    checks.expect_same(OP, "scores", scores, "tail", tail)
    checks.expect(tail.shape[0] == B, OP, f"tail with {B} rows, as scores", tail)
    if lengths is not None:
        checks.expect_tensor(OP, "lengths", lengths, 1, (torch.int64,))
        checks.expect(
            lengths.device == scores.device, OP, f"lengths on the device of scores ({scores.device})", lengths
        )
        checks.expect(lengths.shape[0] == B, OP, f"lengths with {B} entries, as scores has rows", lengths)
    checks.expect_no_forward_ad(OP, scores, tail)
    return torch.ops.rankdistill.plackett_luce_forward(scores, tail, lengths)
