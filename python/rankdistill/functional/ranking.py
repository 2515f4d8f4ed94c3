"""Losses that teach an order: of a pair, of a list above a tail."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rankdistill.functional.reduction import counted_places, reduce_rows, softplus, widened
from rankdistill.ops import checks, plackett_luce


def bayesian_personalized_ranking(positive: Tensor, negative: Tensor, reduction: str = "sum") -> Tensor:
    """Bayesian personalised ranking (BPR): a positive item should score above a negative one.

    loss = Σ −log σ(positive − negative), evaluated as softplus(negative − positive), which no score overflows.

    Args:
        positive, negative: float tensors of one shape: scores of the items of each pair.
        reduction: "sum" (as the paper and the released code), "mean" or "none".

    Returns:
        A scalar; the shape of the scores for "none". float32, float64 for float64 scores.

    Raises:
        ValueError: shapes that differ, another reduction.

    Cost:
        O(pairs) time and memory.

    Source:
        Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009, section 4.

    Example:
        >>> bayesian_personalized_ranking(torch.tensor([2.0]), torch.tensor([2.0]))
        tensor(0.6931)
    """
    op = "bayesian_personalized_ranking"
    checks.expect(negative.shape == positive.shape, op, f"negative of shape {list(positive.shape)}", negative)
    positive, negative = widened(positive, negative)
    return reduce_rows(op, softplus(negative - positive), None, reduction)


def relaxed_ranking_distillation(
    interesting: Tensor, uninteresting: Tensor | None, lengths: Tensor | None = None, reduction: str = "sum"
) -> Tensor:
    """Relaxed ranking distillation (RRD): interesting items in the teacher's order, all above the uninteresting.

    loss_b = Σ_k [ log( Σ_{l ≥ k} exp(interesting_bl) + Σ_j exp(uninteresting_bj) ) − interesting_bk ]

    Args:
        interesting: [B, K] float, student scores of the items to rank, best first by the teacher.
        uninteresting: [B, L] float, student scores of items below all of them, in any order, -inf for none; a
            [B] log-mass instead; or None.
        lengths: [B] int64 in [0, K], how many of each row count; None for all.
        reduction: "sum" over rows (the paper's, to which published weights belong), "mean" over rows with at
            least one term, or "none".

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64 scores.

    Contract:
        Finite for every finite input; rows of length 0 add exactly 0; the padding never matters.

    Raises:
        ValueError: shapes that do not fit, another reduction.
        IndexError: a length outside [0, K] (on a CPU).

    Cost:
        O(B·(K + L)) time, O(B·(K + L)) memory for the gradients.

    Source:
        Kang et al., DE-RRD: A Knowledge Distillation Framework for Recommender System, CIKM 2020, section 4.2.

    Example:
        >>> relaxed_ranking_distillation(torch.zeros(1, 1), torch.zeros(1, 1))
        tensor(0.6931)
    """
    losses = plackett_luce(interesting, uninteresting, lengths)
    counted = None if lengths is None else lengths > 0
    return reduce_rows("relaxed_ranking_distillation", losses, counted, reduction)


def ranking_distillation(
    scores: Tensor, weights: Tensor | None = None, lengths: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Ranking distillation (RD): the teacher's best items as more positives, each with a weight.

    loss_b = −Σ_k weights_bk · log σ(scores_bk)

    Args:
        scores: [B, K] float, student scores (logits) of the teacher's best items, best first.
        weights: [B, K] or [K] float; no gradient reaches them; None for ones.
        lengths: [B] int64 in [0, K], how many of each row count; None for all.
        reduction: "mean" over rows with at least one item (as the authors' code), "sum" (later re-implementations)
            or "none".

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64 scores.

    Contract:
        Rows of length 0 add exactly 0; what stands in the padding never matters.

    Raises:
        ValueError: shapes that do not fit, another reduction.
        IndexError: a length outside [0, K] (on a CPU).

    Cost:
        O(B·K) time and memory.

    Source:
        Tang and Wang, Ranking Distillation, KDD 2018, equations 5 to 10. Weights: `position_weights` times
        `discrepancy_weights`.

    Example:
        >>> ranking_distillation(torch.zeros(1, 2), torch.tensor([0.75, 0.25]))
        tensor(0.6931)
    """
    op = "ranking_distillation"
    checks.expect_tensor(op, "scores", scores, 2)
    (scores,) = widened(scores)
    counted = counted_places(op, scores, lengths)
    terms = -logsigmoid(scores if counted is None else scores.masked_fill(~counted, 0))
    if weights is not None:
        shapes = (scores.shape, scores.shape[1:])
        checks.expect(
            weights.shape in shapes, op, f"weights of shape {list(scores.shape)} or its last", weights
        )
        terms = terms * weights.detach().to(terms.dtype)
    if counted is None:
        return reduce_rows(op, terms.sum(1), None, reduction)
    return reduce_rows(op, terms.masked_fill(~counted, 0).sum(1), lengths > 0, reduction)


def position_weights(k: int, temperature: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights exp(−r/temperature) of positions r = 1..k, of sum 1.

    Args:
        k: how many positions.
        temperature: in positions, > 0.
        dtype: of the weights, which are worked in float64.

    Returns:
        [k] of that dtype.

    Raises:
        ValueError: a temperature not above 0.

    Cost:
        O(k) time and memory.

    Source:
        Tang and Wang, Ranking Distillation, KDD 2018, equation 8.

    Example:
        >>> position_weights(2, temperature=1.0)
        tensor([0.7311, 0.2689])
    """
    op = "position_weights"
    checks.expect(temperature > 0, op, "a temperature above 0", temperature)
    return (-torch.arange(1, k + 1, dtype=torch.float64) / temperature).softmax(0).to(dtype)


def discrepancy_weights(
    scores: Tensor, sampled: Tensor, n_items: int, sharpness: float = 0.1, first_rank: int = 0
) -> Tensor:
    """Weights of a list's items by how far below the teacher's rank the student ranks them, from sampled items.

    w_bk = max(tanh(sharpness · (rank_bk − k)), 0), k = 0, 1, …,
    rank_bk = ⌊(n_items − 1) · share of sampled scores above scores_bk⌋ + first_rank

    Args:
        scores: [B, K] float, student scores of the teacher's best items, best first.
        sampled: [B, Q] float, Q ≥ 1, student scores of items drawn uniformly.
        n_items: size of the catalogue.
        sharpness: μ, dimensionless.
        first_rank: rank of an item that no sampled one beats: 0 in the authors' code, 1 in later re-implementations.

    Returns:
        [B, K] in [0, 1], float32 (float64 for float64 scores), without gradient.

    Raises:
        ValueError: another number of dimensions, no sampled score.

    Cost:
        O(B·(K + Q)·log Q) time, O(B·(K + Q)) memory.

    Source:
        Tang and Wang, Ranking Distillation, KDD 2018, equation 9.

    Example:
        >>> discrepancy_weights(torch.tensor([[1.0]]), torch.tensor([[0.0, 2.0]]), n_items=101)
        tensor([[0.9999]])
    """
    op = "discrepancy_weights"
    checks.expect_tensor(op, "scores", scores, 2)
    checks.expect_tensor(op, "sampled", sampled, 2)
    Q = sampled.shape[1]
    checks.expect(Q > 0, op, "at least one sampled score per row", sampled)
    scores, sampled = widened(scores.detach(), sampled.detach())
    ordered = sampled.sort(dim=1).values.contiguous()
    above = Q - torch.searchsorted(ordered, scores.contiguous(), right=True)
    ranks = torch.div((n_items - 1) * above, Q, rounding_mode="floor") + first_rank
    behind = ranks - torch.arange(scores.shape[1], device=scores.device)
    return (sharpness * behind.to(scores.dtype)).tanh().clamp_min(0)
