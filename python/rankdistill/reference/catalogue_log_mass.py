"""log_masses[b] = log of the sum over all items n, but those that row b excludes, of e^(<users[b], items[n]> + item_bias[n])."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 256  # of the [B, N] scores that exist at a time


def counted_scores(
    users: Tensor, items: Tensor, indptr: Tensor | None, indices: Tensor | None, item_bias: Tensor | None
) -> Tensor:
    """[B, N] in float64; -inf for an excluded item. `indptr` may begin anywhere in `indices`."""
    scores = users.double() @ items.double().t()
    if item_bias is not None:
        scores = scores + item_bias.double()
    if indptr is not None:
        rows = torch.arange(len(users), device=users.device).repeat_interleave(indptr.diff())
        scores[rows, indices[int(indptr[0]) : int(indptr[-1])]] = -torch.inf
    return scores


def row_pieces(indptr: Tensor | None, B: int):
    for b in range(0, B, ROWS):
        rows = slice(b, min(b + ROWS, B))
        yield rows, None if indptr is None else indptr[b : rows.stop + 1]


def catalogue_log_mass_forward(
    users: Tensor,
    items: Tensor,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    item_bias: Tensor | None,
    skipped_mass: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """log_masses, and the pair that they are made of: the largest score of a row and Σ e^(score − largest), all [B]."""
    wide = torch.float64 if users.dtype == torch.float64 else torch.float32
    log_masses, tops, sums = (torch.empty(len(users), dtype=wide, device=users.device) for _ in range(3))
    for rows, indptr in row_pieces(exclude_indptr, len(users)):
        scores = counted_scores(users[rows], items, indptr, exclude_indices, item_bias)
        nothing = scores.new_full((len(scores), 1), -torch.inf)
        top = torch.cat([scores, nothing], 1).amax(1)
        total = (scores - top.where(top > -torch.inf, 0)[:, None]).exp().sum(1)
        log_masses[rows], tops[rows], sums[rows] = top + total.log(), top, total
    return log_masses, tops, sums


def catalogue_log_mass_backward(
    grad_log_masses: Tensor,
    users: Tensor,
    items: Tensor,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    item_bias: Tensor | None,
    tops: Tensor,
    sums: Tensor,
    skipped_mass: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_users = torch.zeros(users.shape, dtype=torch.float64, device=users.device)
    grad_items = torch.zeros(items.shape, dtype=torch.float64, device=users.device)
    biases = len(items) if item_bias is not None else 0
    grad_bias = torch.zeros(biases, dtype=torch.float64, device=users.device)
    for rows, indptr in row_pieces(exclude_indptr, len(users)):
        scores = counted_scores(users[rows], items, indptr, exclude_indices, item_bias)
        grad = grad_log_masses[rows].double()
        scale = (grad / sums[rows].double()).masked_fill((sums[rows] == 0) | (grad == 0), 0)
        weights = scale[:, None] * (scores - tops[rows, None].double()).exp()
        weights = weights.masked_fill((scale == 0)[:, None], 0)
        # 0 times what has no part is 0.
        grad_users[rows] = weights @ torch.where(items.isfinite(), items, 0).double()
        grad_items += weights.t() @ users[rows].double().masked_fill((scale == 0)[:, None], 0)
        if biases:
            grad_bias += weights.sum(0)
    return grad_users.to(users.dtype), grad_items.to(items.dtype), grad_bias.to(items.dtype)
