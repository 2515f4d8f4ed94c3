"""The squared distance between a teacher's and a student's cosines within groups of rows, all or the positive ones."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import _native, accumulator_dtype, address, native_or
from rankdistill.ops.pair_tables import padded
from rankdistill.ops.registration import WAITS, asks_gradients, call, implement
from rankdistill.ops.relation_distance import forward_gram
from rankdistill.ops.slopes import check_teacher_and_student, define_loss, scale_slopes
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import grouped_relation_distance as reference
from rankdistill.reference.relation import through_unit_rows, unit_rows

OP = "grouped_relation_distance"

define_loss(
    OP, "Tensor teacher, Tensor student, Tensor groups, bool positive_only", differentiable=(1,), tags=WAITS
)


def sorted_groups(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that are in a group, group by group [R], and each group's bounds in that order [G, 2]."""
    order = torch.argsort(groups, stable=True)
    order = order[int((groups < 0).sum()) :]
    counts = torch.unique_consecutive(groups[order], return_counts=True)[1]
    ends = counts.cumsum(0)
    return order, torch.stack([ends - counts, ends], 1)


def by_tiles(tiles, teacher, student, groups, positive_only, with_slopes):
    """`tiles(teacher, student, bounds, positive_only, slopes)` on unit rows sorted by group; Gram matrices for groups
    with more rows than their work by pairs is worth."""
    wide = accumulator_dtype(student.dtype)
    order, bounds = sorted_groups(groups)
    t, (s, inverse) = unit_rows(teacher[order])[0], unit_rows(student[order])
    loss = 0 * (teacher.sum(dtype=torch.float64) + student.sum(dtype=torch.float64))
    slopes = torch.zeros_like(s) if with_slopes else None
    if not positive_only:
        large = (bounds[:, 1] - bounds[:, 0]) > 2 * teacher.shape[1]
        for first, end in bounds[large].tolist():
            rows = slice(first, end)
            value, part = forward_gram(t[rows], s[rows], "inner_product", True, with_slopes)
            loss = loss + value
            if with_slopes:
                slopes[rows] = part
        bounds = bounds[~large].contiguous()
    loss = loss + tiles(t, s, bounds, positive_only, slopes)
    if not with_slopes:
        return loss.to(wide), student.new_empty((0, student.shape[1]), dtype=wide)
    out = torch.zeros(student.shape, dtype=wide, device=student.device)
    out[order] = through_unit_rows(slopes, s, inverse).to(wide)
    return loss.to(wide), out


def native_tiles(teacher, student, bounds, positive_only, slopes):
    t, s = padded(teacher), padded(student)
    wide = torch.zeros_like(s) if slopes is not None else None
    loss = _native.grouped_relation_distance(
        address(t), t.shape[1], address(s), s.shape[1], address(bounds), bounds.shape[0], positive_only, address(wide)
    )  # fmt: skip
    if slopes is not None:
        slopes += wide[:, : slopes.shape[1]]
    return loss


def forward_native(teacher, student, groups, positive_only, with_slopes):
    return by_tiles(native_tiles, teacher, student, groups, positive_only, with_slopes)


LAUNCHERS = triton_or(OP, "tiles")


def forward_triton(teacher, student, groups, positive_only, with_slopes):
    def tiles(t, s, bounds, positive_only, slopes):
        return LAUNCHERS["tiles"](t, s, bounds, positive_only, slopes, student.dtype)

    return by_tiles(tiles, teacher, student, groups, positive_only, with_slopes)


NATIVE = {"forward": forward_native, "backward": scale_slopes}
REFERENCE = {"forward": reference.grouped_relation_distance_forward, "backward": scale_slopes}
TRITON = {"forward": forward_triton, "backward": scale_slopes} if isinstance(LAUNCHERS, dict) else LAUNCHERS
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def grouped_relation_distance(
    teacher: Tensor, student: Tensor, groups: Tensor, positive_only: bool = False
) -> Tensor:
    """The squared distance between a teacher's and a student's cosines of the pairs of rows of one group.

    loss = Σ over ordered pairs i, j with groups_i = groups_j of (cos(t_i, t_j) − cos(s_i, s_j))²

    Args:
        teacher: [B, D_t] float. A constant: no gradient reaches it.
        student: [B, D_s] float.
        groups: [B] int64, any ids; a row with a negative one is in no group.
        positive_only: only pairs with cos(t_i, t_j) > 0, as the released code of hierarchical topology distillation.

    Returns:
        A scalar, float32 (float64 for a float64 student).

    Contract:
        Cosines, their signs and sums in float64. A row of zeros has cosines 0 and gradient 0. A non-finite row makes
        the loss NaN. The same bits for any number of threads. Without a group, 0.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.

    Cost:
        O(Σ_g n_g²·(D_t + 2·D_s)) time for groups of n_g rows, O(n_g·D_t·(D_t + 2·D_s)) for groups of more than 2·D_t
        rows without the filter. Memory: the rows in float64, the gradient; nothing of n_g².

    Source:
        Kang et al., Topology Distillation for Recommender System, KDD 2021, equation 7, entity-level term; the filter
        is in the released code only.

    Example:
        >>> rows = torch.eye(3)
        >>> grouped_relation_distance(rows, torch.ones(3, 4), torch.tensor([0, 0, 1]))  # rows 0 and 1, both ways
        tensor(2.)
        >>> grouped_relation_distance(rows, torch.ones(3, 4), torch.tensor([0, 0, 1]), positive_only=True)
        tensor(0.)
    """
    check_teacher_and_student(OP, teacher, student)
    checks.expect_beside(OP, "groups", groups, 1, "student", student)
    return call(f"{OP}_forward", teacher, student, groups, positive_only, asks_gradients(student))[0]
