"""The k best items of each user among all items, exactly, without the [B, N] score matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, native_or
from rankdistill.ops.registration import LIBRARY, implement, not_differentiable
from rankdistill.reference import inner_product_topk as reference

OP = "inner_product_topk"

LIBRARY.define(
    f"{OP}(Tensor users, Tensor items, SymInt k, Tensor? exclude_indptr, Tensor? exclude_indices, "
    "Tensor? item_bias) -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(users, items, k, exclude_indptr, exclude_indices, item_bias):
    return (
        users.new_empty((users.shape[0], k), dtype=accumulator_dtype(users.dtype)),
        users.new_empty((users.shape[0], k), dtype=torch.int64),
        users.new_empty((users.shape[0],), dtype=torch.int64),
    )


def first(bad: Tensor) -> int:
    """The position of the first True, or -1."""
    return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else -1


def check_exclusions(indptr: Tensor, indices: Tensor, N: int) -> None:
    """An error that names the first bad position of a CSR table (int64, contiguous, CPU)."""
    count = indices.numel()
    checks.expect(
        int(indptr[0]) == 0, OP, "exclude indptr to begin with 0", f"{int(indptr[0])} at position [0]"
    )
    position = first(indptr.diff() < 0) + 1
    if position > 0:
        got = f"{int(indptr[position])} after {int(indptr[position - 1])} at position [{position}]"
        raise ValueError(f"{OP}: expected exclude indptr that never descends; got {got}")
    checks.expect(int(indptr[-1]) == count, OP, f"exclude indptr to end with {count}, the number of indices",
                  f"{int(indptr[-1])} at position [{indptr.numel() - 1}]")  # fmt: skip
    checks.check_indices(OP, "exclude indices", indices, 0, N)
    if _native is not None:
        position = _native.first_not_ascending(address(indptr), address(indices), indptr.numel() - 1)
    else:
        descends = torch.zeros(count, dtype=torch.bool)
        descends[1:] = indices.diff() < 0
        descends[indptr[:-1][indptr[:-1] < count]] = (
            False  # the first of a row may be less than the row before it
        )
        position = first(descends)
    if position >= 0:
        got = f"{int(indices[position])} after {int(indices[position - 1])} at position [{position}]"
        raise ValueError(f"{OP}: expected exclude indices ascending within a row; got {got}")


def forward_reference(users, items, k, exclude_indptr, exclude_indices, item_bias):
    if exclude_indptr is not None:
        check_exclusions(
            exclude_indptr.cpu().contiguous(), exclude_indices.cpu().contiguous(), items.shape[0]
        )
    return reference.inner_product_topk(users, items, k, exclude_indptr, exclude_indices, item_bias)


def forward_native(users, items, k, exclude_indptr, exclude_indices, item_bias):
    if item_bias is not None:
        return forward_reference(users, items, k, exclude_indptr, exclude_indices, item_bias)
    users, items = users.contiguous(), items.contiguous()
    if exclude_indptr is not None:
        exclude_indptr, exclude_indices = exclude_indptr.contiguous(), exclude_indices.contiguous()
        check_exclusions(exclude_indptr, exclude_indices, items.shape[0])
    (B, D), N = users.shape, items.shape[0]
    scores = torch.empty((B, k), dtype=accumulator_dtype(users.dtype))
    indices = torch.empty((B, k), dtype=torch.int64)
    lengths = torch.empty((B,), dtype=torch.int64)
    _native.inner_product_topk(
        DTYPE_CODES[users.dtype], address(users), address(items), address(exclude_indptr), address(exclude_indices),
        address(scores), address(indices), address(lengths), B, N, k, D,
    )  # fmt: skip
    return scores, indices, lengths


REFERENCE = {"": forward_reference}
NATIVE = {"": forward_native}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"reference": REFERENCE})

torch.library.register_autograd(
    f"rankdistill::{OP}", not_differentiable(OP, "scores and indices"), lib=LIBRARY
)


class InnerProductTopK(NamedTuple):
    """Scores [B, k], indices [B, k] int64 and lengths [B] int64 of each row's best items."""

    scores: Tensor
    indices: Tensor
    lengths: Tensor


def inner_product_topk(
    users: Tensor, items: Tensor, k: int, exclude: object = None, item_bias: Tensor | None = None
) -> InnerProductTopK:
    """The k items with the largest inner product with each user, best first.

    scores[b, j] = <users[b], items[indices[b, j]]> + item_bias[indices[b, j]], descending in j

    Args:
        users: [B, D] float table.
        items: [N, D] float table of the same dtype.
        k: length of each list, >= 0; may exceed N.
        exclude: item ids that a row must not list, as CSR: a pair (indptr [B + 1], indices [nnz]) of int64
            tensors, or an object with these attributes. Row b excludes indices[indptr[b]:indptr[b + 1]], ids in
            [0, N) that ascend; repeats are allowed. None excludes nothing.
        item_bias: [N], of the tables' dtype, added to every score of an item; None adds nothing.

    Returns:
        InnerProductTopK(scores [B, k], indices [B, k] int64, lengths [B] int64); scores are float32 (float64 for
        float64 tables). Entries from lengths[b] on have index -1 and score -inf.

    Contract:
        A score is the float64 sum, in index order, of the products and then the bias, rounded once to the dtype of
        the scores (a zero keeps the sign that this gives it). Order: descending score, equal scores (+0.0 = -0.0) to the lower
        index. An item is listed only if score > -inf: never NaN or -inf; +inf is legal. The result is the
        exact one, bit for bit, for any number of threads, batch and instruction set. Not differentiable.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices; indptr that does not rise from 0 to nnz; ids that
            do not ascend within a row.
        IndexError: an excluded id out of range.
        RuntimeError: a backward call.

    Cost:
        O(B·N·D) time; memory besides the result O(B·k), at most 16 MiB + 24·B·k bytes (CPU).

    Example:
        >>> users, items = torch.tensor([[1., 2.]]), torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
        >>> inner_product_topk(users, items, 2, exclude=(torch.tensor([0, 1]), torch.tensor([1])))
        InnerProductTopK(scores=tensor([[3., 1.]]), indices=tensor([[2, 0]]), lengths=tensor([2]))
    """
    checks.expect_tensor(OP, "users", users, 2)
    checks.expect_tensor(OP, "items", items, 2)
    checks.expect_same(OP, "users", users, "items", items)
    checks.expect(items.shape[1] == users.shape[1], OP, f"items of width {users.shape[1]}, as users", items)
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"{OP}: expected k as an int; got {checks.describe(k)}")
    checks.expect(k >= 0, OP, "k >= 0", k)
    indptr, indices = checks.csr_tensors(OP, "exclude", exclude, users.device)
    if indptr is not None:
        entries = users.shape[0] + 1
        checks.expect(
            len(indptr) == entries, OP, f"exclude indptr of {entries} entries, one more than users", indptr
        )
    if item_bias is not None:
        checks.expect_tensor(OP, "item_bias", item_bias, 1)
        checks.expect_same(OP, "users", users, "item_bias", item_bias)
        checks.expect(
            len(item_bias) == len(items), OP, f"item_bias of {len(items)} entries, as items", item_bias
        )
    checks.expect_no_forward_ad(OP, users, items, item_bias)
    return InnerProductTopK(
        *torch.ops.rankdistill.inner_product_topk(users, items, k, indptr, indices, item_bias)
    )
