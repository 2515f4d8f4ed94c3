"""The ranks of given items among each row's given scores: counted, not sorted."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.exclusions import check_exclusions, check_exclusions_anywhere, exclusion_tensors
from rankdistill.ops.masked_topk import row_blocks
from rankdistill.ops.native import DTYPE_CODES, _native, address, native_or
from rankdistill.ops.registration import LIBRARY, implement
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import masked_rank as reference

OP = "masked_rank"

LIBRARY.define(
    f"{OP}(Tensor scores, Tensor item_ids, Tensor? exclude_indptr, Tensor? exclude_indices, Tensor? exclude_mask) "
    "-> Tensor"
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(scores, item_ids, exclude_indptr, exclude_indices, exclude_mask):
    return scores.new_empty(item_ids.shape, dtype=torch.int64)


def forward_reference(scores, item_ids, exclude_indptr, exclude_indices, exclude_mask):
    if scores.device.type == "cpu":
        checks.check_indices(OP, "item_ids", item_ids.contiguous(), -1, scores.shape[1])
    check_exclusions_anywhere(OP, exclude_indptr, exclude_indices, scores.shape[1])
    return reference.masked_rank(scores, item_ids, exclude_indptr, exclude_indices, exclude_mask)


def forward_native(scores, item_ids, exclude_indptr, exclude_indices, exclude_mask):
    N, K = scores.shape[1], item_ids.shape[1]
    item_ids = item_ids.contiguous()
    checks.check_indices(OP, "item_ids", item_ids, -1, N)
    if exclude_indptr is not None:
        exclude_indptr, exclude_indices = exclude_indptr.contiguous(), exclude_indices.contiguous()
        check_exclusions(OP, exclude_indptr, exclude_indices, N)
    ranks = torch.empty_like(item_ids)
    for rows, part, mask in row_blocks(scores, exclude_mask):
        indptr = None if exclude_indptr is None else exclude_indptr[rows.start :]
        _native.masked_rank(
            DTYPE_CODES[scores.dtype], address(part), part.stride(0), address(item_ids[rows]), address(indptr),
            address(exclude_indices), address(mask), 0 if mask is None else mask.stride(0), address(ranks[rows]),
            len(part), N, K,
        )  # fmt: skip
    return ranks


REFERENCE = {"": forward_reference}
NATIVE = {"": forward_native}
TRITON = triton_or(OP, "")
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def masked_rank(scores: Tensor, item_ids: Tensor, exclude: object = None) -> Tensor:
    """How many entries of a row stand before given ones in the order of `masked_topk`: 0 for the best.

    rank[b, k] = Σ_n [n is rankable and (scores[b, n], -n) > (scores[b, i], -i)] with i = item_ids[b, k]

    Args:
        scores: [B, N] float matrix, of any strides; one whose rows are not contiguous is copied in parts.
        item_ids: [B, K] int64 in [-1, N); -1 is no item.
        exclude: what is neither counted nor ranked, as in `masked_topk`.

    Returns:
        [B, K] int64, in [0, N); -1 for no item, an excluded one, or one whose score is NaN or -inf.

    Contract:
        Exact, ties included: a rank of r < k means that `masked_topk` lists the item at position r. The same for
        any number of threads, batch and instruction set. Integers: nothing to differentiate.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices; malformed exclusions, as in `masked_topk`.
        IndexError: an item or an excluded id out of range. On CUDA both are checked there: an item out of range
            has rank -1, and so have all of a row whose exclusions are malformed.

    Cost:
        O(B·N·(1 + min(K/64, log K))) time, one pass over the matrix; memory besides the result O(K) per thread (CPU).

    Example:
        >>> masked_rank(torch.tensor([[0.5, 2.0, 2.0, 1.0]]), torch.tensor([[2, 0, -1]]))
        tensor([[ 1,  3, -1]])
    """
    checks.expect_tensor(OP, "scores", scores, 2)
    checks.expect_beside(OP, "item_ids", item_ids, 2, "scores", scores)
    exclusions = exclusion_tensors(OP, exclude, scores)
    checks.check_if_asked(OP, "item_ids", item_ids, -1, scores.shape[1])
    return torch.ops.rankdistill.masked_rank(scores.detach(), item_ids, *exclusions)
