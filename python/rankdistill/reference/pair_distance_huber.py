"""loss = sum over ordered pairs i, j of huber(|s_i − s_j| / mean_s − |t_i − t_j| / mean_t), and its slopes by s.

The means are over the distances that are not 0; the student's moves with s. huber(x) is x²/2 up to 1, |x| − ½ beyond.
"""

from __future__ import annotations

import torch
from torch import Tensor


def huber(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, 0.5 * x * x, x.abs() - 0.5)


def distances(x: Tensor) -> Tensor:
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def reciprocal_mean(distance: Tensor) -> Tensor:
    """1 / mean of the distances that are not 0; 0 where there is none."""
    total = distance.sum()
    return torch.where(total == 0, 0.0, (distance != 0).sum() / total)


def pair_distance_huber_forward(teacher: Tensor, student: Tensor, with_slopes: bool) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if student.dtype == torch.float64 else torch.float32
    teacher, student = teacher.double(), student.double()
    wanted, distance = distances(teacher), distances(student)
    scale = reciprocal_mean(distance)
    difference = distance * scale - wanted * reciprocal_mean(wanted)
    loss = huber(difference).sum()
    if not with_slopes:
        return loss.to(wide), student[:0].to(wide, copy=True)
    slope = difference.clamp(-1, 1)
    # By a distance itself, and by the mean, which is scale⁻¹ and moves by 1/count with every distance.
    count = (distance != 0).sum().clamp_min(1)
    by_distance = slope * scale - (slope * distance).sum() * scale.square() / count
    weights = torch.where(distance == 0, 0.0, 2 * by_distance / distance)
    slopes = weights.sum(1, keepdim=True) * student - weights @ student
    return loss.to(wide), slopes.to(wide)
