"""Scores of listed items: the inner products of users with the items that a list names."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, native_or
from rankdistill.ops.registration import LIBRARY, implement, no_double_backward
from rankdistill.reference import gathered_inner_product as reference

OP = "gathered_inner_product"

LIBRARY.define(f"{OP}_forward(Tensor users, Tensor? user_ids, Tensor items, Tensor item_ids) -> Tensor")
LIBRARY.define(
    f"{OP}_backward(Tensor grad_scores, Tensor users, Tensor? user_ids, Tensor items, Tensor item_ids)"
    " -> (Tensor, Tensor)"
)


@torch.library.register_fake(f"rankdistill::{OP}_forward", lib=LIBRARY)
def _(users, user_ids, items, item_ids):
    return users.new_empty(item_ids.shape, dtype=accumulator_dtype(users.dtype))


@torch.library.register_fake(f"rankdistill::{OP}_backward", lib=LIBRARY)
def _(grad_scores, users, user_ids, items, item_ids):
    return users.new_empty(users.shape), items.new_empty(items.shape)


def check_ids(op: str, users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor) -> None:
    if user_ids is not None:
        checks.check_indices(op, "user_ids", user_ids, 0, users.shape[0])
    checks.check_indices(op, "item_ids", item_ids, -1, items.shape[0])


def forward_reference(users, user_ids, items, item_ids):
    if users.device.type == "cpu":
        check_ids(OP, users, user_ids, items, item_ids.contiguous())
    return reference.gathered_inner_product_forward(users, user_ids, items, item_ids)


def forward_native(users, user_ids, items, item_ids):
    users, items, item_ids = users.contiguous(), items.contiguous(), item_ids.contiguous()
    user_ids = None if user_ids is None else user_ids.contiguous()
    check_ids(OP, users, user_ids, items, item_ids)
    scores = torch.empty(item_ids.shape, dtype=accumulator_dtype(users.dtype))
    _native.gathered_inner_product_forward(
        DTYPE_CODES[users.dtype], address(users), address(user_ids), address(items), address(item_ids),
        address(scores), *item_ids.shape, users.shape[1],
    )  # fmt: skip
    return scores


def backward_native(grad_scores, users, user_ids, items, item_ids):
    wide = accumulator_dtype(users.dtype)
    code = DTYPE_CODES[users.dtype]
    users, items, item_ids = users.contiguous(), items.contiguous(), item_ids.contiguous()
    user_ids = None if user_ids is None else user_ids.contiguous()
    check_ids(OP, users, user_ids, items, item_ids)
    grad_scores = grad_scores.to(wide).contiguous()
    (B, K), D = item_ids.shape, users.shape[1]
    row_grads = torch.empty((B, D), dtype=wide)
    _native.gathered_inner_product_row_grads(
        code, address(grad_scores), address(items), address(item_ids), address(row_grads), B, K, D
    )
    grad_users = row_grads
    if user_ids is not None:
        grad_users = torch.zeros(users.shape, dtype=wide)
        _native.gathered_inner_product_user_grads(
            code, address(row_grads), address(user_ids), address(grad_users), users.shape[0], B, D
        )
    grad_items = torch.zeros(items.shape, dtype=wide)
    _native.gathered_inner_product_item_grads(
        code, address(grad_scores), address(users), address(user_ids), address(item_ids), address(grad_items),
        items.shape[0], B, K, D,
    )  # fmt: skip
    return grad_users.to(users.dtype), grad_items.to(items.dtype)


REFERENCE = {"forward": forward_reference, "backward": reference.gathered_inner_product_backward}
NATIVE = {"forward": forward_native, "backward": backward_native}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"reference": REFERENCE})


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_scores):
    grad_users, grad_items = torch.ops.rankdistill.gathered_inner_product_backward(
        grad_scores, *ctx.saved_tensors
    )
    return grad_users, None, grad_items, None


torch.library.register_autograd(f"rankdistill::{OP}_forward", _backward, setup_context=_setup, lib=LIBRARY)
torch.library.register_autograd(f"rankdistill::{OP}_backward", no_double_backward(OP), lib=LIBRARY)


def check_arguments(op: str, users: Tensor, items: Tensor, item_ids: Tensor, user_ids: Tensor | None) -> None:
    checks.expect_tensor(op, "users", users, 2)
    checks.expect_tensor(op, "items", items, 2)
    checks.expect_same(op, "users", users, "items", items)
    checks.expect(items.shape[1] == users.shape[1], op, f"items of width {users.shape[1]}, as users", items)
    checks.expect_tensor(op, "item_ids", item_ids, 2, (torch.int64,))
    rows = users
    if user_ids is not None:
        checks.expect_tensor(op, "user_ids", user_ids, 1, (torch.int64,))
        rows = user_ids
    checks.expect(
        item_ids.shape[0] == rows.shape[0], op, f"item_ids with {rows.shape[0]} rows, as users", item_ids
    )
    checks.expect_no_forward_ad(op, users, items)


def gathered_inner_product(
    users: Tensor, items: Tensor, item_ids: Tensor, user_ids: Tensor | None = None
) -> Tensor:
    """Scores of listed items, without writing the gathered [B, K, D] embeddings.

    scores[b, k] = <users[user_ids[b]], items[item_ids[b, k]]>

    Args:
        users: [U, D] float table; [B, D] where `user_ids` is None.
        items: [N, D] float table of the same dtype.
        item_ids: [B, K] int64 in [-1, N); -1 is no item.
        user_ids: [B] int64 in [0, U), or None: row b of `users` is then user b. Ids may repeat.

    Returns:
        scores [B, K], float32 (float64 for float64 tables); -inf, with gradient 0, where `item_ids` is -1.

    Contract:
        Gradients are dense tables; every row is summed in the order of (b, k), so they have the same bits for
        any number of threads.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.
        IndexError: an id out of range (CPU).

    Cost:
        O(B·K·D) time, O(B·K) memory besides the gradients; backward O(B·K·D + (U + N)·D).

    Example:
        >>> users, items = torch.tensor([[1., 2.]]), torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
        >>> gathered_inner_product(users, items, torch.tensor([[2, 0]]))
        tensor([[3., 1.]])
    """
    check_arguments(OP, users, items, item_ids, user_ids)
    return torch.ops.rankdistill.gathered_inner_product_forward(users, user_ids, items, item_ids)
