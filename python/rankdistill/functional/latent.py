"""Losses that teach a teacher's vectors: hints, experts, hyper-networks, filters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from rankdistill.functional.reduction import reduce_rows, widened
from rankdistill.ops import checks, routed_experts

FORMS = ("released", "paper")
ROUTING_FLOOR = 1e-10  # of a share, inside the logarithm, as released
FEW = 4  # rows with shares in at most one of FEW experts are worked expert by expert


def expect_form(op: str, form: str) -> None:
    checks.expect(form in FORMS, op, f"form as one of {', '.join(FORMS)}", repr(form))


def unit_rows(x: Tensor) -> Tensor:
    """Rows [B, D] scaled to length 1, however short; a row of zeros stays one, and has no gradient."""
    if x.shape[1] == 0:
        return x
    largest = x.detach().abs().amax(1, keepdim=True)
    empty = largest == 0
    scaled = x / largest.masked_fill(empty, 1)
    return (scaled / scaled.norm(dim=1, keepdim=True).masked_fill(empty, 1)).masked_fill(empty, 0)


def row_errors(op: str, teacher: Tensor, predicted: Tensor, squared: bool = True) -> Tensor:
    """‖t_b − p_b‖² or ‖t_b − p_b‖ [B]; the latter has gradient 0 where it is 0."""
    checks.expect(
        predicted.shape == teacher.shape,
        op,
        f"predictions of shape {list(teacher.shape)}, as teacher",
        predicted,
    )
    errors = (teacher - predicted).square().sum(1)
    if squared:
        return errors
    return torch.where(errors == 0, 0.0, torch.where(errors == 0, 1.0, errors).sqrt())


def hint_regression(
    teacher: Tensor,
    predicted: Tensor,
    normalized: bool = False,
    reduction: str = "sum",
    weights: Tensor | None = None,
) -> Tensor:
    """Hint regression (FitNet): the teacher's vectors, predicted from the student's, in squared error.

    loss_b = ‖t_b − p_b‖², of both scaled to length 1 where `normalized`

    Args:
        teacher: [B, D] float.
        predicted: [B, D] float, such as a linear map of the student's vectors.
        normalized: compare directions alone; a row of zeros stays one.
        reduction: "sum" (as the released code), "mean" or "none".
        weights: [B] float, of the rows; None: 1.

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64.

    Raises:
        ValueError: shapes that do not fit, another reduction.

    Cost:
        O(B·D) time and memory.

    Source:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, equation 3 (which halves it); summed as in the
        released code of Preference-Consistent Knowledge Distillation.

    Example:
        >>> hint_regression(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.6, 0.8]]), normalized=True).round(decimals=6)
        tensor(0.)
    """
    op = "hint_regression"
    teacher, predicted = widened(teacher, predicted)
    if normalized:
        errors = row_errors(op, *(unit_rows(rows.double()) for rows in (teacher, predicted)))
        return reduced(op, errors.to(teacher.dtype), weights, reduction)
    return reduced(op, row_errors(op, teacher, predicted), weights, reduction)


def reduced(op: str, losses: Tensor, weights: Tensor | None, reduction: str) -> Tensor:
    if weights is not None:
        checks.expect(weights.shape == losses.shape, op, f"weights of shape {list(losses.shape)}", weights)
        losses = losses * weights.to(losses.dtype)
    return reduce_rows(op, losses, None, reduction)


def expert_routing(logits: Tensor, noise: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Shares of the experts for each row: a softmax with Gumbel noise, which turns one-hot as its temperature falls.

    z_b = softmax((log(softmax(logits_b) + 1e-10) + noise_b) / temperature)

    Args:
        logits: [B, M] float.
        noise: [B, M] standard Gumbel variates; None: none. One expert takes everything whatever the noise.
        temperature: dimensionless, > 0.

    Returns:
        [B, M] float32 (float64 for float64 logits), rows summing to 1. Shares below 2^-40 (2^-98 in float64), which are
        far below the rounding of any sum of experts, are 0, and have no gradient.

    Raises:
        ValueError: a temperature not above 0.

    Cost:
        O(B·M) time and memory.

    Source:
        Kang et al., DE-RRD, CIKM 2020, equation 3; the 1e-10 is the released code's.

    Example:
        >>> expert_routing(torch.tensor([[0.0, 1.0]]), temperature=1e-4)
        tensor([[0., 1.]])
    """
    checks.expect(temperature > 0, "expert_routing", "a temperature above 0", temperature)
    (logits,) = widened(logits)
    if logits.shape[1] == 1:
        return torch.ones_like(logits)
    scores = (logits.softmax(1) + ROUTING_FLOOR).log()
    if noise is not None:
        scores = scores + noise.to(scores.dtype)
    shares = (scores / temperature).softmax(1)
    return shares.masked_fill(shares < 64 * torch.finfo(shares.dtype).eps ** 2, 0)


def distillation_experts(
    teacher: Tensor,
    student: Tensor,
    routing: Tensor,
    experts: tuple[Tensor, Tensor, Tensor, Tensor],
    form: str = "released",
    reduction: str = "sum",
    weights: Tensor | None = None,
) -> Tensor:
    """Distillation experts (DE): small networks, one per kind of knowledge, rebuild the teacher's vectors.

    loss_b = ‖t_b − Σ_m z_bm E_m(s_b)‖², E_m(s) = W2_m relu(W1_m s + b1_m) + b2_m

    Rows with shares in no more than a quarter of the experts are worked expert by expert: one-hot rows take M times fewer
    products, with the same loss and gradients but that shares of 0 have none, as none passes through a softmax there.

    Args:
        teacher: [B, D_t] float.
        student: [B, D_s] float.
        routing: [B, M] float, shares z, as from `expert_routing`.
        experts: W1 [M, H, D_s], b1 [M, H], W2 [M, D_t, H], b2 [M, D_t].
        form: "released" squares the norm, "paper" does not.
        reduction: "sum" (as the paper), "mean" or "none".
        weights: [B] float, of the rows; None: 1.

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64.

    Raises:
        ValueError: shapes that do not fit, another form or reduction.

    Cost:
        O(B·M·H·(D_s + D_t)) time, O(B·M·H) memory; O(P·H·(D_s + D_t)) and O(P·(H + D_t)) for P shares in few experts.

    Source:
        Kang et al., DE-RRD, CIKM 2020, equations 1 to 4.

    Example:
        >>> one = [torch.ones(1, 1, 1), torch.zeros(1, 1), torch.ones(1, 1, 1), torch.zeros(1, 1)]  # relu
        >>> distillation_experts(torch.tensor([[5.0]]), torch.tensor([[2.0]]), torch.ones(1, 1), tuple(one))
        tensor(9.)
    """
    op = "distillation_experts"
    expect_form(op, form)
    teacher, student = widened(teacher, student)
    predicted = routed(student, routing, experts)
    return reduced(op, row_errors(op, teacher, predicted, form == "released"), weights, reduction)


def routed(student: Tensor, routing: Tensor, experts: tuple[Tensor, ...]) -> Tensor:
    """`routed_experts`, expert by expert for the rows that few of them serve; there shares of 0 have no gradient."""
    shared = routing.detach() != 0
    few = shared.sum(1) <= max(1, routing.shape[1] // FEW)
    if not bool(few.any()):
        return routed_experts(student, routing, *experts)
    ids, rows = (shared & few[:, None]).t().nonzero().unbind(1)  # by expert
    found = routed_experts(student[rows], ids, *experts) * routing[rows, ids, None]
    out = found.new_zeros((len(student), found.shape[1])).index_add(0, rows, found)
    several = (~few).nonzero()[:, 0]
    if not len(several):
        return out
    return out.index_copy(0, several, routed_experts(student[several], routing[several], *experts))


def personalized_hint_regression(
    teacher: Tensor,
    student: Tensor,
    network: tuple[Tensor, Tensor, Tensor, Tensor],
    condition: Tensor | None = None,
    reduction: str = "sum",
    weights: Tensor | None = None,
) -> Tensor:
    """Personalised hint regression (PHR): a hyper-network gives each entity its own linear map to the teacher.

    loss_b = ‖t_b − Θ_b s_b‖², Θ_b = reshape(W2 relu(W1 c_b + b1) + b2, [D_t, D_s])

    Args:
        teacher: [B, D_t] float.
        student: [B, D_s] float.
        network: W1 [H, D_t], b1 [H], W2 [D_t·D_s, H], b2 [D_t·D_s].
        condition: [B, D_t] float, c; None: the teacher's vectors.
        reduction: "sum" (as the paper), "mean" or "none".
        weights: [B] float, of the rows; None: 1.

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64.

    Raises:
        ValueError: shapes that do not fit, another reduction.

    Cost:
        O(B·H·D_t·D_s) time, O(B·(D_t·D_s + H)) memory.

    Source:
        Kang et al., Personalized Knowledge Distillation for Recommender System, Knowledge-Based Systems 239, 2022.

    Example:
        >>> network = torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, 1), torch.full((1,), 2.0)  # Θ is 2
        >>> personalized_hint_regression(torch.tensor([[5.0]]), torch.tensor([[2.0]]), network)
        tensor(1.)
    """
    op = "personalized_hint_regression"
    teacher, student, *network = widened(teacher, student, *network)
    condition = teacher if condition is None else condition.to(teacher.dtype)
    weight_in, bias_in, weight_out, bias_out = network
    with torch.autocast(student.device.type, enabled=False):
        maps = linear(relu(linear(condition, weight_in, bias_in)), weight_out, bias_out)
        maps = maps.unflatten(1, (teacher.shape[1], student.shape[1]))
        predicted = torch.bmm(maps, student[:, :, None])[:, :, 0]
    return reduced(op, row_errors(op, teacher, predicted), weights, reduction)


def frequency_distillation(
    teacher: Tensor,
    predicted: Tensor,
    normalized: bool = True,
    reduction: str = "sum",
    weights: Tensor | None = None,
) -> Tensor:
    """Frequency-aware distillation (FreqD): graph-filtered teacher vectors, predicted from filtered student vectors.

    loss_b = 1 − cos(t_b, p_b), or ‖t_b − p_b‖² where not `normalized`

    Args:
        teacher: [B, D] float, rows of H·T, the teacher's table under the graph filter H.
        predicted: [B, D] float, rows of H·proj(S).
        normalized: the cosine form (with a row of zeros: 1) or the squared one.
        reduction: "sum" (as the released code), "mean" or "none".
        weights: [B] float, of the rows; None: 1.

    Returns:
        A scalar, or [B] for "none": float32, float64 for float64.

    Raises:
        ValueError: shapes that differ, another reduction.

    Cost:
        O(B·D) time and memory.

    Source:
        Zhu and Zhang, Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency Perspective,
        KDD 2025.

    Example:
        >>> frequency_distillation(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor(1.)
    """
    op = "frequency_distillation"
    if not normalized:
        return hint_regression(teacher, predicted, False, reduction, weights)
    teacher, predicted = widened(teacher, predicted)
    checks.expect(
        predicted.shape == teacher.shape,
        op,
        f"predicted of shape {list(teacher.shape)}, as teacher",
        predicted,
    )
    # 1 − cos is half the squared distance of directions, which keeps its digits near the teacher.
    units = [unit_rows(rows.double()) for rows in (teacher, predicted)]
    directions = sum(unit.detach().any(1).double() for unit in units)  # rows of zeros have none
    losses = row_errors(op, *units) / 2 + (1 - directions / 2)
    return reduced(op, losses.to(teacher.dtype), weights, reduction)
