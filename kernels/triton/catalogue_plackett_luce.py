"""Triton form of catalogue_plackett_luce: the list's scores, the log-mass of the rest, their loss, and sums of both slopes."""

from __future__ import annotations

import torch
from rankdistill.kernels.triton.catalogue_log_mass import Catalogue, Products, whole_catalogue
from rankdistill.kernels.triton.gathered_inner_product import Call, call_of
from rankdistill.kernels.triton.plackett_luce import plackett_luce_backward, plackett_luce_forward
from torch import Tensor

NO_SLOPES = ((0, 0), (0,), (0,), (0,), (0, 0), (0, 0), (0,))


def listed_items(item_ids: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """item_ids with -1 past each row's length, and the lengths; without them a row ends at its first -1."""
    if lengths is None:
        lengths = (item_ids != -1).cumprod(1).sum(1)
    padding = torch.arange(item_ids.shape[1], device=item_ids.device) >= lengths[:, None]
    return item_ids.masked_fill(padding, -1), lengths


def table_slopes(
    call: Call,
    catalogue: Products | Catalogue,
    list_slopes: Tensor,
    mass_slopes: Tensor,
    tops: Tensor,
    sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by users, items and biases of scores' and log-masses' gradients; the list's are added in place."""
    by_user, by_item, by_bias = catalogue.grads(mass_slopes, tops, sums)
    by_user += call.row_grads(list_slopes)
    call.add_item_grads(list_slopes, by_item, by_bias, None, call.listed(), adds=True)
    return by_user, by_item, by_bias


def catalogue_plackett_luce_forward(
    users: Tensor, items: Tensor, item_ids: Tensor, lengths: Tensor | None, exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None, item_bias: Tensor | None, with_slopes: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    item_ids, lengths = listed_items(item_ids, lengths)
    call = call_of(users, None, items, item_ids, item_bias)
    catalogue = whole_catalogue(users, items, exclude_indptr, exclude_indices, item_bias, item_ids)
    scores = call.scores()
    log_masses, tops, sums = catalogue.mass()
    losses = plackett_luce_forward(scores, log_masses[:, None], lengths)
    if not with_slopes:
        return losses, *(call.empty(*shape) for shape in NO_SLOPES)
    ones = losses.new_ones(()).expand(len(losses))
    list_slopes, mass_slopes = plackett_luce_backward(ones, scores, log_masses[:, None], lengths)
    mass_slopes = mass_slopes[:, 0]
    slopes = table_slopes(call, catalogue, list_slopes, mass_slopes, tops, sums)
    return losses, list_slopes, mass_slopes.clone(), tops, sums, *slopes


def catalogue_plackett_luce_backward(
    grad_losses: Tensor, users: Tensor, items: Tensor, item_ids: Tensor, lengths: Tensor | None,
    exclude_indptr: Tensor | None, exclude_indices: Tensor | None, item_bias: Tensor | None, list_slopes: Tensor,
    mass_slopes: Tensor, tops: Tensor, sums: Tensor, *slopes: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad = grad_losses.to(list_slopes.dtype)
    # The host waits for this one answer, which saves three products.
    if len(grad) and bool((grad == grad[0]).all()):
        return tuple((grad[0] * slope).to(users.dtype) for slope in slopes)
    item_ids, lengths = listed_items(item_ids, lengths)
    call = call_of(users, None, items, item_ids, item_bias)
    catalogue = whole_catalogue(users, items, exclude_indptr, exclude_indices, item_bias, item_ids)
    grads = table_slopes(
        call, catalogue, (grad[:, None] * list_slopes).contiguous(), grad * mass_slopes, tops, sums
    )
    return tuple(g.to(users.dtype) for g in grads)
