"""The k best of each row's given scores, exactly, in one pass over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rankdistill.ops import checks, device_topk
from rankdistill.ops.cuda import cuda_or
from rankdistill.ops.exclusions import check_exclusions, check_exclusions_anywhere, exclusion_tensors
from rankdistill.ops.native import DTYPE_CODES, _native, address, native_or
from rankdistill.ops.registration import LIBRARY, WAITS, implement, not_differentiable
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import masked_topk as reference

OP = "masked_topk"
COPIED = 1 << 22  # scores that are copied at a time where a row's do not stand side by side

LIBRARY.define(
    f"{OP}(Tensor scores, SymInt k, Tensor? exclude_indptr, Tensor? exclude_indices, Tensor? exclude_mask) "
    "-> (Tensor, Tensor, Tensor)",
    tags=WAITS,
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(scores, k, exclude_indptr, exclude_indices, exclude_mask):
    return (
        scores.new_empty((scores.shape[0], k)),
        scores.new_empty((scores.shape[0], k), dtype=torch.int64),
        scores.new_empty((scores.shape[0],), dtype=torch.int64),
    )


def forward_reference(scores, k, exclude_indptr, exclude_indices, exclude_mask):
    check_exclusions_anywhere(OP, exclude_indptr, exclude_indices, scores.shape[1])
    return reference.masked_topk(scores, k, exclude_indptr, exclude_indices, exclude_mask)


def row_blocks(scores: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Rows of both whose entries stand side by side: views where they already do, else copies, a part at a time."""
    B, N = scores.shape
    views = all(t is None or N <= 1 or t.stride(1) == 1 for t in (scores, mask))
    step = max(B, 1) if views else max(1, COPIED // max(N, 1))
    for begin in range(0, B, step):
        rows = slice(begin, min(begin + step, B))
        parts = [t if t is None or views else t[rows].contiguous() for t in (scores, mask)]
        yield rows, *parts


def forward_native(scores, k, exclude_indptr, exclude_indices, exclude_mask):
    B, N = scores.shape
    checks.expect(k < 2**31, OP, "k < 2^31", k)
    if exclude_indptr is not None:
        exclude_indptr, exclude_indices = exclude_indptr.contiguous(), exclude_indices.contiguous()
        check_exclusions(OP, exclude_indptr, exclude_indices, N)
    top = torch.empty((B, k), dtype=scores.dtype)
    indices = torch.empty((B, k), dtype=torch.int64)
    lengths = torch.empty((B,), dtype=torch.int64)
    for rows, part, mask in row_blocks(scores, exclude_mask):
        indptr = None if exclude_indptr is None else exclude_indptr[rows.start :]
        _native.masked_topk(
            DTYPE_CODES[scores.dtype], address(part), part.stride(0), address(indptr), address(exclude_indices),
            address(mask), 0 if mask is None else mask.stride(0), address(top[rows]), address(indices[rows]),
            address(lengths[rows]), len(part), N, k,
        )  # fmt: skip
    return top, indices, lengths


REFERENCE = {"": forward_reference}
NATIVE = {"": forward_native}
CUDA = {"": device_topk.masked_topk}
TRITON = triton_or(OP, "")
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"native": cuda_or(CUDA), "triton": TRITON, "reference": REFERENCE})

torch.library.register_autograd(
    f"rankdistill::{OP}", not_differentiable(OP, "scores and indices"), lib=LIBRARY
)


class MaskedTopK(NamedTuple):
    """Scores [B, k], indices [B, k] int64 and lengths [B] int64 of each row's best entries."""

    scores: Tensor
    indices: Tensor
    lengths: Tensor


def masked_topk(scores: Tensor, k: int, exclude: object = None) -> MaskedTopK:
    """The k largest scores of each row that are not excluded, best first.

    result.scores[b, j] = scores[b, result.indices[b, j]], descending in j

    Args:
        scores: [B, N] float matrix, of any strides; one whose rows are not contiguous is copied in parts.
        k: length of each list, >= 0; may exceed N.
        exclude: what a row must not list. Either CSR, a pair (indptr [B + 1], indices [nnz]) of int64 tensors or an
            object with these attributes: row b excludes indices[indptr[b]:indptr[b + 1]], in [0, N) and ascending;
            repeats are allowed. Or a mask [B, N] of bool, True where excluded. None excludes nothing.

    Returns:
        MaskedTopK(scores [B, k] of the dtype of the given ones, indices [B, k] int64, lengths [B] int64). Entries
        from lengths[b] on have index -1 and score -inf.

    Contract:
        The scores come back as they were given, bit for bit. Order: descending score, equal scores (+0.0 = -0.0)
        to the lower index. An entry is listed only if score > -inf: never NaN or -inf; +inf is legal. The same
        for any number of threads, batch and instruction set. Not differentiable: gather from the scores at
        `indices` for a gradient.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices; indptr that does not rise from 0 to nnz; ids that
            do not ascend within a row.
        IndexError: an excluded id out of range. (On CUDA exclusions are checked there: a malformed row gets scores NaN,
            indices -1 and length 0.)
        RuntimeError: a backward call.

    Cost:
        O(B·(N + k log k)) time: one pass over the matrix, a second where a row's sample misled (about 1 in 400),
        whatever its order. Memory besides the result O(k) per thread; 16 MiB or a row where parts are copied (CPU).

    Example:
        >>> scores = torch.tensor([[0.5, 2.0, 2.0, float("nan")], [1.0, 0.0, 3.0, 2.0]])
        >>> masked_topk(scores, 3, exclude=(torch.tensor([0, 0, 1]), torch.tensor([2]))).indices
        tensor([[1, 2, 0],
                [3, 0, 1]])
    """
    checks.expect_tensor(OP, "scores", scores, 2)
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"{OP}: expected k as an int; got {checks.describe(k)}")
    checks.expect(k >= 0, OP, "k >= 0", k)
    exclusions = exclusion_tensors(OP, exclude, scores)
    checks.expect_no_forward_ad(OP, scores)
    return MaskedTopK(*torch.ops.rankdistill.masked_topk(scores, k, *exclusions))
