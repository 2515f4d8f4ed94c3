"""The ranks of given items among all items by inner product, exactly, without the [B, N] score matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.exclusions import check_exclusions, check_exclusions_anywhere, exclusion_lists
from rankdistill.ops.native import DTYPE_CODES, _native, address, native_or
from rankdistill.ops.prepared_items import PreparedItems, checked_bias
from rankdistill.ops.registration import LIBRARY, WAITS, implement
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import inner_product_rank as reference

OP = "inner_product_rank"

LIBRARY.define(
    f"{OP}(Tensor users, Tensor items, Tensor item_ids, Tensor? exclude_indptr, Tensor? exclude_indices, "
    "Tensor? item_bias) -> Tensor",
    tags=WAITS,
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(users, items, item_ids, exclude_indptr, exclude_indices, item_bias):
    return users.new_empty(item_ids.shape, dtype=torch.int64)


def forward_reference(users, items, item_ids, exclude_indptr, exclude_indices, item_bias):
    if users.device.type == "cpu":
        checks.check_indices(OP, "item_ids", item_ids.contiguous(), -1, items.shape[0])
    check_exclusions_anywhere(OP, exclude_indptr, exclude_indices, items.shape[0])
    return reference.inner_product_rank(users, items, item_ids, exclude_indptr, exclude_indices, item_bias)


def forward_native(users, items, item_ids, exclude_indptr, exclude_indices, item_bias):
    users, items, item_ids = users.contiguous(), items.contiguous(), item_ids.contiguous()
    item_bias = None if item_bias is None else item_bias.contiguous()
    (B, D), N, K = users.shape, items.shape[0], item_ids.shape[1]
    checks.check_indices(OP, "item_ids", item_ids, -1, N)
    if exclude_indptr is not None:
        exclude_indptr, exclude_indices = exclude_indptr.contiguous(), exclude_indices.contiguous()
        check_exclusions(OP, exclude_indptr, exclude_indices, N)
    ranks = torch.empty_like(item_ids)
    _native.inner_product_rank(
        DTYPE_CODES[users.dtype], address(users), address(items), address(item_bias), address(item_ids),
        address(exclude_indptr), address(exclude_indices), address(ranks), B, N, K, D,
    )  # fmt: skip
    return ranks


REFERENCE = {"": forward_reference}
NATIVE = {"": forward_native}
TRITON = triton_or(OP, "")
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def inner_product_rank(
    users: Tensor,
    items: Tensor | PreparedItems,
    item_ids: Tensor,
    exclude: object = None,
    item_bias: Tensor | None = None,
) -> Tensor:
    """How many items stand before given ones in the order of `inner_product_topk`: 0 for a user's best item.

    rank[b, k] = Σ_n [n is rankable and (score(b, n), -n) > (score(b, i), -i)] with i = item_ids[b, k],
    score(b, n) = <users[b], items[n]> + item_bias[n]

    Args:
        users: [B, D] float table.
        items: [N, D] float table of the same dtype, or what `prepare_items` made of one (with its biases).
        item_ids: [B, K] int64 in [-1, N), such as each user's held-out items; -1 is no item.
        exclude: item ids of a row that are neither counted nor ranked, as CSR, as in `inner_product_topk`.
        item_bias: [N], of the tables' dtype, added to every score of an item; None adds nothing. An item of -inf has no
            rank and counts for none.

    Returns:
        [B, K] int64, in [0, N); -1 for no item, an excluded one, or one whose score is NaN or -inf.

    Contract:
        Exact by the scores of `inner_product_topk` (the float64 sum rounded once), ties included: a rank of r < k
        means that it lists the item at position r. The same for any number of threads, batch and instruction set.
        Integers: nothing to differentiate.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices; malformed exclusions, as in `inner_product_topk`.
        IndexError: an item or an excluded id out of range. On CUDA both are checked there: an item out of range
            has rank -1, and so have all of a row whose exclusions are malformed.

    Cost:
        O(B·N·(D + min(K, log K))) time with K the listed items of a row, -1 not counted; memory besides the result
        O(B + K) and at most 4 MiB + 1.5 KiB·K per thread (CPU).

    Example:
        >>> users, items = torch.tensor([[1., 2.]]), torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
        >>> inner_product_rank(users, items, torch.tensor([[0, 2, 1]]))
        tensor([[2, 0, 1]])
    """
    if isinstance(items, PreparedItems):
        checks.expect(
            item_bias is None, OP, "no item_bias beside prepared items, which have theirs", item_bias
        )
        items, item_bias = items.tables()
    users, items, item_bias = checks.alike_under_autocast(users, items, item_bias)
    checks.expect_tensor(OP, "users", users, 2)
    checks.expect_tensor(OP, "items", items, 2)
    checks.expect_same(OP, "users", users, "items", items)
    checks.expect(items.shape[1] == users.shape[1], OP, f"items of width {users.shape[1]}, as users", items)
    checks.expect_beside(OP, "item_ids", item_ids, 2, "users", users)
    checks.check_if_asked(OP, "item_ids", item_ids, -1, items.shape[0])
    indptr, indices = exclusion_lists(OP, exclude, users, items.shape[0])
    checked_bias(OP, items, item_bias)
    item_bias = None if item_bias is None else item_bias.detach()
    return torch.ops.rankdistill.inner_product_rank(
        users.detach(), items.detach(), item_ids, indptr, indices, item_bias
    )
