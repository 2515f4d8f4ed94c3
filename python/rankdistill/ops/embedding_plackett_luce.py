"""The Plackett–Luce loss straight from embeddings: neither the gathered vectors nor their scores are kept."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.gathered_inner_product import (
    check_arguments,
    check_ids,
    contiguous,
    dense_grads,
    dense_like,
    gathered_inner_product,
    sparse_grads,
    sparse_tables,
)
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, native_or
from rankdistill.ops.plackett_luce import plackett_luce
from rankdistill.ops.registration import (
    LIBRARY,
    asks_gradients,
    call,
    differentiate,
    implement,
    no_double_backward,
)
from rankdistill.ops.slopes import weighted_rows
from rankdistill.ops.table_rows import shared, table_rows
from rankdistill.ops.touched_rows import expect_eager
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import embedding_plackett_luce as reference

OP = "embedding_plackett_luce"
NO_ITEM = 1 << 62  # more than any catalogue has

LIBRARY.define(
    f"{OP}_forward(Tensor users, Tensor? user_ids, Tensor items, Tensor item_ids, Tensor? lengths, SymInt list_size,"
    " bool with_slopes, Tensor? item_bias, bool sparse_grad) -> (Tensor, Tensor, Tensor)"
)
BACKWARD = (
    "(Tensor grad_losses, Tensor users, Tensor? user_ids, Tensor items, Tensor item_ids, Tensor slopes,"
    " Tensor user_slopes, Tensor? item_bias)"
)
LIBRARY.define(f"{OP}_backward{BACKWARD} -> (Tensor, Tensor, Tensor)")
LIBRARY.define(f"{OP}_sparse_backward{BACKWARD} -> (Tensor, Tensor, Tensor, Tensor, Tensor)")


@torch.library.register_fake(f"rankdistill::{OP}_forward", lib=LIBRARY)
def _(users, user_ids, items, item_ids, lengths, list_size, with_slopes, item_bias, sparse_grad):
    expect_eager(OP, sparse_grad)
    wide = accumulator_dtype(users.dtype)
    B, listed = item_ids.shape
    rows = B if with_slopes else 0
    return (
        users.new_empty((B,), dtype=wide),
        users.new_empty((rows, listed), dtype=wide),
        users.new_empty((rows, users.shape[1]), dtype=wide),
    )


@torch.library.register_fake(f"rankdistill::{OP}_backward", lib=LIBRARY)
def _(grad_losses, users, user_ids, items, item_ids, slopes, user_slopes, item_bias):
    return dense_like(users, items, item_bias)


def check_rows(users, user_ids, items, item_ids, lengths, list_size):
    check_ids(OP, users, user_ids, items, item_ids)
    if lengths is not None:
        checks.check_indices(OP, "lengths", lengths, 0, list_size + 1)
    if checks.first_out_of_range(item_ids, 0, items.shape[0]) < 0:
        return
    absent = item_ids[:, :list_size] < 0
    if bool(absent.any()):
        if lengths is not None:
            absent = absent & (torch.arange(list_size) < lengths[:, None])
        if bool(absent.any()):
            b, k = absent.nonzero()[0].tolist()
            raise IndexError(
                f"{OP}: expected listed item_ids in [0, {items.shape[0]}); got -1 at position [{b}, {k}]"
            )


def forward_reference(
    users, user_ids, items, item_ids, lengths, list_size, with_slopes, item_bias, sparse_grad
):
    if users.device.type == "cpu":
        check_rows(users, user_ids, items, item_ids.contiguous(), lengths, list_size)
    return reference.embedding_plackett_luce_forward(
        users, user_ids, items, item_ids, lengths, list_size, with_slopes, item_bias
    )


def forward_native(users, user_ids, items, item_ids, lengths, list_size, with_slopes, item_bias, sparse_grad):
    users, user_ids, items, item_ids, lengths, item_bias = contiguous(
        users, user_ids, items, item_ids, lengths, item_bias
    )
    check_rows(users, user_ids, items, item_ids, lengths, list_size)
    wide, (B, listed), D = accumulator_dtype(users.dtype), item_ids.shape, users.shape[1]
    losses = torch.empty(B, dtype=wide)
    rows = B if with_slopes else 0
    slopes, user_slopes = torch.empty((rows, listed), dtype=wide), torch.empty((rows, D), dtype=wide)
    _native.embedding_plackett_luce_forward(
        DTYPE_CODES[users.dtype], address(users), address(user_ids), address(items), address(item_ids),
        address(item_bias), address(lengths), address(losses), address(slopes) if with_slopes else 0,
        address(user_slopes) if with_slopes else 0, B, list_size, listed - list_size, D,
    )  # fmt: skip
    return losses, slopes, user_slopes


def backward_native(
    grad_losses, users, user_ids, items, item_ids, slopes, user_slopes, item_bias, *, grads=dense_grads
):
    users, user_ids, items, item_ids = contiguous(users, user_ids, items, item_ids)
    check_ids(OP, users, user_ids, items, item_ids)
    wide, rows = accumulator_dtype(users.dtype), len(item_ids)
    slopes, user_slopes = slopes.contiguous(), user_slopes.contiguous()
    checks.expect_layout(
        OP, slopes=(slopes, item_ids.shape, wide), user_slopes=(user_slopes, (rows, users.shape[1]), wide)
    )
    checks.expect(grad_losses.shape == (rows,), OP, f"grad_losses of shape {[rows]}", grad_losses)
    scale = grad_losses.to(wide)
    of_scores, of_users = weighted_rows(scale, slopes), weighted_rows(scale, user_slopes)
    return grads(of_scores, of_users, users, user_ids, items, item_ids, item_bias)


def sparse_backward_native(*args):
    return backward_native(*args, grads=sparse_grads)


REFERENCE = {
    "forward": forward_reference,
    "backward": reference.embedding_plackett_luce_backward,
    "sparse_backward": reference.embedding_plackett_luce_sparse_backward,
}
NATIVE = {
    "forward": forward_native,
    "backward": backward_native,
    "sparse_backward": sparse_backward_native,
}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
TRITON = triton_or(OP, "forward", "backward", "sparse_backward")
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def counted_ids(item_ids: Tensor, lengths: Tensor | None, list_size: int) -> Tensor:
    """-1 in place of the ids past a list's length, which touch no row.

    On a device, which cannot raise, -1 within a list becomes an id in no catalogue: its row is NaN and touches no item.
    """
    if lengths is not None:
        item_ids = without_padding(item_ids, lengths, list_size)
    if item_ids.device.type == "cpu":
        return item_ids
    column = torch.arange(item_ids.shape[1], device=item_ids.device)
    counted = (
        (column < list_size) if lengths is None else (column < lengths.clamp_max(list_size).unsqueeze(1))
    )
    return item_ids.masked_fill(counted & (item_ids == -1), NO_ITEM)


def without_padding(item_ids: Tensor, lengths: Tensor, list_size: int) -> Tensor:
    """-1 in place of the ids past a list's length."""
    column = torch.arange(item_ids.shape[1], device=item_ids.device)
    return item_ids.masked_fill((column < list_size) & (column >= lengths.unsqueeze(1)), -1)


def _setup(ctx, inputs, output):
    users, user_ids, items, item_ids, _, _, with_slopes, item_bias, sparse_grad = inputs
    _, slopes, user_slopes = output
    ctx.mark_non_differentiable(slopes, user_slopes)
    ctx.set_materialize_grads(False)
    ctx.with_slopes, ctx.sparse_grad = with_slopes, sparse_grad
    ctx.save_for_backward(users, user_ids, items, item_ids, slopes, user_slopes, item_bias)


def _backward(ctx, grad_losses, *_):
    if not ctx.with_slopes:
        raise RuntimeError(f"{OP}: expected a call with_slopes for a backward; got one without")
    if grad_losses is None:
        return (None,) * 9
    saved = ctx.saved_tensors
    if ctx.sparse_grad:
        grads = call(f"{OP}_sparse_backward", grad_losses, *saved)
        grad_users, grad_items, grad_bias = sparse_tables(grads, *saved[:4], saved[6])
    else:
        grad_users, grad_items, grad_bias = call(f"{OP}_backward", grad_losses, *saved)
    return grad_users, None, grad_items, *(None,) * 4, None if saved[6] is None else grad_bias, None


differentiate(f"{OP}_forward", _backward, _setup)
for suffix in ("backward", "sparse_backward"):
    torch.library.register_autograd(f"rankdistill::{OP}_{suffix}", no_double_backward(OP), lib=LIBRARY)


def shared_tail_scores(
    users: Tensor, items: Tensor, item_bias: Tensor | None, tail_ids: Tensor, user_ids: Tensor | None
) -> Tensor:
    """[B, L] one product of the rows' users and the tail's items; NaN for an id out of range, on a device."""
    wide = accumulator_dtype(users.dtype)
    unknown = None
    if tail_ids.device.type != "cpu":
        unknown = (tail_ids < 0) | (tail_ids >= len(items))
        tail_ids = tail_ids.masked_fill(unknown, 0)
    rows = users if user_ids is None else table_rows(users, user_ids)
    scores = rows.to(wide) @ table_rows(items, tail_ids).to(wide).T
    if item_bias is not None:
        scores = scores + table_rows(item_bias, tail_ids).to(wide)
    return scores if unknown is None else scores.masked_fill(unknown, torch.nan)


def with_shared_tail(users, items, item_ids, list_size, lengths, user_ids, item_bias, sparse_grad, tail_ids):
    """The losses as a composition: the listed items' scores, and those of a tail that all rows share."""
    checks.check_given(OP, "tail_ids", tail_ids, 0, items.shape[0])
    if users.device.type == "cpu" and not torch.compiler.is_compiling():
        check_rows(users, user_ids, items, item_ids.contiguous(), lengths, list_size)
    (users, items, item_bias), of_tail = zip(*map(shared, (users, items, item_bias)), strict=True)
    scores = gathered_inner_product(users, items, item_ids, user_ids, item_bias, sparse_grad)
    tail = shared_tail_scores(*of_tail, tail_ids, user_ids)
    if item_ids.shape[1] > list_size:
        tail = torch.cat([scores[:, list_size:], tail], dim=1)
    return plackett_luce(scores[:, :list_size], tail, lengths)


def embedding_plackett_luce(
    users: Tensor,
    items: Tensor,
    item_ids: Tensor,
    list_size: int,
    lengths: Tensor | None = None,
    user_ids: Tensor | None = None,
    item_bias: Tensor | None = None,
    sparse_grad: bool = False,
    tail_ids: Tensor | None = None,
) -> Tensor:
    """`plackett_luce` of listed items' inner products with each row's user, in one pass over their vectors.

    losses = plackett_luce(scores[:, :K], scores[:, K:], lengths), scores = gathered_inner_product(users, items,
    item_ids, user_ids, item_bias), K = list_size

    Args:
        users: [U, D] float table; [B, D] where `user_ids` is None.
        items: [N, D] float table of the same dtype.
        item_ids: [B, K + L] int64: the list in order, then the tail in any order; -1 in the tail is no item.
        list_size: K.
        lengths: [B] int64 in [0, K], how many of each list count; None for all.
        user_ids: [B] int64 in [0, U), or None: row b of `users` is then user b. Ids may repeat.
        item_bias: [N] of the dtype of `items`, or None.
        sparse_grad: as for `gathered_inner_product`; ids past a list's length touch no row.
        tail_ids: [L'] int64 in [0, N), or None: items in the tail of every row beside its own, which may be none. Worth it
            from some 500 on: their scores are one matrix product.

    Returns:
        losses [B], float32 (float64 for float64 tables).

    Contract:
        As `plackett_luce`. Gradients, dense or sparse, have the same bits for any number of threads, but for those of
        `tail_ids`, whose product is torch's; dense ones have the sparse ones' bits. In half precision they are rounded before
        the others are added. On CUDA an id out of range makes every row NaN.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.
        IndexError: an id out of range, or -1 within a list (CPU).
        RuntimeError: `sparse_grad` under torch.compile.

    Cost:
        O(B·(K + L)·D) time; B·(K + L + D) numbers kept for the backward; backward O((U + N)·D) besides,
        sparse nothing. With `tail_ids` three products of B·L'·D besides, and 2·B·(K + L + L') numbers kept.

    Source:
        The loss of Kang et al., DE-RRD, CIKM 2020, and of every list-wise method that scores by inner products.

    Example:
        >>> users, items = torch.zeros(1, 2), torch.ones(3, 2)
        >>> embedding_plackett_luce(users, items, torch.tensor([[0, 1]]), list_size=1)
        tensor([0.6931])
    """
    users, items, item_bias = checks.alike_under_autocast(users, items, item_bias)
    check_arguments(OP, users, items, item_ids, user_ids, item_bias)
    listed = item_ids.shape[1]
    checks.expect(
        0 <= list_size <= listed, OP, f"list_size in [0, {listed}], the columns of item_ids", list_size
    )
    if lengths is not None:
        checks.expect_tensor(OP, "lengths", lengths, 1, (torch.int64,))
        checks.expect(
            lengths.shape[0] == item_ids.shape[0], OP, f"{item_ids.shape[0]} lengths, as item_ids", lengths
        )
        checks.expect(
            lengths.device == users.device, OP, f"lengths on the device of users ({users.device})", lengths
        )
        checks.check_if_asked(OP, "lengths", lengths, 0, list_size + 1)
    if tail_ids is not None:
        checks.expect_tensor(OP, "tail_ids", tail_ids, 1, (torch.int64,))
        checks.expect(
            tail_ids.device == users.device, OP, f"tail_ids on the device of users ({users.device})", tail_ids
        )
    item_ids = counted_ids(item_ids, lengths, list_size)
    checks.check_if_asked(OP, "listed item_ids", item_ids, -1, items.shape[0])
    with_slopes = asks_gradients(users, items, item_bias)
    sparse_grad = sparse_grad and with_slopes
    if tail_ids is not None:
        return with_shared_tail(
            users, items, item_ids, list_size, lengths, user_ids, item_bias, sparse_grad, tail_ids
        )
    return call(
        f"{OP}_forward",
        users,
        user_ids,
        items,
        item_ids,
        lengths,
        list_size,
        with_slopes,
        item_bias,
        sparse_grad,
    )[0]
