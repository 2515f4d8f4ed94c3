"""Losses whose normaliser runs over the whole catalogue, from the two tables: no [B, N] scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from rankdistill.functional.reduction import counted_places, reduce_rows, softplus, widened
from rankdistill.ops import (
    catalogue_log_mass,
    catalogue_plackett_luce,
    checks,
    gathered_inner_product,
    plackett_luce,
)
from rankdistill.ops.exclusions import check_exclusions_anywhere, exclusion_lists
from rankdistill.reference.catalogue_plackett_luce import joined_exclusions


def catalogue_cross_entropy(
    users: Tensor,
    items: Tensor,
    targets: Tensor,
    exclude: object = None,
    item_bias: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Softmax cross-entropy of one item per user among the whole catalogue.

    loss_b = log Σ_n e^score(b, n) − score(b, targets_b), score(b, n) = <users[b], items[n]> + item_bias[n]

    Args:
        users: [B, D] float.
        items: [N, D] float, of the same dtype.
        targets: [B] int64 in [0, N); -1 for a row that does not count.
        exclude: item ids that do not compete in a row, as CSR, as in `inner_product_topk`.
        item_bias: [N], or None.
        reduction: "mean" over rows that count, "sum" or "none".

    Returns:
        A scalar, or [B] for "none".

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or exclusions. IndexError: ids out of range (on a CPU).

    Cost:
        That of `catalogue_plackett_luce` with lists of one item.

    Example:
        >>> catalogue_cross_entropy(torch.zeros(1, 2), torch.ones(4, 2), torch.tensor([3])).exp()
        tensor(4.)
    """
    op = "catalogue_cross_entropy"
    checks.expect_tensor(op, "targets", targets, 1, (torch.int64,))
    losses = catalogue_plackett_luce(users, items, targets[:, None], None, exclude, item_bias)
    return reduce_rows(op, losses, targets >= 0, reduction)


def joined_log_mass(log_masses: list[Tensor]) -> Tensor:
    """The log-mass of a catalogue from those of its parts, each [B]: parts of one table, or what ranks gathered.

    log_mass = log Σ_r e^log_masses[r]; -inf, with gradient 0, where no part has mass.

    Args:
        log_masses: one [B] float tensor or more, of disjoint sets of items.

    Returns:
        [B] float. Any order of the parts gives the same to the sum's rounding; one order, the same bits.

    Raises:
        ValueError: no log-mass.

    Cost:
        O(R·B) time and memory for R parts.

    Example:
        >>> joined_log_mass([torch.tensor([0.0]), torch.tensor([-torch.inf])])
        tensor([0.])
    """
    checks.expect(len(log_masses) > 0, "joined_log_mass", "one log-mass or more", "none")
    stacked = torch.stack(list(log_masses))
    empty = (stacked == -torch.inf).all(0)
    # Without the mask the gradient of a row without mass would be NaN.
    return stacked.masked_fill(empty, 0).logsumexp(0).masked_fill(empty, -torch.inf)


def multinomial_likelihood(users: Tensor, items: Tensor, observed: object) -> Tensor:
    """The negative log-likelihood of each user's observed items under a softmax over the whole catalogue.

    loss = Σ_b Σ_{i in observed_b} [ log Σ_n e^score(b, n) − score(b, i) ], score(b, n) = <users[b], items[n]>

    Args:
        users: [B, D] float.
        items: [N, D] float, of the same dtype.
        observed: item ids of each row, as CSR, as `exclude` in `inner_product_topk`.

    Returns:
        A scalar: the sum over rows and items.

    Raises:
        ValueError, IndexError: malformed lists, ids out of range.

    Cost:
        That of `catalogue_log_mass`, and O(observed·D) time; nothing of observed·D or [B, N] in memory.

    Source:
        Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018, equation 2; without the 1e-12 that
        the released code of ConCF adds to probabilities.

    Example:
        >>> likes = torch.tensor([0, 2]), torch.tensor([0, 3])
        >>> multinomial_likelihood(torch.zeros(1, 2), torch.ones(4, 2), likes) / torch.tensor(4.0).log()
        tensor(2.)
    """
    op = "multinomial_likelihood"
    checks.expect(observed is not None, op, "observed as lists of items", observed)
    indptr, indices = exclusion_lists(op, observed, users)
    check_exclusions_anywhere(op, indptr, indices, len(items))
    wide_users, wide_items = widened(users, items)
    # Through the sum of each list's vectors: what is listed costs an addition, no product of its own.
    given = (wide_users * embedding_bag(indices, wide_items, indptr[:-1], mode="sum")).sum()
    return (catalogue_log_mass(users, items) * indptr.diff()).sum() - given


def unordered_ranking_distillation(listed: Tensor, rest: Tensor, lengths: Tensor | None = None) -> Tensor:
    """HetComp's easy loss: every listed item against the rest alone, whatever the order among the listed.

    losses[b] = Σ_{k < lengths[b]} [ log(e^rest_b + e^listed_bk) − listed_bk ]

    Args:
        listed: [B, K] float, student scores of the ranked (observed and teacher's top) items.
        rest: [B] float, log-mass of the items that are not ranked; -inf is none.
        lengths: [B] int64 in [0, K], how many of each row count; None for all.

    Returns:
        [B], float32 (float64 for float64 scores). Finite for finite scores: no floor under the mass.

    Raises:
        ValueError: shapes that do not fit. IndexError: a length outside [0, K] (on a CPU).

    Cost:
        O(B·K) time and memory.

    Source:
        Kang et al., Distillation from Heterogeneous Models for Top-K Recommendation (HetComp), WWW 2023.

    Example:
        >>> unordered_ranking_distillation(torch.zeros(1, 2), torch.zeros(1)) / torch.tensor(2.0).log()
        tensor([2.])
    """
    op = "unordered_ranking_distillation"
    checks.expect_tensor(op, "listed", listed, 2)
    checks.expect(rest.shape == listed.shape[:1], op, f"rest of shape {[len(listed)]}", rest)
    listed, rest = widened(listed, rest)
    counted = counted_places(op, listed, lengths)
    if counted is None:
        return softplus(rest[:, None] - listed).sum(1)
    terms = softplus(rest[:, None] - listed.masked_fill(~counted, 0))
    return terms.masked_fill(~counted, 0).sum(1)


def heterogeneous_compression(
    users: Tensor,
    items: Tensor,
    observed: Tensor,
    top: Tensor,
    exclude: object,
    ordered: bool,
    reduction: str = "sum",
) -> Tensor:
    """Heterogeneous compression (HetComp): a student learns what an ensemble ranks, first as a set, then in order.

    With E(X) the mass of unobserved items outside X, H the first half of `top` and Q its first tenth:
    easy (`ordered` false): Σ_{i in observed and top} [ log(E(top) + e^s_i) − s_i ];
    hard (`ordered` true): PL(observed; E(H)) + ½·(PL(H; E(H)) + PL(Q; E(Q))), PL the Plackett–Luce loss with that tail.

    Args:
        users: [B, D] float, the student's vectors of a batch of different users.
        items: [N, D] float, of the same dtype.
        observed: [B, P] int64, observed items in the teachers' order; -1 ends a row.
        top: [B, K] int64, the teachers' best unobserved items, in order; all K count.
        exclude: every observed item of each row, as CSR, as in `inner_product_topk`: they are in no mass.
        ordered: which of the two.
        reduction: "sum" over rows (the paper's, to which published weights belong), "mean" or "none".

    Returns:
        A scalar, or [B] for "none".

    Contract:
        Masses are summed directly: nothing cancels when the ranked items hold nearly all of it, where the released
        total less a part is 87 % wrong. Scores are neither clamped to ±40 nor masses floored at 1e-5, as released.

    Raises:
        TypeError, ValueError: wrong dtypes or shapes, a top with -1. IndexError: ids out of range (on a CPU).

    Cost:
        O(B·N·D) time once for the smallest mass; larger ones add the items between to it.

    Source:
        Kang et al., Distillation from Heterogeneous Models for Top-K Recommendation, WWW 2023.

    Example:
        >>> ids = torch.tensor([[0]]), torch.tensor([[1, 2]]), (torch.tensor([0, 1]), torch.tensor([0]))
        >>> heterogeneous_compression(torch.zeros(1, 2), torch.ones(4, 2), *ids, ordered=False) / torch.tensor(2.0).log()
        tensor(3.)
    """
    op = "heterogeneous_compression"
    for name, ids in (("observed", observed), ("top", top)):
        checks.expect_tensor(op, name, ids, 2, (torch.int64,))
        checks.expect(len(ids) == len(users), op, f"{name} with {len(users)} rows, as users", ids)
    checks.expect(not bool((top < 0).any()), op, "top without -1", top)
    lengths = (observed != -1).cumprod(1).sum(1)
    seen = gathered_inner_product(users, items, observed)
    best = gathered_inner_product(users, items, top)  # and its checks of the ids
    indptr, indices = exclusion_lists(op, exclude, users)
    check_exclusions_anywhere(op, indptr, indices, len(items))
    rest = catalogue_log_mass(users, items, joined_exclusions(top, indptr, indices, len(items)))
    if not ordered:
        losses = unordered_ranking_distillation(seen, rest, lengths)
        return reduce_rows(op, losses + unordered_ranking_distillation(best, rest), None, reduction)
    half, tenth = top.shape[1] // 2, top.shape[1] // 10
    below_half = joined_log_mass([rest, *best[:, half:].unbind(1)])
    below_tenth = joined_log_mass([rest, *best[:, tenth:].unbind(1)])
    losses = plackett_luce(seen, below_half, lengths)
    nested = plackett_luce(best[:, :half], below_half) + plackett_luce(best[:, :tenth], below_tenth)
    return reduce_rows(op, losses + nested / 2, None, reduction)
