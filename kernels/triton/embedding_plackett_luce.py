"""Triton form of embedding_plackett_luce: the scores of listed items, their loss and slopes, and sums by user and by id.

Scores [B, K + L] exist between the kernels, the gathered [B, K + L, D] never.
"""

from __future__ import annotations

import torch
from rankdistill.kernels.triton.gathered_inner_product import call_of, dense_grads, narrowed, sparse_grads
from rankdistill.kernels.triton.plackett_luce import plackett_luce_forward, plackett_luce_slopes
from torch import Tensor


def embedding_plackett_luce_forward(
    users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor, lengths: Tensor | None, list_size: int,
    with_slopes: bool, item_bias: Tensor | None, sparse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    call = call_of(users, user_ids, items, item_ids, item_bias)
    scores = call.scores()
    listed, tail = scores[:, :list_size], scores[:, list_size:]
    if not with_slopes:
        return (
            plackett_luce_forward(listed, tail, lengths),
            call.empty(0, item_ids.shape[1]),
            call.empty(0, users.shape[1]),
        )
    slopes = torch.empty_like(scores)
    losses = plackett_luce_slopes(listed, tail, lengths, (slopes[:, :list_size], slopes[:, list_size:]))
    return losses, slopes, call.row_grads(slopes)


def embedding_plackett_luce_backward(
    grad_losses: Tensor, users: Tensor, user_ids: Tensor | None, items: Tensor, item_ids: Tensor, slopes: Tensor,
    user_slopes: Tensor, item_bias: Tensor | None, grads=dense_grads,
) -> tuple[Tensor, ...]:  # fmt: skip
    call = call_of(users, user_ids, items, item_ids, item_bias)
    scale = grad_losses.to(slopes.dtype)[:, None]
    of_scores, of_users = ((scale * part).masked_fill(scale == 0, 0) for part in (slopes, user_slopes))
    return narrowed(grads(call, of_scores, of_users), users.dtype)


def embedding_plackett_luce_sparse_backward(*args) -> tuple[Tensor, ...]:
    return embedding_plackett_luce_backward(*args, grads=sparse_grads)
