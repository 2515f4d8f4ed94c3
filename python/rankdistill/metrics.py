"""Ranking metrics at cut-offs, batched: against the full catalogue or against sampled candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.ops import inner_product_topk
from rankdistill.rankings import top_of_scores

CUTOFFS = (10, 20, 50)


def hits_of(indices: Tensor, truth: CSR) -> Tensor:
    """Which listed items are relevant: [B, K] bool for items [B, K] (-1 is none) and each row's relevant items."""
    rows, columns = truth.pairs()
    width = truth.n_columns
    relevant = rows * width + columns  # ascending, as a CSR's pairs are
    keys = torch.arange(len(indices), device=indices.device)[:, None] * width + indices
    if not len(relevant):
        return torch.zeros_like(indices, dtype=torch.bool)
    found = torch.searchsorted(relevant, keys).clamp_max(len(relevant) - 1)
    return (relevant[found] == keys) & (indices >= 0)


def recall(hits: Tensor, relevant: Tensor, cutoff: int) -> Tensor:
    """hits in the first `cutoff` / relevant items."""
    return hits[:, :cutoff].sum(1) / relevant


def capped_recall(hits: Tensor, relevant: Tensor, cutoff: int) -> Tensor:
    """hits in the first `cutoff` / min(cutoff, relevant items); the released topology code prints it as P."""
    return hits[:, :cutoff].sum(1) / relevant.clamp_max(cutoff)


def precision(hits: Tensor, relevant: Tensor, cutoff: int) -> Tensor:
    """hits in the first `cutoff` / cutoff."""
    return hits[:, :cutoff].sum(1) / cutoff


def ndcg(hits: Tensor, relevant: Tensor, cutoff: int) -> Tensor:
    """Binary gains, discount 1/log2(position + 1), ideal over min(cutoff, relevant items)."""
    discount = 1 / torch.arange(2, cutoff + 2, device=hits.device, dtype=torch.float64).log2()
    gained = hits[:, :cutoff].double() @ discount[: hits[:, :cutoff].shape[1]]
    return gained / discount.cumsum(0)[relevant.long().clamp(1, cutoff) - 1]


def hit_rate(hits: Tensor, relevant: Tensor, cutoff: int) -> Tensor:
    """1 where any of the first `cutoff` is relevant."""
    return hits[:, :cutoff].any(1).double()


def mrr(hits: Tensor, relevant: Tensor, cutoff: int) -> Tensor:
    """1 / position of the first relevant item, 0 past `cutoff`."""
    positions = torch.arange(1, hits.shape[1] + 1, device=hits.device, dtype=torch.float64)
    return (
        (hits.double() / positions)[:, :cutoff].amax(1)
        if min(hits.shape[1], cutoff)
        else hits.sum(1).double()
    )


METRICS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "recall": recall, "ndcg": ndcg, "hit_rate": hit_rate, "mrr": mrr, "precision": precision,
    "capped_recall": capped_recall,
}  # fmt: skip


def ranking_metrics(
    indices: Tensor, truth: CSR, cutoffs: Sequence[int] = CUTOFFS, metrics: Sequence[str] = tuple(METRICS)
) -> dict[str, Tensor]:
    """Metrics of every row of a ranking.

    Args:
        indices: [B, K] int64 item ids, best first, -1 for none; K at least the largest cut-off.
        truth: B rows of relevant items, each with one or more.
        cutoffs: positions, > 0.
        metrics: names in `METRICS`.

    Returns:
        "name@cutoff" → [B] float64.

    Cost:
        O(B·K·log nnz) time, O(B·K) memory.

    Example:
        >>> truth = CSR.from_pairs(torch.tensor([0]), torch.tensor([5]), n_rows=1, n_columns=9)
        >>> ranking_metrics(torch.tensor([[3, 5]]), truth, cutoffs=[2], metrics=["mrr"])
        {'mrr@2': tensor([0.5000], dtype=torch.float64)}
    """
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"ranking_metrics: expected metrics of {', '.join(METRICS)}; got {name!r}")
    if min(cutoffs, default=1) < 1:
        raise ValueError(f"ranking_metrics: expected cutoffs above 0; got {min(cutoffs)}")
    if truth.n_rows != len(indices):
        raise ValueError(
            f"ranking_metrics: expected {len(indices)} rows of truth, as indices; got {truth.n_rows}"
        )
    hits, relevant = hits_of(indices, truth), truth.counts.double()
    return {
        f"{name}@{cutoff}": METRICS[name](hits, relevant, cutoff).double()
        for cutoff in cutoffs
        for name in metrics
    }


def evaluate(
    model,
    truth: CSR,
    exclude: CSR,
    cutoffs: Sequence[int] = CUTOFFS,
    metrics: Sequence[str] = ("recall", "ndcg", "hit_rate", "mrr", "precision"),
    *,
    batch_size: int = 4096,
    seed: int = 0,
) -> dict[str, float]:
    """Mean metrics over users with relevant items, ranking the whole catalogue.

    Ties never favour low item ids: items are ranked under a permutation drawn from `seed`.

    Args:
        model: with `user_vectors(ids)` and `item_vectors(ids)`, or with `score(users [B], items [B, N])`.
        truth: [U, N] relevant items; users without any do not count.
        exclude: [U, N] items that are not ranked (train items; for test, validation items too).
        cutoffs, metrics: as in `ranking_metrics`.
        batch_size: users per call.
        seed: of the permutation.

    Returns:
        "name@cutoff" → mean. 0 users with relevant items give an error.

    Cost:
        O(U·N·D) time, O(batch_size·max cut-off) memory beside the vectors; no [U, N] matrix.
    """
    users = (truth.counts > 0).nonzero().flatten()
    if not len(users):
        raise ValueError("evaluate: expected users with relevant items; got none")
    n_items = truth.n_columns
    order = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed)).to(users.device)
    place = torch.empty_like(order)
    place[order] = torch.arange(n_items, device=order.device)
    totals: dict[str, float] = {}
    with torch.no_grad():
        rank = _vector_ranker(model, order) if hasattr(model, "item_vectors") else _score_ranker(model, order)
        for batch in users.split(batch_size):
            permuted = _with_columns(exclude.rows(batch), place)
            indices = rank(batch, max(cutoffs), permuted)
            indices = torch.where(indices < 0, indices, order[indices.clamp_min(0)])
            for name, values in ranking_metrics(indices, truth.rows(batch), cutoffs, metrics).items():
                totals[name] = totals.get(name, 0.0) + float(values.sum())
    return {name: total / len(users) for name, total in totals.items()}


def _vector_ranker(model, order: Tensor):
    items = model.item_vectors(order)
    return lambda users, k, exclude: inner_product_topk(model.user_vectors(users), items, k, exclude).indices


def _score_ranker(model, order: Tensor):
    def rank(users: Tensor, k: int, exclude: CSR) -> Tensor:
        return top_of_scores(model.score(users, order.expand(len(users), -1)), k, exclude)[1]

    return rank


def _with_columns(rows: CSR, place: Tensor) -> CSR:
    row, column = rows.pairs()
    return CSR.from_pairs(row, place[column], rows.n_rows, rows.n_columns)


def candidate_metrics(
    relevant: Tensor, candidates: Tensor, cutoffs: Sequence[int] = (5, 10, 20)
) -> dict[str, Tensor]:
    """Leave-one-out metrics of one relevant item among sampled candidates.

    Its position is 1 + candidates with a better score + half of those with an equal one.

    Args:
        relevant: [B] float scores of the held-out items.
        candidates: [B, C] float scores of the candidates; -inf for none.
        cutoffs: positions, > 0.

    Returns:
        "hit_rate@n" (position ≤ n), "ndcg@n" (1/log2(position + 1) within n), "mrr@n" (1/position within n):
        [B] float64.

    Source:
        The protocol of DE-RRD's released code (499 candidates).

    Example:
        >>> candidate_metrics(torch.tensor([2.0]), torch.tensor([[3.0, 1.0]]), cutoffs=[5])["mrr@5"]
        tensor([0.5000], dtype=torch.float64)
    """
    if relevant.dim() != 1 or candidates.dim() != 2 or len(relevant) != len(candidates):
        raise ValueError(
            f"candidate_metrics: expected relevant [B] and candidates [B, C]; "
            f"got {list(relevant.shape)} and {list(candidates.shape)}"
        )
    own = relevant[:, None]
    # A NaN of the relevant item is worse than everything; a candidate's NaN is worse than nothing.
    better = (candidates > own) | (own.isnan() & ~candidates.isnan())
    position = 1 + better.sum(1).double() + (candidates == own).sum(1).double() / 2
    result = {}
    for cutoff in cutoffs:
        within = position <= cutoff
        result[f"hit_rate@{cutoff}"] = within.double()
        result[f"ndcg@{cutoff}"] = torch.where(within, 1 / torch.log2(position + 1), 0.0)
        result[f"mrr@{cutoff}"] = torch.where(within, 1 / position, 0.0)
    return result
