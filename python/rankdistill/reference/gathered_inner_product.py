"""scores[b, k] = <users[user_ids[b]], items[item_ids[b, k]]> + item_bias[item_ids[b, k]]; -inf where item_ids is -1.

An id out of range is never read: its row is NaN (devices cannot raise; on the CPU it is an error before this).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference.touched_rows import compacted


def rows(users: Tensor, user_ids: Tensor | None) -> Tensor:
    return users if user_ids is None else users[user_ids.clamp(0, max(len(users) - 1, 0))]


def listed_rows(items: Tensor, item_ids: Tensor) -> Tensor:
    if not len(items):
        return items.new_zeros((*item_ids.shape, *items.shape[1:]))
    return items[item_ids.clamp(0, len(items) - 1)]  # [B, K, D]


def bad_rows(users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor) -> Tensor:
    """Which rows have an id out of range: [B] bool."""
    bad = ((item_ids < -1) | (item_ids >= len(items))).any(1)
    return bad if user_ids is None else bad | (user_ids < 0) | (user_ids >= len(users))


def scaled_rows(weights: Tensor, rows: Tensor) -> Tensor:
    """[B, W] rows times weights [B]; a row of weight 0 is 0, whatever it was."""
    return (weights[:, None] * rows).masked_fill((weights == 0)[:, None], 0)


def gathered_inner_product_forward(
    users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor, item_bias: Tensor | None = None,
    sparse_grad: bool = False,
) -> Tensor:  # fmt: skip
    wide = torch.float64 if users.dtype == torch.float64 else torch.float32
    listed = listed_rows(items, item_ids).to(wide)
    scores = torch.einsum("bd,bkd->bk", rows(users, user_ids).to(wide), listed)
    if item_bias is not None:
        scores = scores + listed_rows(item_bias, item_ids).to(wide)
    scores = scores.masked_fill(item_ids < 0, -torch.inf)
    return scores.masked_fill(bad_rows(users, user_ids, items, item_ids)[:, None], torch.nan)


def gathered_inner_product_backward(
    grad_scores: Tensor, users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor,
    item_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    wide = grad_scores.dtype
    bad = bad_rows(users, user_ids, items, item_ids)
    absent = (item_ids < 0) | (item_ids >= len(items)) | bad[:, None]
    grad = grad_scores.masked_fill(absent, 0)
    absent = absent | (grad == 0)  # 0 times what has no part is 0
    listed = listed_rows(items, item_ids).to(wide).masked_fill(absent[..., None], 0)
    row_grads = torch.einsum("bk,bkd->bd", grad, listed).masked_fill(bad[:, None], torch.nan)
    grad_users = row_grads
    if user_ids is not None:
        grad_users = torch.zeros(users.shape, dtype=wide, device=users.device)
        known = (user_ids >= 0) & (user_ids < len(users))
        kept = row_grads.masked_fill(~known[:, None], 0)
        if len(users):
            grad_users.index_put_((user_ids.clamp(0, len(users) - 1),), kept, accumulate=True)
    pairs = grad[..., None] * rows(users, user_ids).to(wide)[:, None, :]  # [B, K, D]
    grad_items = torch.zeros(items.shape, dtype=wide, device=items.device)
    grad_bias = torch.zeros(0 if item_bias is None else len(items), dtype=wide, device=items.device)
    if len(items):
        pairs = pairs.masked_fill(absent[..., None], 0)
        grad_items.index_put_((item_ids.clamp(0, len(items) - 1),), pairs, accumulate=True)
    if len(grad_bias):
        grad_bias.index_put_((item_ids.clamp(0, len(items) - 1),), grad, accumulate=True)
    return grad_users.to(users.dtype), grad_items.to(items.dtype), grad_bias.to(items.dtype)


def gathered_inner_product_sparse_backward(
    grad_scores: Tensor, users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor,
    item_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Touched users and their gradients (without user_ids: none, and every row's), touched items, theirs, their biases'."""
    touched, listed = compacted(item_ids, len(items))
    seen, compact_users = touched.new_empty(0), None
    if user_ids is not None:
        seen, compact_users = compacted(user_ids, len(users))
        users = users[seen]
    bias = None if item_bias is None else item_bias[touched]
    grads = gathered_inner_product_backward(grad_scores, users, compact_users, items[touched], listed, bias)
    return seen, grads[0], touched, *grads[1:]
