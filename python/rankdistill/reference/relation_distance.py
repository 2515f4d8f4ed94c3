"""loss = sum over ordered pairs i, j of (teacher's relation_ij − student's relation_ij)², and its slopes by the student.

This is the definition, with both [B, B] matrices. Without the teacher's term: loss − sum of its squared relations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference.relation import relation_forward, through_unit_rows, unit_rows


def relation_slopes(difference: Tensor, student: Tensor, kind: str) -> Tensor:
    """d/d student of the sum of squares of a symmetric `difference`, student's relations minus the teacher's."""
    if kind == "cosine":
        unit, inverse = unit_rows(student)
        return through_unit_rows(4 * difference @ unit, unit, inverse)
    if kind == "inner_product":
        return 4 * difference @ student
    return 8 * (difference.sum(1, keepdim=True) * student - difference @ student)


def relation_distance_forward(
    teacher: Tensor, student: Tensor, kind: str, teacher_term: bool, with_slopes: bool
) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if student.dtype == torch.float64 else torch.float32
    teacher, student = teacher.double(), student.double()
    wanted = relation_forward(teacher, None, kind)
    difference = relation_forward(student, None, kind) - wanted
    loss = difference.square().sum() - (0 if teacher_term else wanted.square().sum())
    slopes = relation_slopes(difference, student, kind) if with_slopes else student[:0]
    return (loss + 0 * loss).to(wide), slopes.to(wide, copy=True)
