"""Triton form of catalogue_plackett_luce: the list's scores, the log-mass of the rest, their loss, and sums of both slopes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from rankdistill.kernels.triton.catalogue_log_mass import Catalogue, Products, whole_catalogue
from rankdistill.kernels.triton.gathered_inner_product import Call, call_of
from rankdistill.kernels.triton.plackett_luce import plackett_luce_forward, plackett_luce_slopes
from torch import Tensor

NO_ITEM = tl.constexpr(1 << 62)  # in no catalogue
NO_SLOPES = ((0, 0), (0,), (0,), (0,), (0, 0), (0, 0), (0,))


@triton.jit(do_not_specialize=["K"])
def catalogue_plackett_luce_lists_kernel(
    ids_ptr, lengths_ptr, listed_ptr, counts_ptr, stride_row, stride_column, K, HAS_LENGTHS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, BLOCK)
    ids = tl.load(ids_ptr + row * stride_row + slots * stride_column, mask=slots < K, other=-1)
    if HAS_LENGTHS:
        count = tl.load(lengths_ptr + row)
        ids = tl.where(ids == -1, NO_ITEM, ids)  # one that should be there: the row becomes NaN
    else:
        count = tl.min(tl.where((ids == -1) & (slots < K), slots, K), 0).to(tl.int64)
    tl.store(listed_ptr + row * K + slots, tl.where(slots < count, ids, -1), mask=slots < K)
    tl.store(counts_ptr + row, count)


def listed_items(item_ids: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """item_ids with -1 past each row's length, and the lengths; without them a row ends at its first -1."""
    B, K = item_ids.shape
    listed = torch.empty((B, K), dtype=torch.int64, device=item_ids.device)
    counts = torch.empty(B, dtype=torch.int64, device=item_ids.device)
    if B:
        catalogue_plackett_luce_lists_kernel[(B,)](
            item_ids, counts if lengths is None else lengths.contiguous(), listed, counts, *item_ids.stride(), K,
            HAS_LENGTHS=lengths is not None, BLOCK=triton.next_power_of_2(max(K, 1)),
        )  # fmt: skip
    return listed, counts


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
    tail = log_masses[:, None]
    if not with_slopes:
        losses = plackett_luce_forward(scores, tail, lengths)
        return losses, *(call.empty(*shape) for shape in NO_SLOPES)
    list_slopes, mass_slopes = torch.empty_like(scores), torch.empty_like(log_masses)
    losses = plackett_luce_slopes(scores, tail, lengths, (list_slopes, mass_slopes[:, None]))
    slopes = table_slopes(call, catalogue, list_slopes, mass_slopes, tops, sums)
    return losses, list_slopes, mass_slopes, tops, sums, *slopes


def catalogue_plackett_luce_backward(
    grad_losses: Tensor, users: Tensor, items: Tensor, item_ids: Tensor, lengths: Tensor | None,
    exclude_indptr: Tensor | None, exclude_indices: Tensor | None, item_bias: Tensor | None, list_slopes: Tensor,
    mass_slopes: Tensor, tops: Tensor, sums: Tensor, *slopes: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    grad = grad_losses.to(list_slopes.dtype)
    # A sum's and a mean's gradient is one number spread out. Of others the host waits for an answer that saves three products.
    if len(grad) and (grad.stride(0) == 0 or bool((grad == grad[0]).all())):
        return tuple((grad[0] * slope).masked_fill(grad[0] == 0, 0).to(users.dtype) for slope in slopes)
    item_ids, lengths = listed_items(item_ids, lengths)
    call = call_of(users, None, items, item_ids, item_bias)
    catalogue = whole_catalogue(users, items, exclude_indptr, exclude_indices, item_bias, item_ids)
    none = grad == 0  # of what has no part even what is no number is 0
    of_lists = (grad[:, None] * list_slopes).masked_fill(none[:, None], 0).contiguous()
    of_masses = (grad * mass_slopes).masked_fill(none, 0)
    grads = table_slopes(call, catalogue, of_lists, of_masses, tops, sums)
    return tuple(g.to(users.dtype) for g in grads)
