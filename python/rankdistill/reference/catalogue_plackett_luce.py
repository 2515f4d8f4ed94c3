"""The Plackett–Luce loss of a list above the whole rest of the catalogue, and its derivatives with every upstream gradient 1."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference.catalogue_log_mass import catalogue_log_mass_backward, catalogue_log_mass_forward
from rankdistill.reference.gathered_inner_product import (
    gathered_inner_product_backward,
    gathered_inner_product_forward,
    scaled_rows,
)
from rankdistill.reference.plackett_luce import plackett_luce_backward, plackett_luce_forward


def listed_items(item_ids: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """item_ids with -1 past each row's length, and the lengths; without them a row ends at its first -1."""
    if lengths is None:
        lengths = (item_ids != -1).cumprod(1).sum(1)
    padding = torch.arange(item_ids.shape[1], device=item_ids.device) >= lengths[:, None]
    return item_ids.masked_fill(padding, -1).contiguous(), lengths


def joined_exclusions(
    item_ids: Tensor, indptr: Tensor | None, indices: Tensor | None, N: int
) -> tuple[Tensor, Tensor]:
    """The exclusions of each row and its listed items (-1 is none), ascending, as CSR; ids may repeat."""
    # No selection by mask, no repeat_interleave: torch gives those to threads, for which a forked child waits forever.
    listed = item_ids >= 0
    rows = torch.arange(len(item_ids), device=item_ids.device)
    nothing = torch.iinfo(torch.int64).max
    keys, counts = [torch.where(listed, rows[:, None] * N + item_ids, nothing).flatten()], listed.sum(1)
    if indptr is not None:
        starts = indices.new_zeros(len(indices) + 1).scatter_add_(
            0, indptr[1:-1], torch.ones_like(indptr[1:-1])
        )
        keys.append(starts[:-1].cumsum(0) * N + indices)
        counts = counts + indptr.diff()
    joined = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return joined, torch.cat(keys).sort().values[: int(joined[-1])].remainder(max(N, 1))


def catalogue_plackett_luce_forward(
    users: Tensor,
    items: Tensor,
    item_ids: Tensor,
    lengths: Tensor | None,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    item_bias: Tensor | None,
    with_slopes: bool,
) -> tuple[Tensor, ...]:
    """losses [B], the slopes by list [B, K] and log-mass [B], the mass as a pair, and the slopes by tables."""
    item_ids, lengths = listed_items(item_ids, lengths)
    exclude = joined_exclusions(item_ids, exclude_indptr, exclude_indices, len(items))
    scores = gathered_inner_product_forward(users, None, items, item_ids, item_bias)
    log_masses, tops, sums = catalogue_log_mass_forward(users, items, *exclude, item_bias, 0.0)
    losses = plackett_luce_forward(scores, log_masses[:, None], lengths)
    if not with_slopes:
        nothing = [losses.new_empty(shape) for shape in ((0, 0), (0,), (0,), (0,), (0, 0), (0, 0), (0,))]
        return losses, *nothing
    list_slopes, mass_slopes = plackett_luce_backward(
        torch.ones_like(losses), scores, log_masses[:, None], lengths
    )
    slopes = table_slopes(
        list_slopes, mass_slopes[:, 0], users, items, item_ids, exclude, item_bias, tops, sums
    )
    return losses, list_slopes, mass_slopes[:, 0].clone(), tops, sums, *slopes


def table_slopes(list_slopes, mass_slopes, users, items, item_ids, exclude, item_bias, tops, sums):
    """Gradients by users, items and biases (none where there are none) of scores' and log-masses' gradients."""
    wide = list_slopes.dtype
    users, items, item_bias = (None if t is None else t.to(wide) for t in (users, items, item_bias))
    of_mass = catalogue_log_mass_backward(mass_slopes, users, items, *exclude, item_bias, tops, sums, 0.0)
    of_list = gathered_inner_product_backward(list_slopes, users, None, items, item_ids, item_bias)
    return tuple(a + b for a, b in zip(of_mass, of_list, strict=True))


def catalogue_plackett_luce_backward(
    grad_losses: Tensor,
    users: Tensor,
    items: Tensor,
    item_ids: Tensor,
    lengths: Tensor | None,
    exclude_indptr: Tensor | None,
    exclude_indices: Tensor | None,
    item_bias: Tensor | None,
    list_slopes: Tensor,
    mass_slopes: Tensor,
    tops: Tensor,
    sums: Tensor,
    *_: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    item_ids, _lengths = listed_items(item_ids, lengths)
    exclude = joined_exclusions(item_ids, exclude_indptr, exclude_indices, len(items))
    grad = grad_losses.to(list_slopes.dtype)
    grads = table_slopes(
        scaled_rows(grad, list_slopes),
        (grad * mass_slopes).masked_fill(grad == 0, 0),
        users,
        items,
        item_ids,
        exclude,
        item_bias,
        tops,
        sums,
    )
    return tuple(g.to(users.dtype) for g in grads)
