"""scores[b, k] = <users[user_ids[b]], items[item_ids[b, k]]>; -inf where item_ids is -1."""

from __future__ import annotations

import torch
from torch import Tensor


def rows(users: Tensor, user_ids: Tensor | None) -> Tensor:
    return users if user_ids is None else users[user_ids]


def gathered_inner_product_forward(
    users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor
) -> Tensor:
    wide = torch.float64 if users.dtype == torch.float64 else torch.float32
    listed = items[item_ids.clamp_min(0)].to(wide)  # [B, K, D]
    scores = torch.einsum("bd,bkd->bk", rows(users, user_ids).to(wide), listed)
    return scores.masked_fill(item_ids < 0, -torch.inf)


def gathered_inner_product_backward(
    grad_scores: Tensor, users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor
) -> tuple[Tensor, Tensor]:
    wide = grad_scores.dtype
    listed = items[item_ids.clamp_min(0)].to(wide)  # [B, K, D]
    grad = grad_scores.masked_fill(item_ids < 0, 0)
    row_grads = torch.einsum("bk,bkd->bd", grad, listed.masked_fill((item_ids < 0)[..., None], 0))
    if user_ids is None:
        grad_users = row_grads
    else:
        grad_users = torch.zeros(users.shape, dtype=wide, device=users.device)
        grad_users.index_put_((user_ids,), row_grads, accumulate=True)
    pairs = grad[..., None] * rows(users, user_ids).to(wide)[:, None, :]  # [B, K, D]
    grad_items = torch.zeros(items.shape, dtype=wide, device=items.device)
    grad_items.index_put_((item_ids.clamp_min(0),), pairs, accumulate=True)
    return grad_users.to(users.dtype), grad_items.to(items.dtype)
