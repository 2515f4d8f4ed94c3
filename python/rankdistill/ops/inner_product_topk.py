"""The k best items of each user among all items, exactly, without the [B, N] score matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankdistill.ops import checks, device_topk
from rankdistill.ops.cuda import cuda_or
from rankdistill.ops.exclusions import check_exclusions, check_exclusions_anywhere, exclusion_lists
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, native_or
from rankdistill.ops.prepared_items import PreparedItems, checked_bias
from rankdistill.ops.registration import LIBRARY, WAITS, implement, not_differentiable
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import inner_product_topk as reference

OP = "inner_product_topk"
MOSTLY = 0.9  # of the items, excluded in a row: the order of prepared ones is no help
BEST, WIDE, BF16, INT8 = range(4)  # the compiled kernel's filters; they differ in time alone

ARGUMENTS = (
    "Tensor users, Tensor items, SymInt k, Tensor? exclude_indptr, Tensor? exclude_indices, Tensor? item_bias"
)
LIBRARY.define(f"{OP}({ARGUMENTS}) -> (Tensor, Tensor, Tensor)", tags=WAITS)
# `prepared` is the buffer of a PreparedItems.
LIBRARY.define(f"{OP}_prepared({ARGUMENTS}, Tensor prepared) -> (Tensor, Tensor, Tensor)", tags=WAITS)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
@torch.library.register_fake(f"rankdistill::{OP}_prepared", lib=LIBRARY)
def _(users, items, k, exclude_indptr, exclude_indices, item_bias, prepared=None):
    return (
        users.new_empty((users.shape[0], k), dtype=accumulator_dtype(users.dtype)),
        users.new_empty((users.shape[0], k), dtype=torch.int64),
        users.new_empty((users.shape[0],), dtype=torch.int64),
    )


def forward_reference(users, items, k, exclude_indptr, exclude_indices, item_bias, prepared=None):
    check_exclusions_anywhere(OP, exclude_indptr, exclude_indices, items.shape[0])
    return reference.inner_product_topk(users, items, k, exclude_indptr, exclude_indices, item_bias)


def forward_native(
    users, items, k, exclude_indptr, exclude_indices, item_bias, prepared=None, *, filter=BEST
):
    users, items = users.contiguous(), items.contiguous()
    if exclude_indptr is not None:
        exclude_indptr, exclude_indices = exclude_indptr.contiguous(), exclude_indices.contiguous()
        check_exclusions(OP, exclude_indptr, exclude_indices, items.shape[0])
        # By falling norm, a row that may list few items looks at nearly all others first.
        if prepared is not None and len(users) and int(exclude_indptr.diff().max()) > MOSTLY * items.shape[0]:
            prepared = None
    if item_bias is not None:
        item_bias = item_bias.contiguous()
    (B, D), N = users.shape, items.shape[0]
    scores = torch.empty((B, k), dtype=accumulator_dtype(users.dtype))
    indices = torch.empty((B, k), dtype=torch.int64)
    lengths = torch.empty((B,), dtype=torch.int64)
    _native.inner_product_topk(
        DTYPE_CODES[users.dtype], address(users), address(items), address(item_bias), address(exclude_indptr),
        address(exclude_indices), address(scores), address(indices), address(lengths), B, N, k, D,
        address(prepared), 0 if prepared is None else prepared.numel(), filter,
    )  # fmt: skip
    return scores, indices, lengths


def forward_cuda(users, items, k, exclude_indptr, exclude_indices, item_bias, prepared=None):
    return device_topk.inner_product_topk(
        users, items, k, exclude_indptr, exclude_indices, item_bias, prepared=prepared
    )


REFERENCE = {"": forward_reference, "prepared": forward_reference}
NATIVE = {"": forward_native, "prepared": forward_native}
CUDA = {"": forward_cuda, "prepared": forward_cuda}
TRITON = triton_or(OP, "", "prepared")
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"native": cuda_or(CUDA), "triton": TRITON, "reference": REFERENCE})

for overload in (OP, f"{OP}_prepared"):
    torch.library.register_autograd(
        f"rankdistill::{overload}", not_differentiable(OP, "scores and indices"), lib=LIBRARY
    )


class InnerProductTopK(NamedTuple):
    """Scores [B, k], indices [B, k] int64 and lengths [B] int64 of each row's best items."""

    scores: Tensor
    indices: Tensor
    lengths: Tensor


def inner_product_topk(
    users: Tensor,
    items: Tensor | PreparedItems,
    k: int,
    exclude: object = None,
    item_bias: Tensor | None = None,
) -> InnerProductTopK:
    """The k items with the largest inner product with each user, best first.

    scores[b, j] = <users[b], items[indices[b, j]]> + item_bias[indices[b, j]], descending in j

    Args:
        users: [B, D] float table.
        items: [N, D] float table of the same dtype, or what `prepare_items` made of one (with its biases).
        k: length of each list, >= 0; may exceed N.
        exclude: item ids that a row must not list, as CSR: a pair (indptr [B + 1], indices [nnz]) of int64
            tensors, or an object with these attributes. Row b excludes indices[indptr[b]:indptr[b + 1]], ids in
            [0, N) that ascend; repeats are allowed. None excludes nothing.
        item_bias: [N], of the tables' dtype, added to every score of an item; None adds nothing. -inf withdraws an item
            from all lists, at no cost.

    Returns:
        InnerProductTopK(scores [B, k], indices [B, k] int64, lengths [B] int64); scores are float32 (float64 for
        float64 tables). Entries from lengths[b] on have index -1 and score -inf.

    Contract:
        A score is the float64 sum, in index order, of the products and then the bias, rounded once to the dtype of
        the scores (a zero keeps the sign that this gives it). Order: descending score, equal scores
        (+0.0 = -0.0) to the lower index. An item is listed only if score > -inf: never NaN or -inf; +inf is legal. The result is the
        exact one, bit for bit, for any number of threads, batch and instruction set. Not differentiable.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices; indptr that does not rise from 0 to nnz; ids that
            do not ascend within a row.
        IndexError: an excluded id out of range. (On CUDA exclusions are checked there: a malformed row gets scores NaN,
            indices -1 and length 0.)
        RuntimeError: a backward call.

    Cost:
        O(B·N·D) time; memory besides the result O(B·k), at most 16 MiB + 24·B·k bytes (CPU), and a copy of tables that
        are not contiguous at every call (none of prepared ones); on CUDA 2·N·D + 16·N
        bytes for the items in half precision (none beside prepared ones), 2·B·D for the users, and at most about
        512 MiB. A CUDA call waits for the device once.

    Example:
        >>> users, items = torch.tensor([[1., 2.]]), torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
        >>> inner_product_topk(users, items, 2, exclude=(torch.tensor([0, 1]), torch.tensor([1])))
        InnerProductTopK(scores=tensor([[3., 1.]]), indices=tensor([[2, 0]]), lengths=tensor([2]))
    """
    buffer = None
    if isinstance(items, PreparedItems):
        checks.expect(
            item_bias is None, OP, "no item_bias beside prepared items, which have theirs", item_bias
        )
        buffer = items.buffer
        items, item_bias = items.tables()
    given = items
    users, items, item_bias = checks.alike_under_autocast(users, items, item_bias)
    if items is not given:
        buffer = None  # was that of the narrow table
    checks.expect_tensor(OP, "users", users, 2)
    checks.expect_tensor(OP, "items", items, 2)
    checks.expect_same(OP, "users", users, "items", items)
    checks.expect(items.shape[1] == users.shape[1], OP, f"items of width {users.shape[1]}, as users", items)
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"{OP}: expected k as an int; got {checks.describe(k)}")
    checks.expect(k >= 0, OP, "k >= 0", k)
    indptr, indices = exclusion_lists(OP, exclude, users, items.shape[0])
    checked_bias(OP, items, item_bias)
    checks.expect_no_forward_ad(OP, users, items, item_bias)
    if buffer is not None:
        prepared = torch.ops.rankdistill.inner_product_topk_prepared
        return InnerProductTopK(*prepared(users, items, k, indptr, indices, item_bias, buffer))
    return InnerProductTopK(
        *torch.ops.rankdistill.inner_product_topk(users, items, k, indptr, indices, item_bias)
    )
