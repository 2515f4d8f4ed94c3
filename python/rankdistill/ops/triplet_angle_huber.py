"""Huber's loss between the cosines of a teacher's and a student's angles at anchor rows, of all pairs of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import _native, accumulator_dtype, address, native_or
from rankdistill.ops.pair_tables import DOUBLES, SINGLES, in_single, padded, scaled
from rankdistill.ops.registration import asks_gradients, call, implement
from rankdistill.ops.slopes import check_teacher_and_student, define_loss, scale_slopes
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import triplet_angle_huber as reference

OP = "triplet_angle_huber"

define_loss(OP, "Tensor teacher, Tensor student, Tensor? anchors", differentiable=(1,))


def checked_anchors(student: Tensor, anchors: Tensor | None) -> Tensor:
    if anchors is None:
        return torch.arange(student.shape[0])
    anchors = anchors.contiguous()
    checks.check_indices(OP, "anchors", anchors, 0, student.shape[0])
    return anchors


def forward_native(teacher, student, anchors, with_slopes):
    wide = accumulator_dtype(student.dtype)
    B, D = student.shape
    anchors = checked_anchors(student, anchors)
    single = in_single(student.dtype, len(anchors) * B * B)
    t = padded(scaled(teacher)[0])
    s, scale = scaled(student)
    s = padded(s, SINGLES if single else DOUBLES)
    slopes = torch.zeros((B if with_slopes else 0, s.shape[1]), dtype=torch.float64)
    loss = _native.triplet_angle_huber(
        address(t), t.shape[1], address(s), s.shape[1], B, address(anchors), len(anchors), single,
        address(slopes) if with_slopes else 0,
    )  # fmt: skip
    return torch.tensor(loss, dtype=wide), (slopes[:, :D] / scale).to(wide)


def forward_reference(teacher, student, anchors, with_slopes):
    if student.device.type == "cpu":
        anchors = checked_anchors(student, anchors)
    return reference.triplet_angle_huber_forward(teacher, student, anchors, with_slopes)


NATIVE = {"forward": forward_native, "backward": scale_slopes}
REFERENCE = {"forward": forward_reference, "backward": scale_slopes}
TRITON = triton_or(OP, "forward")
if isinstance(TRITON, dict):
    TRITON["backward"] = scale_slopes
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def triplet_angle_huber(teacher: Tensor, student: Tensor, anchors: Tensor | None = None) -> Tensor:
    """Huber's loss between the cosines of the angles that rows form at anchors, of a teacher's rows and a student's.

    loss = Σ_a Σ_ik huber(cos∠(s_i, s_a, s_k) − cos∠(t_i, t_a, t_k)), huber(x) = x²/2 for |x| ≤ 1 and |x| − ½ beyond,
    over ordered pairs i, k; the angle at a is the one between the differences to row a

    Args:
        teacher: [B, D_t] float. A constant: no gradient reaches it.
        student: [B, D_s] float.
        anchors: [A] int64 rows in [0, B) at which angles are taken (they may repeat); None: every row, the exact loss.
            Another sample is all triples of fewer rows: pass those rows alone.

    Returns:
        A scalar, float32 (float64 for a float64 student).

    Contract:
        Cosines in float32 from 65,536 pairs of rows at anchors on, unless the student is float64; else in float64, as sums
        are. A row that coincides with the anchor has cosines 0 and gradient 0. A non-finite
        row makes the loss NaN, unless there is no anchor. The same bits for any number of threads. (Triton: tf32x3
        products, float64 for float64 rows; an anchor out of range makes the loss NaN.)

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.
        IndexError: an anchor that is no row (CPU).

    Cost:
        O(A·B²·(D_t + 2·D_s)) time; memory for three copies of the rows and of the gradient.

    Source:
        Park et al., Relational Knowledge Distillation, CVPR 2019, equations 7 and 8 (angle-wise).

    Example:
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> triplet_angle_huber(corner, 5 * corner.flip(1))  # rotations, reflections and scales do not matter
        tensor(0.)
    """
    check_teacher_and_student(OP, teacher, student)
    if anchors is not None:
        checks.expect_tensor(OP, "anchors", anchors, 1, (torch.int64,))
        checks.expect(
            anchors.device == student.device,
            OP,
            f"anchors on the device of student ({student.device})",
            anchors,
        )
        checks.check_if_asked(OP, "anchors", anchors, 0, student.shape[0])
    return call(f"{OP}_forward", teacher, student, anchors, asks_gradients(student))[0]
