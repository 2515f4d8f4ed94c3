"""Losses that teach scores as they are: of single items, and of lists through their softmax."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rankdistill.functional.reduction import reduce_rows, widened
from rankdistill.ops import checks

CONSISTENCY_FORMS = ("list", "pair")


def pointwise_distillation(teacher: Tensor, student: Tensor, reduction: str = "mean") -> Tensor:
    """Pointwise distillation: the student's click probability is to be the teacher's, in binary cross entropy.

    loss_b = −σ(t_b) log σ(s_b) − (1 − σ(t_b)) log(1 − σ(s_b))

    Args:
        teacher, student: scores of one shape (logits); no gradient reaches the teacher's.
        reduction: "mean" (as the released code), "sum" or "none".

    Returns:
        A scalar; the shape of the scores for "none". float32, float64 for float64 scores.

    Raises:
        ValueError: shapes that differ, another reduction.

    Cost:
        O(scores) time and memory.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, for one class.

    Example:
        >>> pointwise_distillation(torch.zeros(1), torch.zeros(1))
        tensor(0.6931)
    """
    op = "pointwise_distillation"
    checks.expect(student.shape == teacher.shape, op, f"student of shape {list(teacher.shape)}", student)
    return towards(op, teacher, student, reduction)


def towards(op: str, wanted: Tensor, given: Tensor, reduction: str) -> Tensor:
    """Binary cross entropy of the probabilities of two logits; no gradient reaches those wanted."""
    wanted, given = widened(wanted.detach(), given)
    # Terms of one sign: 1 − σ(x) would have no digits where x is large, and the loss and its gradient would cancel.
    losses = -(wanted.sigmoid() * logsigmoid(given) + (-wanted).sigmoid() * logsigmoid(-given))
    return reduce_rows(op, losses, None, reduction)


def collaborative_distillation(
    teacher: Tensor, student: Tensor, temperature: float = 2.0, shift: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Collaborative distillation (CD): softened click probabilities of sampled items, in binary cross entropy.

    loss_bk = −q log σ(student_bk) − (1 − q) log(1 − σ(student_bk)), q = σ((teacher_bk + shift) / temperature)

    Args:
        teacher, student: scores of one shape (logits) of the sampled items; no gradient reaches the teacher's.
        temperature: t1, dimensionless, > 0.
        shift: t2, added to the teacher's logits.
        reduction: "mean" (UnKD's re-implementation), "sum" (KDs') or "none".

    Returns:
        A scalar; the shape of the scores for "none". float32, float64 for float64 scores.

    Raises:
        ValueError: shapes that differ, a temperature not above 0, another reduction.

    Cost:
        O(scores) time and memory.

    Source:
        Lee et al., Collaborative Distillation for Top-N Recommendation, ICDM 2019, section III.

    Example:
        >>> collaborative_distillation(torch.zeros(1), torch.zeros(1))
        tensor(0.6931)
    """
    op = "collaborative_distillation"
    checks.expect(student.shape == teacher.shape, op, f"student of shape {list(teacher.shape)}", student)
    checks.expect(temperature > 0, op, "a temperature above 0", temperature)
    (teacher,) = widened(teacher)
    return towards(op, (teacher + shift) / temperature, student, reduction)


def bidirectional_distillation(
    partner: Tensor, learner: Tensor, temperature: float = 5.0, reduction: str = "sum"
) -> Tensor:
    """Bidirectional distillation (BD): what either of two models learns from the other's scores of its negatives.

    loss_b = −q log σ(learner_b) − (1 − q) log(1 − σ(learner_b)), q = σ(partner_b / temperature)

    Args:
        partner, learner: scores of one shape (logits) of the learner's negatives; no gradient reaches the partner's. The
            learner's are not divided by the temperature.
        temperature: dimensionless, > 0.
        reduction: "sum" (as the released code), "mean" or "none".

    Returns:
        A scalar; the shape of the scores for "none". float32, float64 for float64 scores.

    Raises:
        ValueError: shapes that differ, a temperature not above 0, another reduction.

    Cost:
        O(scores) time and memory.

    Source:
        Kweon, Kang and Yu, Bidirectional Distillation for Top-K Recommender System, WWW 2021, as released.

    Example:
        >>> bidirectional_distillation(torch.zeros(1), torch.zeros(1))
        tensor(0.6931)
    """
    op = "bidirectional_distillation"
    checks.expect(learner.shape == partner.shape, op, f"learner of shape {list(partner.shape)}", learner)
    checks.expect(temperature > 0, op, "a temperature above 0", temperature)
    (partner,) = widened(partner)
    return towards(op, partner / temperature, learner, reduction)


def importance_aware_ranking_distillation(
    scores: Tensor, negative: Tensor, weights: Tensor, form: str = "released", reduction: str = "mean"
) -> Tensor:
    """Importance-aware ranking distillation (DLLM2Rec): a language model's list as weighted positives.

    loss_b = Σ_k weights_bk · [ −log σ(scores_bk) − log σ(1 − negative_b) ]  (released)
    loss_b = Σ_k weights_bk · [ −log σ(scores_bk) − log(1 − σ(negative_b)) ] (paper)

    Args:
        scores: [B, K] float, student scores of the listed items.
        negative: [B] float, student score of one sampled item per row.
        weights: [B, K] float, of position, confidence and consistency; no gradient reaches them.
        form: "released" or "paper".
        reduction: "mean" over rows (as released), "sum" or "none".

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64 scores.

    Raises:
        ValueError: shapes that do not fit, another form or reduction.

    Cost:
        O(B·K) time and memory.

    Source:
        Cui et al., Distillation Matters: Empowering Sequential Recommenders to Match the Performance of Large
        Language Models, RecSys 2024, section 3.

    Example:
        >>> importance_aware_ranking_distillation(torch.zeros(1, 1), torch.zeros(1), torch.ones(1, 1), form="paper")
        tensor(1.3863)
    """
    op = "importance_aware_ranking_distillation"
    checks.expect(form in ("released", "paper"), op, "form as one of released, paper", repr(form))
    checks.expect(
        weights.shape == scores.shape, op, f"weights of shape {list(scores.shape)}, as scores", weights
    )
    checks.expect(negative.shape == scores.shape[:1], op, f"negative of shape {[len(scores)]}", negative)
    scores, negative = widened(scores, negative)
    against = logsigmoid(1 - negative if form == "released" else -negative)
    losses = -(weights.detach().to(scores.dtype) * (logsigmoid(scores) + against[:, None])).sum(1)
    return reduce_rows(op, losses, None, reduction)


def calibrated_listwise_distillation(teacher: Tensor, student: Tensor) -> Tensor:
    """Calibrated listwise distillation (CLID): click probabilities as shares of their list, in binary cross entropy.

    loss = mean_b BCE(σ(s_b) / Σ σ(s), σ(t_b) / Σ σ(t))

    Args:
        teacher, student: scores of one list, of one shape (logits); no gradient reaches the teacher's.

    Returns:
        A scalar, float32 (float64 for float64 scores); 0 for no scores.

    Contract:
        Shares come from logarithms: finite for all finite scores, also where every σ(s) underflows. A student's 1 − share is
        no less than the smallest normal number.

    Raises:
        ValueError: shapes that differ.

    Cost:
        O(scores) time and memory.

    Source:
        Gui et al., Calibration-compatible Listwise Distillation of Privileged Features for CTR Prediction, WSDM 2024.

    Example:
        >>> calibrated_listwise_distillation(torch.zeros(2), torch.zeros(2))
        tensor(0.6931)
    """
    op = "calibrated_listwise_distillation"
    checks.expect(student.shape == teacher.shape, op, f"student of shape {list(teacher.shape)}", student)
    teacher, student = widened(teacher.detach(), student)
    if student.numel() == 0:
        return student.sum()
    logs = [logsigmoid(x) - logsigmoid(x).flatten().logsumexp(0) for x in (teacher, student)]
    least = torch.finfo(student.dtype).tiny
    # 1 − share, from its logarithm: nothing cancels.
    others = [-torch.expm1(log) for log in logs]
    wanted = logs[0].exp() * logs[1] + others[0] * others[1].clamp_min(least).log()
    return -wanted.mean()


def preference_consistency(
    projected: Tensor, raw: Tensor, temperature: float = 0.1, form: str = "list", reduction: str = "sum"
) -> Tensor:
    """Preference consistency (PCKD): projected vectors are to prefer the items that the vectors themselves prefer.

    list: loss_b = −Σ_q softmax(raw_b / T)_q log softmax(projected_b / T)_q
    pair: loss_b = −Σ_{q < r} log σ((projected_bq − projected_br)·(raw_bq − raw_br))

    Args:
        projected: [B, Q] float, scores by the projected vectors of users and items.
        raw: [B, Q] float, scores by the student's own vectors; no gradient reaches them.
        temperature: of the list form, dimensionless, > 0.
        form: "list" or "pair".
        reduction: "sum" (as the released code), "mean" over rows or "none".

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64 scores.

    Raises:
        ValueError: shapes that differ, a temperature not above 0, another form or reduction.

    Cost:
        O(B·Q) time and memory; O(B·Q²) for the pair form.

    Source:
        Zhu and Zhang, Preference-Consistent Knowledge Distillation for Recommender System, TKDE 2025.

    Example:
        >>> preference_consistency(torch.zeros(1, 2), torch.tensor([[5.0, 0.0]]))
        tensor(0.6931)
    """
    op = "preference_consistency"
    checks.expect(form in CONSISTENCY_FORMS, op, f"form as one of {', '.join(CONSISTENCY_FORMS)}", repr(form))
    checks.expect(
        raw.shape == projected.shape, op, f"raw of shape {list(projected.shape)}, as projected", raw
    )
    checks.expect(temperature > 0, op, "a temperature above 0", temperature)
    projected, raw = widened(projected, raw.detach())
    if form == "list":
        losses = -((raw / temperature).softmax(1) * (projected / temperature).log_softmax(1)).sum(1)
    else:
        first, second = torch.triu_indices(raw.shape[1], raw.shape[1], 1, device=raw.device)
        margins = (projected[:, first] - projected[:, second]) * (raw[:, first] - raw[:, second])
        losses = -logsigmoid(margins).sum(1)
    return reduce_rows(op, losses, None, reduction)
