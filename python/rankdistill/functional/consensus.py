"""Learning from a consensus of heterogeneous objectives: its list loss, its balance, a metric objective."""

from __future__ import annotations

from torch import Tensor

from rankdistill.functional.reduction import widened
from rankdistill.ops import checks, plackett_luce


def consensus_learning(
    scores: Tensor,
    weights: Tensor,
    n_interesting: int,
    lengths: Tensor | None = None,
    bounds: tuple[float, float] = (0.5, 2.0),
    reduction: str = "sum",
) -> Tensor:
    """Consensus learning (ConCF): every head is to rank the consensus' first items in order, above its last ones.

    losses_h = clip(weights_h, bounds) · Σ_b RRD(scores_hb's first n_interesting, its others)

    Args:
        scores: [H, B, K] float, each head's scores of a user's items in the consensus' order; -inf for none.
        weights: [H] float, the heads' weights; no gradient reaches them.
        n_interesting: how many of the K are to be ranked in order.
        lengths: [B] int64 in [0, n_interesting], how many of those count; None for all.
        bounds: between which weights are clipped.
        reduction: "sum" over heads (as the authors'), or "none".

    Returns:
        A scalar, or [H] for "none".

    Raises:
        ValueError: shapes that do not fit, another reduction.

    Cost:
        O(H·B·K) time and memory for H heads.

    Source:
        Kang et al., Consensus Learning from Heterogeneous Objectives for One-Class Collaborative Filtering, WWW 2022.

    Example:
        >>> consensus_learning(torch.zeros(1, 1, 2), torch.tensor([8.0]), n_interesting=1)
        tensor(1.3863)
    """
    op = "consensus_learning"
    checks.expect_tensor(op, "scores", scores, 3)
    H, B, K = scores.shape
    checks.expect(weights.shape == (H,), op, f"weights of shape {[H]}", weights)
    checks.expect(0 <= n_interesting <= K, op, f"n_interesting in [0, {K}]", n_interesting)
    checks.expect(reduction in ("sum", "none"), op, "reduction as one of sum, none", reduction)
    rows = scores.reshape(H * B, K)
    every = None if lengths is None else lengths.repeat(H)
    losses = plackett_luce(rows[:, :n_interesting], rows[:, n_interesting:], every).view(H, B).sum(1)
    losses = losses * weights.detach().clamp(*bounds).to(losses)
    return losses if reduction == "none" else losses.sum()


def balanced_gradient_norms(norms: Tensor, relative_losses: Tensor, asymmetry: float = 0.15) -> Tensor:
    """What the norms of several objectives' gradients should be, so that those that lag behind learn faster.

    targets_h = mean(norms) · (relative_losses_h / mean(relative_losses))^asymmetry

    Args:
        norms: [H] float, of each weighted objective's gradient.
        relative_losses: [H] float > 0, each loss over what it was early in training.
        asymmetry: dimensionless; 0 makes all norms alike.

    Returns:
        [H] float, without gradient.

    Raises:
        ValueError: shapes that differ.

    Cost:
        O(H).

    Source:
        Chen et al., GradNorm, ICML 2018, equation 2, as in the released code of ConCF.

    Example:
        >>> balanced_gradient_norms(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
        tensor([2., 2.])
    """
    op = "balanced_gradient_norms"
    checks.expect(relative_losses.shape == norms.shape, op, "relative_losses as norms", relative_losses)
    norms, relative = norms.detach(), relative_losses.detach()
    return norms.mean() * (relative / relative.mean()) ** asymmetry


def metric_learning(positive: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
    """The hinge of collaborative metric learning: a positive item should be nearer than a negative one, by a margin.

    loss = Σ max(margin + positive − negative, 0)

    Args:
        positive, negative: float tensors of one shape: squared distances of each pair's items.
        margin: >= 0.

    Returns:
        A scalar: the sum over pairs, float32 (float64 for float64 distances).

    Raises:
        ValueError: shapes that differ.

    Cost:
        O(pairs) time and memory.

    Source:
        Hsieh et al., Collaborative Metric Learning, WWW 2017, equation 1 without weights, as in ConCF.

    Example:
        >>> metric_learning(torch.tensor([0.25]), torch.tensor([1.0]))
        tensor(0.2500)
    """
    op = "metric_learning"
    checks.expect(negative.shape == positive.shape, op, f"negative of shape {list(positive.shape)}", negative)
    positive, negative = widened(positive, negative)
    return (margin + positive - negative).relu().sum()
