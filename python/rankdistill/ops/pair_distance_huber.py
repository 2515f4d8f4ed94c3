"""Huber's loss between a teacher's and a student's distances of all pairs of rows, each over its mean distance."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops.native import _native, accumulator_dtype, address, native_or
from rankdistill.ops.pair_tables import centred, in_single, padded
from rankdistill.ops.registration import asks_gradients, call, implement
from rankdistill.ops.slopes import check_teacher_and_student, define_loss, scale_slopes
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import pair_distance_huber as reference

OP = "pair_distance_huber"

define_loss(OP, "Tensor teacher, Tensor student", differentiable=(1,))


def forward_native(teacher, student, with_slopes):
    wide = accumulator_dtype(student.dtype)
    B, D = student.shape
    t = padded(centred(teacher)[0])
    s, scale = centred(student)
    s = padded(s)
    slopes = torch.empty((B if with_slopes else 0, s.shape[1]), dtype=torch.float64)
    loss = _native.pair_distance_huber(
        address(t), t.shape[1], address(s), s.shape[1], B, in_single(student.dtype, B * B),
        address(slopes) if with_slopes else 0,
    )  # fmt: skip
    return torch.tensor(loss, dtype=wide), (slopes[:, :D] / scale).to(wide)


LAUNCHERS = triton_or(OP, "tiles")


def forward_triton(teacher, student, with_slopes):
    wide = accumulator_dtype(student.dtype)
    if not student.shape[0]:
        return student.new_zeros((), dtype=wide), student.new_empty(student.shape, dtype=wide)
    s, scale = centred(student)
    loss, slopes = LAUNCHERS["tiles"](centred(teacher)[0], s, student.dtype, with_slopes)
    return loss.to(wide), (slopes / scale).to(wide)


NATIVE = {"forward": forward_native, "backward": scale_slopes}
REFERENCE = {"forward": reference.pair_distance_huber_forward, "backward": scale_slopes}
TRITON = {"forward": forward_triton, "backward": scale_slopes} if isinstance(LAUNCHERS, dict) else LAUNCHERS
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def pair_distance_huber(teacher: Tensor, student: Tensor) -> Tensor:
    """Huber's loss between the distances of all pairs of a teacher's rows and of a student's, in units of their means.

    loss = Σ_ij huber(‖s_i − s_j‖/μ_s − ‖t_i − t_j‖/μ_t), huber(x) = x²/2 for |x| ≤ 1 and |x| − ½ beyond, over all
    ordered pairs; μ is the mean of the distances that are not 0, and the student's μ_s has its share of the gradient

    Args:
        teacher: [B, D_t] float. A constant: no gradient reaches it.
        student: [B, D_s] float.

    Returns:
        A scalar, float32 (float64 for a float64 student).

    Contract:
        Products in float32 from 256 rows on, unless the student is float64 or more than one pair in 32 cancels in them; else
        in float64, as sums are. A distance that cancels in the inner products is worked out from differences, in float64.
        Coincident rows have distance 0 and gradient 0. A non-finite row makes the loss NaN. The same bits for any
        number of threads. (Triton: float64, float32 for 16-bit rows.)

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.

    Cost:
        O(B²·(1.5·D_t + 3.5·D_s)) time; memory for four copies of the rows and twice the gradient, nothing of B².

    Source:
        Park et al., Relational Knowledge Distillation, CVPR 2019, equations 4 to 6 (distance-wise).

    Example:
        >>> line = torch.tensor([[0.0], [1.0], [2.0]])
        >>> pair_distance_huber(line, 7 * line)  # a distance's unit does not matter
        tensor(0.)
    """
    check_teacher_and_student(OP, teacher, student)
    return call(f"{OP}_forward", teacher, student, asks_gradients(student))[0]
