"""Ranking metrics at cut-offs, batched: against the full catalogue or against sampled candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.ops import checks, inner_product_rank, inner_product_topk, masked_rank, masked_topk
from rankdistill.ops.prepared_items import prepare_items
from rankdistill.rankings.distributed import Processes
from rankdistill.vector_scores import PAIRS, bias_of, device_of, evaluating, ranked_by_vectors, row_scores

__all__ = [
    "METRICS",
    "RANK_METRICS",
    "area_under_curve",
    "candidate_metrics",
    "capped_recall",
    "evaluate",
    "evaluate_candidates",
    "evaluate_users",
    "hit_rate",
    "mean_position",
    "mrr",
    "ndcg",
    "precision",
    "ranking_metrics",
    "recall",
    "reciprocal_rank",
]

CUTOFFS = (10, 20, 50)
USUAL = ("recall", "ndcg", "hit_rate", "mrr", "precision")
SCORES = 1 << 24  # of a model that only scores: the largest piece of its [U, N] matrix that exists at a time


def hits_of(indices: Tensor, truth: CSR) -> Tensor:
    """Which listed items are relevant: [B, K] bool for items [B, K] (any other number, as -1, is none) and each row's relevant items."""
    rows, columns = truth.pairs()
    width = truth.n_columns
    relevant = rows * width + columns  # ascending, as a CSR's pairs are
    keys = torch.arange(len(indices), device=indices.device)[:, None] * width + indices
    if not len(relevant):
        return torch.zeros_like(indices, dtype=torch.bool)
    found = torch.searchsorted(relevant, keys).clamp_max(len(relevant) - 1)
    # Past the width a key would be that of a later row.
    return (relevant[found] == keys) & (indices >= 0) & (indices < width)


def recall(hits: Tensor, relevant: Tensor, cutoff: int) -> Tensor:
    """hits in the first `cutoff` / relevant items."""
    return hits[:, :cutoff].sum(1) / relevant


def capped_recall(hits: Tensor, relevant: Tensor, cutoff: int) -> Tensor:
    """hits in the first `cutoff` / min(cutoff, relevant items); the released topology code prints it as P."""
    return hits[:, :cutoff].sum(1) / relevant.clamp_max(cutoff)


def precision(hits: Tensor, relevant: Tensor, cutoff: int) -> Tensor:
    """hits in the first `cutoff` / cutoff."""
    return hits[:, :cutoff].sum(1).double() / cutoff


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


def taken_apart(metrics: Sequence[str]) -> tuple[list[str], list[int]]:
    """The names and the cut-offs of "name@cutoff", each once."""
    parts = [metric.partition("@") for metric in metrics]
    return list(dict.fromkeys(name for name, _, _ in parts)), sorted({int(cutoff) for _, _, cutoff in parts})


def expect_chosen(metric: str) -> None:
    """A ValueError unless training can choose by the metric."""
    name = metric.partition("@")[0]
    if name not in METRICS:
        raise ValueError(f"config: expected training.metric of {', '.join(METRICS)}; got {name}")


def expect_cutoffs(op: str, cutoffs: Sequence[int]) -> None:
    if min(cutoffs, default=0) < 1:
        raise ValueError(f"{op}: expected cutoffs above 0; got {min(cutoffs, default='none')}")


def area_under_curve(ranks: Tensor, relevant: Tensor, candidates: Tensor) -> Tensor:
    """Pairs of a relevant item and another in the right order / all such pairs (AUC); 1 without any."""
    found = (ranks >= 0).sum(1)
    # Those without a rank stand behind all others.
    total = ranks.clamp_min(0).sum(1).double() + (relevant - found) * (
        candidates - (relevant - found + 1) / 2
    )
    pairs = relevant * (candidates - relevant)
    return torch.where(pairs > 0, 1 - (total - relevant * (relevant - 1) / 2) / pairs.clamp_min(1), 1.0)


def mean_position(ranks: Tensor, relevant: Tensor, candidates: Tensor) -> Tensor:
    """The mean position of the relevant items, 1 for the best; of those without a rank, the last."""
    positions = torch.where(ranks >= 0, ranks + 1, candidates.long()[:, None]).double()
    listed = torch.arange(ranks.shape[1], device=ranks.device) < relevant[:, None]
    return (positions * listed).sum(1) / relevant


def reciprocal_rank(ranks: Tensor, relevant: Tensor, candidates: Tensor) -> Tensor:
    """1 / position of the first relevant item, 0 without a ranked one; `mrr` without a cut-off."""
    return torch.where(ranks >= 0, 1 / (ranks + 1.0).double(), 0.0).amax(1)


# Of ranks [B, K] of each row's relevant items (from the left, -1 for none), their number and that of candidates.
RANK_METRICS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "auc": area_under_curve, "mean_position": mean_position, "reciprocal_rank": reciprocal_rank,
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

    Raises:
        ValueError: a metric or cut-off that is none, another number of rows. IndexError: an id out of [-1, N) (CPU; on
            CUDA it is no hit).

    Cost:
        O(B·K·log nnz) time, O(B·K) memory.

    Example:
        >>> from rankdistill.data import CSR
        >>> truth = CSR.from_pairs(torch.tensor([0]), torch.tensor([5]), n_rows=1, n_columns=9)
        >>> ranking_metrics(torch.tensor([[3, 5]]), truth, cutoffs=[2], metrics=["mrr"])
        {'mrr@2': tensor([0.5000], dtype=torch.float64)}
    """
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"ranking_metrics: expected metrics of {', '.join(METRICS)}; got {name!r}")
    expect_cutoffs("ranking_metrics", cutoffs)
    if truth.n_rows != len(indices):
        raise ValueError(
            f"ranking_metrics: expected {len(indices)} rows of truth, as indices; got {truth.n_rows}"
        )
    checks.check_given("ranking_metrics", "indices", indices.long(), -1, truth.n_columns)
    hits, relevant = hits_of(indices, truth), truth.counts.double()
    return {
        f"{name}@{cutoff}": METRICS[name](hits, relevant, cutoff).double()
        for cutoff in cutoffs
        for name in metrics
    }


def evaluate(
    model,
    truth: object,
    exclude: object,
    cutoffs: Sequence[int] = CUTOFFS,
    metrics: Sequence[str] = USUAL,
    *,
    batch_size: int = 4096,
    seed: int = 0,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Mean metrics over users with relevant items, ranking the whole catalogue.

    Ties never favour low item ids: items are ranked under a permutation drawn from `seed`. The model is read in evaluation mode,
    whatever it is in.

    Args:
        model: with `user_vectors(ids)` and `item_vectors(ids)` (and `item_bias`, [N] or an embedding layer of width 1, or None), or with
            `score(users [B], items [B, N])`.
        truth: [U, N] relevant items, as a CSR or anything that `CSR.from_any` takes, on any device; users
            without any do not count.
        exclude: [U, N] items that are not ranked (train items; for test, validation items too), likewise.
        cutoffs: as in `ranking_metrics`.
        metrics: names in `METRICS`, which are taken at every cut-off, or in `RANK_METRICS`, which have none.
        batch_size: users per call; fewer where a model only scores.
        seed: of the permutation.
        processes: that divide the users' batches among themselves, each with the same arguments; None for this one alone.

    Returns:
        "name@cutoff" or "name" → mean, the same for any number of processes. 0 users with relevant items give an error.

    Cost:
        O(U·N·D) time, O(batch_size·max cut-off) memory beside the vectors and a permuted, prepared copy of the items' (5·D + 40
        bytes an item in float32); no [U, N] matrix. A model that only scores is asked for 2^20 pairs (or a row) at a time, or for
        2^24 where its `scores_in_pieces` is True: it bounds its memory by itself. `RANK_METRICS` are counted in a pass of their
        own, which costs a comparison per score and relevant item.

    Example:
        >>> from rankdistill import MatrixFactorization, data
        >>> model, likes = MatrixFactorization(3, 5, width=2), torch.tensor([[0, 1, 2], [4, 0, 3]])
        >>> truth = data.CSR.from_pairs(*likes, n_rows=3, n_columns=5)
        >>> evaluate(model, truth, data.CSR.empty(3, 5), [5], ["recall", "auc"])["recall@5"]
        1.0
    """
    one = processes is None or processes.size == 1
    part = (0, 1) if one else (processes.rank, processes.size)
    found = [
        (len(users), {name: float(value.sum()) for name, value in values.items()})
        for users, values in _evaluated(model, truth, exclude, cutoffs, metrics, batch_size, seed, part)
    ]
    totals: dict[str, float] = {}
    count = 0
    for n, sums in found if one else [batch for told in processes.share(found) for batch in told]:
        count += n
        for name, value in sums.items():
            totals[name] = totals.get(name, 0.0) + value
    return {name: total / count for name, total in totals.items()}


def evaluate_users(
    model,
    truth: object,
    exclude: object,
    cutoffs: Sequence[int] = CUTOFFS,
    metrics: Sequence[str] = USUAL,
    *,
    batch_size: int = 4096,
    seed: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What `evaluate` takes the means of: users [n] int64 with relevant items, and "name@cutoff" → [n] float64.

    Example:
        >>> from rankdistill import MatrixFactorization, data
        >>> model, likes = MatrixFactorization(3, 5, width=2), torch.tensor([[0, 2, 2], [4, 0, 3]])
        >>> truth = data.CSR.from_pairs(*likes, n_rows=3, n_columns=5)
        >>> evaluate_users(model, truth, data.CSR.empty(3, 5), [5], ["recall"])
        (tensor([0, 2]), {'recall@5': tensor([1., 1.], dtype=torch.float64)})
    """
    parts = list(_evaluated(model, truth, exclude, cutoffs, metrics, batch_size, seed))
    values = {name: torch.cat([found[name] for _, found in parts]) for name in parts[0][1]}
    return torch.cat([users for users, _ in parts]), values


def _evaluated(
    model,
    truth: object,
    exclude: object,
    cutoffs: Sequence[int],
    metrics: Sequence[str],
    batch_size: int,
    seed: int,
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Batches of users with relevant items, and their metrics; of one part of so many, by order."""
    for name in metrics:
        if name not in METRICS and name not in RANK_METRICS:
            known = ", ".join((*METRICS, *RANK_METRICS))
            raise ValueError(f"evaluate: expected metrics of {known}; got {name!r}")
    truth = CSR.from_any(truth).to(device_of(model))
    exclude = CSR.from_any(exclude, truth.n_columns).to(device_of(model))
    if exclude.n_rows != truth.n_rows:
        raise ValueError(f"evaluate: expected exclude of {truth.n_rows} rows, as truth; got {exclude.n_rows}")
    users = (truth.counts > 0).nonzero().flatten()
    if not len(users):
        raise ValueError("evaluate: expected users with relevant items; got none")
    listed = [name for name in metrics if name in METRICS]
    ranked = [name for name in metrics if name in RANK_METRICS]
    if listed:
        expect_cutoffs("evaluate", cutoffs)
    n_items = truth.n_columns
    order = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed)).to(users.device)
    place = torch.empty_like(order)
    place[order] = torch.arange(n_items, device=order.device)
    with torch.no_grad(), evaluating(model):
        if ranked_by_vectors(model, users, n_items):
            ranking = _vector_ranking(model, order)
        else:
            ranking = _score_ranking(model, order)
            batch_size = max(1, min(batch_size, SCORES // max(n_items, 1)))
    batches = users.split(batch_size)
    at, parts = part
    for batch in batches[at * len(batches) // parts : (at + 1) * len(batches) // parts]:
        with torch.no_grad(), evaluating(model):
            relevant = with_columns(truth.rows(batch), place)
            excluded = with_columns(exclude.rows(batch), place)
            top, rank = ranking(batch, excluded)
            values = {}
            if listed:
                values |= ranking_metrics(top(max(cutoffs)), relevant, cutoffs, listed)
            if ranked:
                ranks, counts = rank(relevant.padded()), relevant.counts.double()
                # What is relevant and excluded has no rank, but is one of the candidates.
                rows, items = relevant.pairs()
                unranked = torch.bincount(rows[excluded.contains(rows, items)], minlength=len(batch))
                candidates = (n_items - excluded.counts + unranked).double()
                values |= {name: RANK_METRICS[name](ranks, counts, candidates) for name in ranked}
        yield batch, values


def _vector_ranking(model, order: Tensor):
    """(users, excluded) → (k → best k items [B, k], items [B, K] → their ranks [B, K])."""
    bias = bias_of(model, "item")
    items = prepare_items(model.item_vectors(order), None if bias is None else bias[order])

    def ranking(users: Tensor, excluded: CSR):
        vectors = model.user_vectors(users)
        return (
            lambda k: inner_product_topk(vectors, items, k, excluded).indices,
            lambda item_ids: inner_product_rank(vectors, items, item_ids, excluded),
        )

    return ranking


def _score_ranking(model, order: Tensor):
    def ranking(users: Tensor, excluded: CSR):
        scores = row_scores(model, users, order)
        return (
            lambda k: masked_topk(scores, k, excluded).indices,
            lambda item_ids: masked_rank(scores, item_ids, excluded),
        )

    return ranking


def with_columns(rows: CSR, place: Tensor) -> CSR:
    """The same entries with column c called place[c]."""
    row, column = rows.pairs()
    return CSR.from_pairs(row, place[column], rows.n_rows, rows.n_columns)


def candidate_metrics(
    relevant: Tensor, candidates: Tensor, cutoffs: Sequence[int] = (5, 10, 20)
) -> dict[str, Tensor]:
    """Leave-one-out metrics of one relevant item among sampled candidates.

    Its position is 1 + candidates with a better score + half of those with an equal one.

    Args:
        relevant: [B] float scores of the held-out items.
        candidates: [B, C] float scores of the candidates; -inf for none, which takes no place, whatever `relevant` is.
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
    # A NaN of the relevant item is worse than everything that is there, another NaN included; a candidate's is worse than nothing.
    there = candidates != -torch.inf
    better = (candidates > own) | (own.isnan() & there)
    position = 1 + better.sum(1).double() + ((candidates == own) & there).sum(1).double() / 2
    result = {}
    for cutoff in cutoffs:
        within = position <= cutoff
        result[f"hit_rate@{cutoff}"] = within.double()
        result[f"ndcg@{cutoff}"] = torch.where(within, 1 / torch.log2(position + 1), 0.0)
        result[f"mrr@{cutoff}"] = torch.where(within, 1 / position, 0.0)
    return result


@torch.no_grad()
def evaluate_candidates(
    model, users: Tensor, held_out: Tensor, candidates: Tensor, cutoffs: Sequence[int] = (5, 10, 20)
) -> list[dict[str, Tensor]]:
    """`candidate_metrics` of several held-out items of every user, each among the same candidates.

    Args:
        model: with `score(users [B], items [B, K])` → [B, K].
        users: [n] int64, on any device, as the ids below.
        held_out: [n, H] int64, such as each user's validation and test item; -1 for none.
        candidates: [n, C] int64; -1 for none. A user's held-out items among them do not count.
        cutoffs: positions, > 0.

    Returns:
        For each of the H columns "name@cutoff" → [n] float64; a user's item -1 finds nothing.

    Cost:
        O(n·(H + C)) scores, 2^20 at a time, in evaluation mode.

    Example:
        >>> from rankdistill import MatrixFactorization
        >>> model, ids = MatrixFactorization(2, 9, width=2), torch.tensor([[3], [4]])
        >>> len(evaluate_candidates(model, torch.tensor([0, 1]), ids, torch.tensor([[5, 6], [7, 8]])))
        1
    """
    if held_out.dim() != 2 or candidates.dim() != 2 or not len(users) == len(held_out) == len(candidates):
        raise ValueError(
            "evaluate_candidates: expected users [n], held_out [n, H] and candidates [n, C]; got "
            f"{list(users.shape)}, {list(held_out.shape)} and {list(candidates.shape)}"
        )
    users, held_out, candidates = (ids.to(device_of(model)) for ids in (users, held_out, candidates))
    items, width = torch.cat([held_out, candidates], dim=1), held_out.shape[1]
    for column in range(width):  # none of the held-out items is another one's rival
        items[:, width:].masked_fill_(candidates == held_out[:, column, None], -1)
    rows = max(1, PAIRS // max(1, items.shape[1]))
    parts = []
    for batch, listed in zip(users.split(rows), items.split(rows)):
        with evaluating(model):
            # A model of a caller's own need not know -1.
            scores = model.score(batch, listed.clamp_min(0)).masked_fill(listed < 0, -torch.inf)
        parts.append([candidate_metrics(scores[:, h], scores[:, width:], cutoffs) for h in range(width)])
    return [
        {
            name: torch.cat([part[h][name] for part in parts]).masked_fill(held_out[:, h] < 0, 0.0)
            for name in parts[0][h]
        }
        for h in range(width)
    ]
