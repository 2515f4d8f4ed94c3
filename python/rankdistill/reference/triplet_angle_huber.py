"""loss = sum over anchors a, over ordered pairs i, k of huber(cos of the student's angle at a − cos of the teacher's).

The angle at a is that between x_i − x_a and x_k − x_a; its cosine is 0 where either is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference.pair_distance_huber import huber
from rankdistill.reference.relation import through_unit_rows, unit_rows


def triplet_angle_huber_forward(
    teacher: Tensor, student: Tensor, anchors: Tensor | None, with_slopes: bool
) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if student.dtype == torch.float64 else torch.float32
    teacher, student = teacher.double(), student.double()
    loss, slopes = student.new_zeros(()), torch.zeros_like(student if with_slopes else student[:0])
    for anchor in range(student.shape[0]) if anchors is None else anchors.tolist():
        unit, inverse = unit_rows(student - student[anchor])
        wanted = unit_rows(teacher - teacher[anchor])[0]
        difference = unit @ unit.t() - wanted @ wanted.t()
        loss += huber(difference).sum()
        if with_slopes:
            grad = through_unit_rows(2 * difference.clamp(-1, 1) @ unit, unit, inverse)
            slopes += grad
            slopes[anchor] -= grad.sum(0)
    return loss.to(wide), slopes.to(wide)
