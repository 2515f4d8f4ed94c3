"""loss = sum over ordered pairs i, j of one group of (cos(t_i, t_j) − cos(s_i, s_j))², and its slopes by the student.

Rows with a negative group are in none. positive_only: pairs with cos(t_i, t_j) > 0 alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference.relation import relation_forward
from rankdistill.reference.relation_distance import relation_slopes


def grouped_relation_distance_forward(
    teacher: Tensor, student: Tensor, groups: Tensor, positive_only: bool, with_slopes: bool
) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if student.dtype == torch.float64 else torch.float32
    teacher, student = teacher.double(), student.double()
    wanted = relation_forward(teacher, None, "cosine")
    counted = (groups[:, None] == groups) & (groups >= 0)
    if positive_only:
        counted &= ~(wanted <= 0)
    difference = torch.where(counted, relation_forward(student, None, "cosine") - wanted, 0.0)
    loss = difference.square().sum() + 0 * (teacher.sum() + student.sum())
    slopes = relation_slopes(difference, student, "cosine") if with_slopes else student[:0]
    return loss.to(wide), slopes.to(wide, copy=True)
