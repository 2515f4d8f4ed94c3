"""The negative log-likelihood of an order under the Plackett–Luce model, with a tail of unordered competitors."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, native_or
from rankdistill.ops.registration import (
    LIBRARY,
    asks_gradients,
    call,
    differentiate,
    implement,
    no_double_backward,
)
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import plackett_luce as reference

OP = "plackett_luce"

LIBRARY.define(
    f"{OP}_forward(Tensor scores, Tensor tail, Tensor? lengths, bool with_slopes) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    f"{OP}_backward(Tensor grad_losses, Tensor scores, Tensor tail, Tensor? lengths, Tensor slopes,"
    " Tensor tail_terms) -> (Tensor, Tensor)"
)


@torch.library.register_fake(f"rankdistill::{OP}_forward", lib=LIBRARY)
def _(scores, tail, lengths, with_slopes):
    wide = accumulator_dtype(scores.dtype)
    return scores.new_empty(scores.shape[:1], dtype=wide), *empty_slopes(scores, with_slopes)


@torch.library.register_fake(f"rankdistill::{OP}_backward", lib=LIBRARY)
def _(grad_losses, scores, tail, lengths, slopes, tail_terms):
    return scores.new_empty(scores.shape), tail.new_empty(tail.shape)


def empty_slopes(scores: Tensor, with_slopes: bool) -> tuple[Tensor, Tensor]:
    """What a forward keeps: slopes of the lists [B, K], and of each tail top and scale [B, 2]. CUDA keeps nothing."""
    (B, K), wide = scores.shape, accumulator_dtype(scores.dtype)
    rows = B if with_slopes and scores.device.type != "cuda" else 0
    return scores.new_empty((rows, K), dtype=wide), scores.new_empty((rows, 2), dtype=wide)


def check_lengths(scores: Tensor, lengths: Tensor | None) -> None:
    if lengths is not None:
        checks.check_indices(OP, "lengths", lengths.contiguous(), 0, scores.shape[1] + 1)


def forward_reference(scores, tail, lengths, with_slopes):
    slopes, tail_terms = empty_slopes(scores, with_slopes)
    if scores.device.type == "cpu":
        check_lengths(scores, lengths)
        if with_slopes:
            slopes, *terms = (
                t.to(slopes.dtype) for t in reference.plackett_luce_slopes(scores, tail, lengths)
            )
            tail_terms = torch.stack(terms, 1)
    return reference.plackett_luce_forward(scores, tail, lengths), slopes, tail_terms


def backward_reference(grad_losses, scores, tail, lengths, slopes, tail_terms):
    if scores.device.type == "cpu":
        check_lengths(scores, lengths)
    return reference.plackett_luce_backward(grad_losses, scores, tail, lengths)


def rows(matrix: Tensor) -> Tensor:
    """The matrix, copied only where a row is not contiguous: rows may lie any distance apart."""
    return matrix if matrix.shape[1] <= 1 or matrix.stride(1) == 1 else matrix.contiguous()


def forward_native(scores, tail, lengths, with_slopes):
    scores, tail = rows(scores), rows(tail)
    lengths = None if lengths is None else lengths.contiguous()
    check_lengths(scores, lengths)
    losses = torch.empty(scores.shape[0], dtype=accumulator_dtype(scores.dtype))
    slopes, tail_terms = empty_slopes(scores, with_slopes)
    _native.plackett_luce_forward(
        DTYPE_CODES[scores.dtype], address(scores), scores.stride(0), address(tail), tail.stride(0),
        address(lengths), address(losses), address(slopes) if with_slopes else 0,
        address(tail_terms) if with_slopes else 0, *scores.shape, tail.shape[1],
    )  # fmt: skip
    return losses, slopes, tail_terms


def backward_native(grad_losses, scores, tail, lengths, slopes, tail_terms):
    wide = accumulator_dtype(scores.dtype)
    tail, grad_losses = rows(tail), grad_losses.to(wide).contiguous()
    lengths = None if lengths is None else lengths.contiguous()
    check_lengths(scores, lengths)
    slopes, tail_terms = slopes.contiguous(), tail_terms.contiguous()
    (B, _), terms = scores.shape, empty_slopes(scores, True)[1].shape
    checks.expect_layout(
        OP, grad_losses=(grad_losses, (B,), wide), slopes=(slopes, scores.shape, slopes.dtype),
        tail_terms=(tail_terms, terms, tail_terms.dtype),
    )  # fmt: skip
    grad_scores, grad_tail = torch.empty(scores.shape, dtype=wide), torch.empty(tail.shape, dtype=wide)
    _native.plackett_luce_backward(
        DTYPE_CODES[scores.dtype], address(grad_losses), address(tail), tail.stride(0), address(lengths),
        address(slopes), address(tail_terms), address(grad_scores), address(grad_tail), *scores.shape,
        tail.shape[1],
    )  # fmt: skip
    return grad_scores.to(scores.dtype), grad_tail.to(tail.dtype)


def triton_kernels():
    """The Triton launchers, whose backward works everything out again: a kernel's reads cost more than its sums."""
    launchers = triton_or(OP, "forward", "backward")
    if not isinstance(launchers, dict):
        return launchers

    def forward(scores, tail, lengths, with_slopes):
        return launchers["forward"](scores, tail, lengths), *empty_slopes(scores, with_slopes)

    def backward(grad_losses, scores, tail, lengths, slopes, tail_terms):
        return launchers["backward"](grad_losses, scores, tail, lengths)

    return {"forward": forward, "backward": backward}


REFERENCE = {"forward": forward_reference, "backward": backward_reference}
NATIVE = {"forward": forward_native, "backward": backward_native}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
TRITON = triton_kernels()
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def _setup(ctx, inputs, output):
    *tensors, ctx.with_slopes = inputs
    _, slopes, tail_terms = output
    ctx.mark_non_differentiable(slopes, tail_terms)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, slopes, tail_terms)


def _backward(ctx, grad_losses, *_):
    if not ctx.with_slopes:
        raise RuntimeError(f"{OP}: expected a call with_slopes for a backward; got one without")
    if grad_losses is None:
        return (None,) * 4
    return *call(f"{OP}_backward", grad_losses, *ctx.saved_tensors), None, None


differentiate(f"{OP}_forward", _backward, _setup)
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
        O(B·(K + L)) time, forward and backward; B·(K + 2) numbers kept for the backward (CPU). Rows may be
        strided: views of one [B, K + L] tensor are not copied.

    Source:
        Kang et al., DE-RRD, CIKM 2020, equation 8 (relaxed ranking distillation); Xia et al., ListMLE, ICML 2008
        (no tail).

    Example:
        >>> plackett_luce(torch.zeros(1, 3)).exp()  # 3! orders, equally likely
        tensor([6.])
    """
    scores, tail = checks.alike_under_autocast(scores, tail)
    checks.expect_tensor(OP, "scores", scores, 2)
    B, _K = scores.shape
    if tail is None:
        tail = scores.new_empty((B, 0))
    elif isinstance(tail, Tensor) and tail.dim() == 1:
        tail = tail.unsqueeze(1)
    checks.expect_tensor(OP, "tail", tail, 2)
    checks.expect_same(OP, "scores", scores, "tail", tail)
    checks.expect(tail.shape[0] == B, OP, f"tail with {B} rows, as scores", tail)
    if lengths is not None:
        checks.expect_beside(OP, "lengths", lengths, 1, "scores", scores)
        checks.check_if_asked(OP, "lengths", lengths, 0, scores.shape[1] + 1)
    checks.expect_no_forward_ad(OP, scores, tail)
    with_slopes = asks_gradients(scores, tail)
    return call(f"{OP}_forward", scores, tail, lengths, with_slopes)[0]
