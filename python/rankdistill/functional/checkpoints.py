"""How far a student's ranking is from a teacher's checkpoints, and which of them it should learn from next."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankdistill.functional.membership import is_in, places_in
from rankdistill.ops import checks

GAINS = ("student", "teacher")


def ranking_discrepancy(
    student: Tensor, teacher: Tensor, sharpness: float = 10.0, decimals: int | None = 4, gain: str = "student"
) -> Tensor:
    """D@k of two rankings' best k items: 1 − NDCG, the student's places weighing more the higher they are.

    D = 1 − Σ_p [student_p is one of the teacher's] · g_p / log2(p + 2) / Σ_p (2^exp(−p/sharpness) − 1) / log2(p + 2)

    g_p = 2^exp(−q/sharpness) − 1, q the place p that the student gives the item, or that which the teacher gives it.

    Args:
        student: [..., k] int64, the student's best items that are not train items, best first; -1 for none.
        teacher: [..., k] int64, the teacher's, best first (in any order with the student's gain); leading dimensions
            broadcast with the student's.
        sharpness: of the gains, positions, > 0.
        decimals: NDCG is rounded to so many (the authors' code: 4); None for not at all.
        gain: by the place of the "student" (the authors' code) or of the "teacher" (the paper).

    Returns:
        [...] float64 in [0, 1].

    Raises:
        ValueError: lists of two widths, another gain.

    Cost:
        O(k·log k) time and O(k) memory per pair.

    Source:
        Kang et al., Distillation from Heterogeneous Models for Top-K Recommendation, WWW 2023, section 4.2.1.

    Example:
        >>> ranking_discrepancy(torch.tensor([3, 5]), torch.tensor([5, 3]))
        tensor(0., dtype=torch.float64)
    """
    op = "ranking_discrepancy"
    checks.expect(
        student.shape[-1:] == teacher.shape[-1:],
        op,
        f"teacher of width {student.shape[-1]}, as student",
        teacher,
    )
    checks.expect(gain in GAINS, op, f"gain as one of {', '.join(GAINS)}", repr(gain))
    k = student.shape[-1]
    if k == 0:
        return torch.zeros(
            torch.broadcast_shapes(student.shape[:-1], teacher.shape[:-1]), dtype=torch.float64
        )
    places = torch.arange(k, dtype=torch.float64, device=student.device)
    gains, discounts = torch.exp2((-places / sharpness).exp()) - 1, torch.log2(places + 2)
    if gain == "student":
        found = is_in(student, teacher) * gains
    else:
        at = places_in(student, teacher)
        found = gains[at.clamp_min(0)].masked_fill(at < 0, 0)
    ndcg = (found / discounts).sum(-1) / (gains / discounts).sum()
    return 1 - (ndcg if decimals is None else ndcg.round(decimals=decimals))


def advance_checkpoints(
    versions: Tensor,
    last: Tensor | None,
    student: Tensor,
    teachers: Tensor,
    step: int,
    looseness: float = 1.05,
    decay: float = 0.995,
    gain: str = "student",
) -> tuple[Tensor, Tensor]:
    """Dynamic knowledge construction of HetComp: per teacher and user, on to the next checkpoint once it is near.

    With d the discrepancy to the next checkpoint now and `last` that of the last advance, a user goes on where
    last/d > looseness · decay^step, or last/d < 1. The first call only measures.

    Args:
        versions: [M, U] int64 in [0, V), the checkpoint that each user learns from.
        last: [M, U] float64 of the call before; None at the first.
        student: [U, k] int64, the student's best items that are not train items.
        teachers: [M, V, U, k] int64, of every checkpoint of every teacher, the last one converged.
        step: how many periods of epochs have passed (the authors' code: epoch // 10, from 1).
        looseness, decay: of the threshold, dimensionless.
        gain: of `ranking_discrepancy`.

    Returns:
        versions [M, U] and last [M, U] float64, new tensors.

    Raises:
        ValueError: tensors whose shapes do not fit.

    Cost:
        O(M·U·k·log k) time, O(M·U·k) memory.

    Source:
        Kang et al., HetComp, WWW 2023, section 4.2.2, and its released code.

    Example:
        >>> easy, hard = torch.tensor([[0, 1]]), torch.tensor([[2, 3]])  # two checkpoints of one teacher, for one user
        >>> teachers, first = torch.stack([easy, hard])[None], torch.zeros(1, 1, dtype=torch.int64)
        >>> versions, last = advance_checkpoints(first, None, easy, teachers, step=0)
        >>> advance_checkpoints(versions, last, torch.tensor([[2, 0]]), teachers, step=1)[0]  # nearer to the second
        tensor([[1]])
    """
    op = "advance_checkpoints"
    M, V, U, _ = teachers.shape
    checks.expect(versions.shape == (M, U), op, f"versions of shape {[M, U]}", versions)
    users = torch.arange(U, device=versions.device)

    def distance(ahead: int) -> Tensor:
        """[M, U], to the checkpoint so many ahead."""
        at = (versions + ahead).clamp_max(V - 1)
        return torch.stack(
            [ranking_discrepancy(student, teachers[m, at[m], users], gain=gain) for m in range(M)]
        )

    if last is None:
        return versions.clone(), distance(1)
    ratio = last / distance(1)  # 0/0: NaN, stays
    onward = ((ratio > looseness * math.pow(decay, step)) | (ratio < 1)) & (versions < V - 1)
    return versions + onward, torch.where(onward, distance(2), last)
