"""The Plackett–Luce loss of listed items' inner products with a user, and its derivatives by scores and by user."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference.gathered_inner_product import (
    gathered_inner_product_backward,
    gathered_inner_product_forward,
    gathered_inner_product_sparse_backward,
    listed_rows,
    scaled_rows,
)
from rankdistill.reference.plackett_luce import plackett_luce_backward, plackett_luce_forward


def embedding_plackett_luce_forward(
    users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor, lengths: Tensor | None, list_size: int,
    with_slopes: bool, item_bias: Tensor | None = None, sparse_grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    scores = gathered_inner_product_forward(users, user_ids, items, item_ids, item_bias)
    listed, tail = scores[:, :list_size], scores[:, list_size:]
    losses = plackett_luce_forward(listed, tail, lengths)
    if not with_slopes:
        return losses, losses.new_empty((0, item_ids.shape[1])), losses.new_empty((0, users.shape[1]))
    slopes = torch.cat(plackett_luce_backward(torch.ones_like(losses), listed, tail, lengths), dim=1)
    slopes = slopes.masked_fill(item_ids < 0, 0)
    absent = (item_ids < 0) | (item_ids >= len(items))
    vectors = listed_rows(items, item_ids).to(slopes.dtype).masked_fill(absent[..., None], 0)  # [B, K + L, D]
    return losses, slopes, torch.einsum("bk,bkd->bd", slopes, vectors)


def embedding_plackett_luce_backward(
    grad_losses: Tensor, users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor, slopes: Tensor,
    user_slopes: Tensor, item_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad_scores = scaled_rows(grad_losses.to(slopes.dtype), slopes)
    return gathered_inner_product_backward(grad_scores, users, user_ids, items, item_ids, item_bias)


def embedding_plackett_luce_sparse_backward(
    grad_losses: Tensor, users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor, slopes: Tensor,
    user_slopes: Tensor, item_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grad_scores = scaled_rows(grad_losses.to(slopes.dtype), slopes)
    return gathered_inner_product_sparse_backward(grad_scores, users, user_ids, items, item_ids, item_bias)
