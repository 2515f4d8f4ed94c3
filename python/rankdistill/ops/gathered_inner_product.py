"""Scores of listed items: the inner products of users with the items that a list names."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, contiguous, native_or
from rankdistill.ops.registration import (
    LIBRARY,
    asks_gradients,
    call,
    differentiate,
    implement,
    no_double_backward,
)
from rankdistill.ops.touched_rows import as_sparse, expect_eager, occurrences, sum_rows
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import gathered_inner_product as reference

OP = "gathered_inner_product"

LIBRARY.define(
    f"{OP}_forward(Tensor users, Tensor? user_ids, Tensor items, Tensor item_ids, Tensor? item_bias, bool sparse_grad)"
    " -> Tensor"
)
LIBRARY.define(
    f"{OP}_backward(Tensor grad_scores, Tensor users, Tensor? user_ids, Tensor items, Tensor item_ids,"
    " Tensor? item_bias) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    f"{OP}_sparse_backward(Tensor grad_scores, Tensor users, Tensor? user_ids, Tensor items, Tensor item_ids,"
    " Tensor? item_bias) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.register_fake(f"rankdistill::{OP}_forward", lib=LIBRARY)
def _(users, user_ids, items, item_ids, item_bias, sparse_grad):
    expect_eager(OP, sparse_grad)
    return users.new_empty(item_ids.shape, dtype=accumulator_dtype(users.dtype))


@torch.library.register_fake(f"rankdistill::{OP}_backward", lib=LIBRARY)
def _(grad_scores, users, user_ids, items, item_ids, item_bias):
    return dense_like(users, items, item_bias)


def dense_like(users: Tensor, items: Tensor, item_bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Empty gradients; that of a bias that is not there has no entries."""
    return (
        users.new_empty(users.shape),
        items.new_empty(items.shape),
        items.new_empty(0 if item_bias is None else item_bias.shape),
    )


def check_ids(op: str, users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor) -> None:
    if user_ids is not None:
        checks.check_indices(op, "user_ids", user_ids, 0, users.shape[0])
    checks.check_indices(op, "item_ids", item_ids, -1, items.shape[0])


def forward_reference(users, user_ids, items, item_ids, item_bias, sparse_grad):
    if users.device.type == "cpu":
        check_ids(OP, users, user_ids, items, item_ids.contiguous())
    return reference.gathered_inner_product_forward(users, user_ids, items, item_ids, item_bias)


def forward_native(users, user_ids, items, item_ids, item_bias, sparse_grad):
    users, user_ids, items, item_ids, item_bias = contiguous(users, user_ids, items, item_ids, item_bias)
    check_ids(OP, users, user_ids, items, item_ids)
    scores = torch.empty(item_ids.shape, dtype=accumulator_dtype(users.dtype))
    _native.gathered_inner_product_forward(
        DTYPE_CODES[users.dtype], address(users), address(user_ids), address(items), address(item_ids),
        address(item_bias), address(scores), *item_ids.shape, users.shape[1],
    )  # fmt: skip
    return scores


def row_grads(grad_scores: Tensor, items: Tensor, item_ids: Tensor) -> Tensor:
    """[B, D] the gradient of each row's user vector."""
    (B, K), D = item_ids.shape, items.shape[1]
    grads = torch.empty((B, D), dtype=accumulator_dtype(items.dtype))
    _native.gathered_inner_product_row_grads(
        DTYPE_CODES[items.dtype], address(grad_scores), address(items), address(item_ids), address(grads), B, K, D
    )  # fmt: skip
    return grads


def dense_grads(grad_scores, grad_rows, users, user_ids, items, item_ids, item_bias):
    """Dense gradients of users, items and item_bias from those of the scores [B, K] and of each row's user [B, D]."""
    code, wide, (B, K), D = DTYPE_CODES[users.dtype], grad_scores.dtype, item_ids.shape, users.shape[1]
    grad_users = grad_rows
    if user_ids is not None:
        grad_users = torch.zeros(users.shape, dtype=wide)
        _native.gathered_inner_product_user_grads(
            code, address(grad_rows), address(user_ids), address(grad_users), users.shape[0], B, D
        )
    grad_items = torch.zeros(items.shape, dtype=wide)
    _native.gathered_inner_product_item_grads(
        code, address(grad_scores), address(users), address(user_ids), address(item_ids), address(grad_items),
        items.shape[0], B, K, D,
    )  # fmt: skip
    grad_bias = torch.zeros(0 if item_bias is None else items.shape[0], dtype=wide)
    if item_bias is not None:
        _native.gathered_inner_product_bias_grads(
            code, address(grad_scores), address(item_ids), address(grad_bias), items.shape[0], B * K
        )
    return grad_users.to(users.dtype), grad_items.to(items.dtype), grad_bias.to(items.dtype)


def sparse_grads(grad_scores, grad_rows, users, user_ids, items, item_ids, item_bias):
    """As `dense_grads`, of touched rows: users' ids and gradients, items' ids, their gradients and their biases'."""
    wide, K = grad_scores.dtype, item_ids.shape[1]
    seen, grad_users = torch.empty(0, dtype=torch.int64), grad_rows
    if user_ids is not None:
        seen, order, starts = occurrences(user_ids, users.shape[0])
        grad_users = sum_rows(grad_rows, order, starts, len(seen))
    touched, order, starts = occurrences(item_ids, items.shape[0])
    grad_items = torch.empty((len(touched), items.shape[1]), dtype=wide)
    _native.gathered_inner_product_touched_grads(
        DTYPE_CODES[users.dtype], address(grad_scores), address(users), address(user_ids), address(order),
        address(starts), address(grad_items), len(touched), K, items.shape[1],
    )  # fmt: skip
    grad_bias = torch.empty(0, dtype=wide)
    if item_bias is not None:
        grad_bias = sum_rows(grad_scores.view(-1, 1), order, starts, len(touched)).view(-1)
    return seen, grad_users.to(users.dtype), touched, grad_items.to(items.dtype), grad_bias.to(items.dtype)


def backward_native(grad_scores, users, user_ids, items, item_ids, item_bias, *, grads=dense_grads):
    users, user_ids, items, item_ids = contiguous(users, user_ids, items, item_ids)
    check_ids(OP, users, user_ids, items, item_ids)
    wide = accumulator_dtype(users.dtype)
    grad_scores = grad_scores.to(wide).contiguous()
    checks.expect_layout(OP, grad_scores=(grad_scores, item_ids.shape, wide))
    grad_rows = row_grads(grad_scores, items, item_ids)
    return grads(grad_scores, grad_rows, users, user_ids, items, item_ids, item_bias)


def sparse_backward_native(*args):
    return backward_native(*args, grads=sparse_grads)


REFERENCE = {
    "forward": forward_reference,
    "backward": reference.gathered_inner_product_backward,
    "sparse_backward": reference.gathered_inner_product_sparse_backward,
}
NATIVE = {
    "forward": forward_native,
    "backward": backward_native,
    "sparse_backward": sparse_backward_native,
}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
TRITON = triton_or(OP, "forward", "backward", "sparse_backward")
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def _setup(ctx, inputs, output):
    *tensors, ctx.sparse_grad = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_scores):
    inputs = ctx.saved_tensors
    if ctx.sparse_grad:
        grads = call(f"{OP}_sparse_backward", grad_scores, *inputs)
        grad_users, grad_items, grad_bias = sparse_tables(grads, *inputs)
    else:
        grad_users, grad_items, grad_bias = call(f"{OP}_backward", grad_scores, *inputs)
    return grad_users, None, grad_items, None, None if inputs[4] is None else grad_bias, None


def sparse_tables(grads, users, user_ids, items, item_ids, item_bias) -> list[Tensor | None]:
    """Gradients of touched rows as sparse tensors of users (dense where every row is used), items and item_bias."""
    seen, grad_users, touched, grad_items, grad_bias = grads
    return [
        grad_users if user_ids is None else as_sparse(seen, grad_users, users.shape),
        as_sparse(touched, grad_items, items.shape),
        None if item_bias is None else as_sparse(touched, grad_bias, item_bias.shape),
    ]


differentiate(f"{OP}_forward", _backward, _setup)
for suffix in ("backward", "sparse_backward"):
    torch.library.register_autograd(f"rankdistill::{OP}_{suffix}", no_double_backward(OP), lib=LIBRARY)


def check_arguments(
    op: str, users: Tensor, items: Tensor, item_ids: Tensor, user_ids: Tensor | None, item_bias: Tensor | None
) -> None:
    checks.expect_tensor(op, "users", users, 2)
    checks.expect_tensor(op, "items", items, 2)
    checks.expect_same(op, "users", users, "items", items)
    checks.expect(items.shape[1] == users.shape[1], op, f"items of width {users.shape[1]}, as users", items)
    rows, whose = users, "users"
    if user_ids is not None:
        checks.expect_tensor(op, "user_ids", user_ids, 1, (torch.int64,))
        same_device = user_ids.device == users.device
        checks.expect(same_device, op, f"user_ids on the device of users ({users.device})", user_ids)
        rows, whose = user_ids, "user_ids"
    checks.expect_beside(op, "item_ids", item_ids, 2, whose, rows)
    checks.check_if_asked(op, "user_ids", user_ids, 0, users.shape[0])
    checks.check_if_asked(op, "item_ids", item_ids, -1, items.shape[0])
    if item_bias is not None:
        checks.expect_tensor(op, "item_bias", item_bias, 1)
        checks.expect_same(op, "items", items, "item_bias", item_bias)
        checks.expect(
            item_bias.shape[0] == items.shape[0],
            op,
            f"item_bias of {items.shape[0]} entries, as items",
            item_bias,
        )
    checks.expect_no_forward_ad(op, users, items, item_bias)


def gathered_inner_product(
    users: Tensor,
    items: Tensor,
    item_ids: Tensor,
    user_ids: Tensor | None = None,
    item_bias: Tensor | None = None,
    sparse_grad: bool = False,
) -> Tensor:
    """Scores of listed items, without writing the gathered [B, K, D] embeddings.

    scores[b, k] = <users[user_ids[b]], items[item_ids[b, k]]> + item_bias[item_ids[b, k]]

    Args:
        users: [U, D] float table; [B, D] where `user_ids` is None.
        items: [N, D] float table of the same dtype.
        item_ids: [B, K] int64 in [-1, N); -1 is no item.
        user_ids: [B] int64 in [0, U), or None: row b of `users` is then user b. Ids may repeat.
        item_bias: [N] of the dtype of `items`, or None.
        sparse_grad: gradients of `items` and `item_bias`, and of `users` where there are `user_ids`, as sparse
            tensors of the touched rows, coalesced; otherwise dense. Eager mode only.

    Returns:
        scores [B, K], float32 (float64 for float64 tables); -inf, with gradient 0, where `item_ids` is -1.

    Contract:
        Every row of a gradient is summed in the order of (b, k), more than 32 entries by the float64 sum of those of 32 each, so
        gradients have the same bits for any number of threads, and sparse ones the same as dense ones. What -1 stands for
        touches no row.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.
        IndexError: an id out of range (CPU).
        RuntimeError: `sparse_grad` under torch.compile.

    Cost:
        O(B·K·D) time, O(B·K) memory besides the gradients; backward O(B·K·D + (U + N)·D) time
        and 4 bytes a row of either table, sparse O(B·K·D).

    Example:
        >>> users, items = torch.tensor([[1., 2.]]), torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
        >>> gathered_inner_product(users, items, torch.tensor([[2, 0]]))
        tensor([[3., 1.]])
    """
    users, items, item_bias = checks.alike_under_autocast(users, items, item_bias)
    check_arguments(OP, users, items, item_ids, user_ids, item_bias)
    sparse_grad = sparse_grad and asks_gradients(users, items, item_bias)
    return call(f"{OP}_forward", users, user_ids, items, item_ids, item_bias, sparse_grad)
