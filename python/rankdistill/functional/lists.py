"""Losses of lists that a teacher has scored: through the probability of orders (ListNet, ListMLE) or of single places."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.functional.reduction import counted_places, reduce_rows, widened
from rankdistill.ops import checks, plackett_luce

FAR_BELOW = 1000.0  # of which the exponential is 0, and differences have some digits


def expect_lists(op: str, teacher: Tensor, student: Tensor) -> None:
    checks.expect_tensor(op, "student", student, 2)
    checks.expect(
        teacher.shape == student.shape, op, f"teacher of shape {list(student.shape)}, as student", teacher
    )


def list_net(
    teacher: Tensor,
    student: Tensor,
    temperature: float = 1.0,
    top: int = 1,
    lengths: Tensor | None = None,
    reduction: str = "sum",
) -> Tensor:
    """ListNet: cross entropy of the probabilities of a list's first place, or of its first two.

    top 1: loss_b = −Σ_i p_i log q_i with p = softmax(teacher_b / T), q = softmax(student_b / T), which is also the
    softmax (Kullback–Leibler) distillation up to p's entropy, a constant
    top 2: loss_b = −Σ_{i ≠ j} p_i p_j / (1 − p_i) · log(q_i q_j / (1 − q_i))

    Args:
        teacher, student: [B, K] float, scores of the same items; no gradient reaches the teacher's. The items are
            often the teacher's best.
        temperature: T, dimensionless, > 0; nothing is multiplied by T².
        top: 1 or 2.
        lengths: [B] int64 in [0, K], how many of each row count; None for all.
        reduction: "sum" over rows (as the released code), "mean" over rows with `top` items or more, or "none".

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64 scores. Lists too short to have `top` places give 0.

    Contract:
        Finite for finite scores; a teacher's +inf has the whole share, or an equal one of it. The padding never matters.

    Raises:
        ValueError: shapes that differ, a temperature not above 0, another `top` or reduction.
        IndexError: a length outside [0, K] (on a CPU).

    Cost:
        O(B·K) time and memory; O(B·K²) for two places.

    Source:
        Cao et al., Learning to Rank: From Pairwise Approach to Listwise Approach, ICML 2007; Hinton et al., 2015.

    Example:
        >>> list_net(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor(0.6931)
    """
    op = "list_net"
    expect_lists(op, teacher, student)
    checks.expect(temperature > 0, op, "a temperature above 0", temperature)
    checks.expect(top in (1, 2), op, "top of 1 or 2", top)
    teacher, student = widened(teacher.detach(), student)
    B, K = student.shape
    if lengths is None:
        lengths = torch.full((B,), K, device=student.device)
    counted = lengths >= top
    real = counted_places(op, student, lengths) & counted[:, None]
    if top > K:
        return reduce_rows(op, student.sum(1) * 0, counted, reduction)
    p, q = (
        logs_of_shares(scores / temperature, real)
        for scores in (below_infinity(teacher, real, temperature), student)
    )
    if top == 1:
        return reduce_rows(op, -(p.exp() * q.masked_fill(~real, 0)).sum(1), counted, reduction)
    pairs = (p - log_of_others(p))[:, :, None] + p[:, None, :]
    pairs = pairs.masked_fill(same_place(p), -torch.inf).exp()  # [B, first, second]
    pairs = torch.where(real[:, :, None] & real[:, None, :], pairs, 0.0)
    first, second = q - log_of_others(q), q
    losses = -(pairs.sum(2) * first.masked_fill(~real, 0) + pairs.sum(1) * second.masked_fill(~real, 0)).sum(
        1
    )
    return reduce_rows(op, losses, counted, reduction)


def below_infinity(teacher: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Scores [B, K] whose softmax is the limit where some are +inf: equal shares of these."""
    best = real & (teacher == torch.inf)
    limit = torch.where(best, 0.0, -FAR_BELOW * temperature).to(teacher.dtype)
    return torch.where(best.any(1, keepdim=True), limit, teacher)


def logs_of_shares(scores: Tensor, real: Tensor) -> Tensor:
    """log softmax [B, K] over the real entries, the others far below all; 0 in rows without one."""
    lowest = torch.finfo(scores.dtype).min
    return torch.where(real, scores, lowest).log_softmax(1).masked_fill(~real.any(1, keepdim=True), 0)


def log_of_others(logs: Tensor) -> Tensor:
    """log(1 − e^logs_i) of log-probabilities [B, K], summed over the others: nothing cancels."""
    return (
        logs[:, None, :].expand(-1, logs.shape[1], -1).masked_fill(same_place(logs), -torch.inf).logsumexp(2)
    )


def same_place(logs: Tensor) -> Tensor:
    return torch.eye(logs.shape[1], dtype=torch.bool, device=logs.device)


def list_mle(teacher: Tensor, student: Tensor, margin: bool = False, reduction: str = "sum") -> Tensor:
    """ListMLE: the likelihood of the teacher's order under the student's Plackett–Luce model.

    loss_b = Σ_k [ log Σ_{l ≥ k} exp(s_(l)) − s_(k) ], s_(1), s_(2), … the student's scores in the teacher's order

    Args:
        teacher, student: [B, K] float, scores of the same items; equal teacher scores stand in order of position.
        margin: rows whose loss is below Σ_k log k, that of a constant student, count as 0 (released with PCKD).
        reduction: "sum" over rows, "mean" or "none".

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64 scores.

    Raises:
        ValueError: shapes that differ, another reduction.

    Cost:
        O(B·K·log K) time, O(B·K) memory.

    Source:
        Xia et al., Listwise Approach to Learning to Rank: Theory and Algorithm, ICML 2008.

    Example:
        >>> list_mle(torch.tensor([[2.0, 1.0]]), torch.zeros(1, 2))
        tensor(0.6931)
    """
    op = "list_mle"
    expect_lists(op, teacher, student)
    order = teacher.detach().argsort(dim=1, descending=True, stable=True)
    losses = plackett_luce(student.gather(1, order))
    if margin:
        least = torch.lgamma(torch.tensor(student.shape[1] + 1.0, dtype=losses.dtype))
        # A constant student is not below itself, whatever its sum's roundings.
        slack = 1 - 8 * torch.finfo(losses.dtype).eps
        losses = torch.where(losses < least.item() * slack, 0.0, losses)
    return reduce_rows(op, losses, None, reduction)


def rejuvenated_cross_entropy(
    own_teacher: Tensor,
    own_student: Tensor,
    wider_teacher: Tensor,
    wider_student: Tensor,
    wider_counted: Tensor,
    overlap: Tensor,
    temperature: float = 1.0,
    sharpness: float = 3.0,
    reduction: str = "sum",
) -> Tensor:
    """Rejuvenated cross entropy (RCE-KD): on the student's best items, and on the teacher's best it should find.

    loss_b = (1 − w_b)·CE(own) + w_b·CE(wider), w_b = exp(−sharpness · overlap_b),
    CE(x) = −Σ_i softmax(teacher / T)_i log softmax(student / T)_i over the counted items

    Args:
        own_teacher, own_student: [B, K] float, scores of the student's K best items.
        wider_teacher, wider_student: [B, M] float, scores of sampled items, and of the teacher's best.
        wider_counted: [B, M] bool, which of those count: each item once, and none of the student's K best unless sampled.
        overlap: [B] float in [0, 1], the share of the teacher's best that is among the sampled.
        temperature: T, dimensionless, > 0.
        sharpness: β, dimensionless.
        reduction: "sum" over rows (as the released code), "mean" or "none".

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64 scores; no gradient reaches the teacher's scores.

    Raises:
        ValueError: shapes that do not fit, a temperature not above 0, another reduction.

    Cost:
        O(B·(K + M)) time and memory.

    Source:
        Zhu and Zhang, Rejuvenating Cross-Entropy Loss in Knowledge Distillation for Recommender Systems, 2025.

    Example:
        >>> own, wider = torch.zeros(1, 2), torch.zeros(1, 2)
        >>> rejuvenated_cross_entropy(own, own, wider, wider, torch.ones(1, 2, dtype=torch.bool), torch.ones(1))
        tensor(0.6931)
    """
    op = "rejuvenated_cross_entropy"
    expect_lists(op, own_teacher, own_student)
    expect_lists(op, wider_teacher, wider_student)
    checks.expect(temperature > 0, op, "a temperature above 0", temperature)
    checks.expect(
        wider_counted.shape == wider_student.shape,
        op,
        f"wider_counted of shape {list(wider_student.shape)}",
        wider_counted,
    )
    checks.expect(
        overlap.shape == own_student.shape[:1], op, f"overlap of shape {[len(own_student)]}", overlap
    )
    own = list_net(own_teacher, own_student, temperature, reduction="none")
    teacher, student = widened(wider_teacher.detach(), wider_student)
    none = torch.finfo(student.dtype).min
    teacher = (teacher / temperature).masked_fill(~wider_counted, none).softmax(1)
    student = (student / temperature).masked_fill(~wider_counted, none).log_softmax(1)
    wider = -(teacher * student.masked_fill(~wider_counted, 0)).sum(1)
    weight = (-sharpness * overlap).exp().to(own.dtype)
    return reduce_rows(op, (1 - weight) * own + weight * wider, None, reduction)
