"""Losses that teach an order: of a pair, of a list above a tail."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.functional.reduction import reduce_rows
from rankdistill.ops import checks, plackett_luce


def bayesian_personalized_ranking(positive: Tensor, negative: Tensor, reduction: str = "sum") -> Tensor:
    """Bayesian personalised ranking (BPR): a positive item should score above a negative one.

    loss = Σ −log σ(positive − negative), evaluated as softplus(negative − positive), which no score overflows.

    Args:
        positive, negative: float tensors of one shape: scores of the items of each pair.
        reduction: "sum" (as the paper and the released code), "mean" or "none".

    Returns:
        A scalar; the shape of the scores for "none".

    Source:
        Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009, section 4.

    Example:
        >>> bayesian_personalized_ranking(torch.tensor([2.0]), torch.tensor([2.0]))
        tensor(0.6931)
    """
    op = "bayesian_personalized_ranking"
    checks.expect(negative.shape == positive.shape, op, f"negative of shape {list(positive.shape)}", negative)
    return reduce_rows(op, torch.nn.functional.softplus(negative - positive), None, reduction)


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
