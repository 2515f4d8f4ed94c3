"""Losses that teach relations between entities: topology, hierarchical topology, distances and angles."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import (
    checks,
    cross_relation_distance,
    grouped_relation_distance,
    pair_distance_huber,
    relation_distance,
    triplet_angle_huber,
)
from rankdistill.ops.native import accumulator_dtype

GROUP_TERMS = ("entities", "groups")


def over_pairs(op: str, loss: Tensor, count: int, reduction: str) -> Tensor:
    if reduction not in ("sum", "mean"):
        raise ValueError(f"{op}: expected reduction sum or mean; got {reduction!r}")
    return loss if reduction == "sum" else loss / max(count, 1)


def full_topology_distillation(
    teacher: Tensor, student: Tensor, kind: str = "cosine", reduction: str = "sum", exact_value: bool = True
) -> Tensor:
    """Full topology distillation (FTD): the student's relations between entities are to be the teacher's.

    loss = Σ_ij (A_ij − S_ij)² over all ordered pairs, of the teacher's and the student's cosines

    Args:
        teacher: [B, D_t] float; no gradient reaches it.
        student: [B, D_s] float.
        kind: "cosine" (the paper's), "inner_product" or "squared_distance".
        reduction: "sum" (as the paper) or "mean" over the B² pairs.
        exact_value: False leaves the teacher's own Σ_ij A_ij² out of the value, which saves most of the time where
            D_t is large and changes no gradient.

    Returns:
        A scalar, float32 (float64 for a float64 student).

    Raises:
        ValueError: tables of different rows, another kind or reduction.

    Cost:
        O(B·(D_t + D_s)²) time; memory for rows in float64, a block at a time, and nothing of B².

    Source:
        Kang et al., Topology Distillation for Recommender System, KDD 2021, equation 3. With inner products and the
        mean it is the relation loss of later benchmark code that goes by the name RKD.

    Example:
        >>> full_topology_distillation(torch.eye(2), torch.ones(2, 3))
        tensor(2.)
    """
    loss = relation_distance(teacher, student, kind, exact_value)
    return over_pairs("full_topology_distillation", loss, student.shape[0] ** 2, reduction)


def group_means(x: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """The mean row of each group, and which of them is each row's.

    Args:
        x: [B, D] float.
        groups: [B] int64, any ids.

    Returns:
        means [G, D] in the dtype of x, groups by ascending id, those that occur; index [B] int64 in [0, G).

    Raises:
        ValueError: another number of groups than rows.

    Cost:
        O(B·D + B·log B) time; the rows once in float64. The same bits on every run: no atomics.

    Example:
        >>> group_means(torch.tensor([[2.0], [8.0], [4.0]]), torch.tensor([7, 1, 7]))
        (tensor([[8.],
                [3.]]), tensor([1, 0, 1]))
    """
    checks.expect(groups.shape == x.shape[:1], "group_means", f"groups of shape {[len(x)]}", groups)
    _, index, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    order = torch.argsort(index, stable=True)
    means = torch.segment_reduce(x[order].double(), "mean", lengths=counts, axis=0, unsafe=True)
    return means.to(x.dtype), index


def hierarchical_topology_distillation(
    teacher: Tensor,
    student: Tensor,
    groups: Tensor,
    group_term: str = "entities",
    positive_only: bool = True,
    leave_out_own: bool = False,
    detach_means: bool = True,
) -> Tensor:
    """Hierarchical topology distillation (HTD), its topology: relations within groups, and of groups to entities.

    loss = Σ_{i, j of one group} (cos(t_i, t_j) − cos(s_i, s_j))² + Σ_k Σ_j (cos(p_k, t_j) − cos(q_k, s_j))²

    p_k, q_k: the teacher's and the student's mean vectors of group k. The defaults are the released code's; the paper's
    form is positive_only=False, leave_out_own=True, detach_means=False.

    Args:
        teacher: [B, D_t] float; no gradient reaches it.
        student: [B, D_s] float.
        groups: [B] int64, any ids, such as the teacher's strongest expert; users and items have different ones.
        group_term: second sum over groups and "entities", or over pairs of "groups".
        positive_only: the first sum only over pairs with cos(t_i, t_j) > 0.
        leave_out_own: the second sum leaves out a group's own entities (group_term "entities" only).
        detach_means: no gradient through q, so that the second sum over "groups" is a constant for the optimiser.

    Returns:
        A scalar, float32 (float64 for a float64 student).

    Raises:
        ValueError: tables of different rows, another group_term.

    Cost:
        O(Σ_g n_g²·(D_t + D_s)) time within groups of n_g entities, O(B·G·(D_t + D_s)) across; nothing of B².

    Source:
        Kang et al., Topology Distillation for Recommender System, KDD 2021, equations 4 to 8.

    Example:
        >>> rows, groups = torch.eye(2), torch.tensor([0, 1])
        >>> hierarchical_topology_distillation(rows, torch.ones(2, 3), groups)  # groups of one: group means alone
        tensor(2.)
    """
    op = "hierarchical_topology_distillation"
    checks.expect(
        group_term in GROUP_TERMS, op, f"group_term as one of {', '.join(GROUP_TERMS)}", repr(group_term)
    )
    teacher_means, index = group_means(teacher.detach(), groups)
    within = grouped_relation_distance(teacher, student, index, positive_only)
    student_means = group_means(student.detach() if detach_means else student, groups)[0]
    if group_term == "groups":
        return within + relation_distance(teacher_means, student_means)
    left_out = index if leave_out_own else None
    return within + cross_relation_distance(teacher, teacher_means, student, student_means, left_out)


def relational_knowledge_distillation(
    teacher: Tensor,
    student: Tensor,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    angle_rows: Tensor | None = None,
    anchors: Tensor | None = None,
) -> Tensor:
    """Relational knowledge distillation (RKD): distances between entities and angles among them, by Huber's loss.

    loss = w_D/B² Σ_ij huber(‖s_i − s_j‖/μ_s − ‖t_i − t_j‖/μ_t) + w_A/(A·R²) Σ_a Σ_ik huber(cos∠s_iak − cos∠t_iak)

    Args:
        teacher: [B, D_t] float; no gradient reaches it.
        student: [B, D_s] float.
        distance_weight, angle_weight: w_D and w_A; a term of weight 0 costs nothing.
        angle_rows: [R] int64, the rows among which angles are taken, such as a sample; None: all, the exact form,
            whose time grows with B³.
        anchors: [A] int64, positions in angle_rows at which angles are taken; None: every one.

    Returns:
        A scalar, float32 (float64 for a float64 student).

    Raises:
        ValueError: tables of different rows. IndexError: angle_rows or anchors out of range (on a CPU).

    Cost:
        O(B²·(D_t + D_s)) time for distances and O(A·R²·(D_t + D_s)) for angles; nothing of B² in memory.

    Source:
        Park et al., Relational Knowledge Distillation, CVPR 2019, equations 3 to 8; means over pairs and triples and
        the weights 25 and 50 as in its code.

    Example:
        >>> rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> bool(relational_knowledge_distillation(rows, 3 * rows) < 1e-12)
        True
    """
    loss = 0 * student.sum(dtype=torch.float64).to(accumulator_dtype(student.dtype))
    if distance_weight:
        loss = loss + distance_weight / max(student.shape[0] ** 2, 1) * pair_distance_huber(teacher, student)
    if angle_weight:
        if angle_rows is not None:
            op = "relational_knowledge_distillation"
            checks.check_given(op, "angle_rows", angle_rows, 0, len(student))
            teacher, student = teacher[angle_rows], student[angle_rows]
        rows = student.shape[0]
        triples = (rows if anchors is None else len(anchors)) * rows**2
        loss = loss + angle_weight / max(triples, 1) * triplet_angle_huber(teacher, student, anchors)
    return loss
