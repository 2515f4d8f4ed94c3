"""The squared distance between a teacher's and a student's relation matrices, by Gram matrices: neither is made."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops.native import accumulator_dtype
from rankdistill.ops.registration import asks_gradients, call, implement
from rankdistill.ops.relation import check_kind
from rankdistill.ops.slopes import check_teacher_and_student, define_loss, scale_slopes
from rankdistill.reference import relation_distance as reference
from rankdistill.reference.relation import through_unit_rows, unit_rows

OP = "relation_distance"
ROW_BLOCK = (
    512  # rows widened at a time on the processor: a block and its copies stay in the second-level cache
)
DEVICE_BLOCK_BYTES = 64 << 20  # and on a device, which wants few launches
COLUMN_BLOCK = 64  # of a Gram matrix, of which one triangle of blocks is worked out

define_loss(OP, "Tensor teacher, Tensor student, str kind, bool teacher_term", differentiable=(1,))


def features(x: Tensor, kind: str, centre: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Rows whose form by `form` is the relation (DESIGN.md RE-1), in float64; of cosines the rows' 1 / length too."""
    if kind == "cosine":
        return unit_rows(x)
    x = x.double()
    if kind == "inner_product":
        return x, None
    x = x - centre
    return torch.cat([x, x.square().sum(1, keepdim=True), x.new_ones((len(x), 1))], 1), None


def rows_at_a_time(width: int, device: torch.device) -> int:
    return ROW_BLOCK if device.type == "cpu" else max(ROW_BLOCK, DEVICE_BLOCK_BYTES // (8 * max(width, 1)))


def form(matrix: Tensor, kind: str) -> Tensor:
    """M · matrix, where relation = X M Xᵀ for features X: M is the identity but for squared distances."""
    if kind != "squared_distance":
        return matrix
    return torch.cat([-2 * matrix[:-2], matrix[-1:], matrix[-2:-1]])


def squared_norm(gram: Tensor, kind: str) -> Tensor:
    """‖X M Xᵀ‖², given XᵀX."""
    formed = form(gram, kind)
    return (formed * formed.t()).sum()


def add_gram(total: Tensor, x: Tensor) -> None:
    """Adds xᵀx to the blocks of `total` on and above its diagonal; on a device, in one launch, to all of it."""
    block = COLUMN_BLOCK if x.device.type == "cpu" else max(x.shape[1], 1)
    for start in range(0, x.shape[1], block):
        stop = start + block
        total[start:stop, start:].addmm_(x[:, start:stop].t(), x[:, start:])


def mirrored(gram: Tensor) -> Tensor:
    upper = gram.triu(1)
    return upper + upper.t() + gram.diag().diag()


def mean_row(x: Tensor, add_up) -> Tensor:
    if add_up is None:
        return x.mean(0, dtype=torch.float64)
    total = add_up(torch.cat([x.sum(0, dtype=torch.float64), x.new_full((1,), len(x), dtype=torch.float64)]))
    return total[:-1] / total[-1].clamp_min(1)


def forward_gram(teacher, student, kind, teacher_term, with_slopes, *, add_up=None):
    """add_up: adds a tensor up over ranks, in place, where the rows are divided among them; the loss is then of all."""
    wide, device = accumulator_dtype(student.dtype), student.device
    centres = [mean_row(t, add_up) if kind == "squared_distance" else None for t in (teacher, student)]
    extra = 2 if kind == "squared_distance" else 0
    D_t, D_s = teacher.shape[1] + extra, student.shape[1] + extra
    zeros = lambda *shape: torch.zeros(shape, dtype=torch.float64, device=device)
    teacher_gram, student_gram, cross_transposed = zeros(D_t, D_t), zeros(D_s, D_s), zeros(D_s, D_t)
    block = rows_at_a_time(D_t + D_s, device)
    blocks = [slice(start, start + block) for start in range(0, student.shape[0], block)]

    def block_features(rows):
        return features(teacher[rows], kind, centres[0])[0], *features(student[rows], kind, centres[1])

    made = [block_features(rows) for rows in blocks] if len(blocks) == 1 else None
    for rows in blocks:
        t, s, _ = made[0] if made else block_features(rows)
        student_gram.addmm_(s.t(), s)
        cross_transposed.addmm_(s.t(), t)  # the faster way round: rows of t are read along
        if teacher_term:
            add_gram(teacher_gram, t)
    if add_up is not None:
        for gram in (student_gram, cross_transposed, *([teacher_gram] if teacher_term else [])):
            add_up(gram)
    cross = cross_transposed.t()
    formed = form(form(cross, kind).t(), kind).t().contiguous()  # M C M
    loss = squared_norm(student_gram, kind) - 2 * (formed * cross).sum()
    if teacher_term:
        # What rounding leaves of a difference of equals may be below 0; NaN stays.
        loss = (loss + squared_norm(mirrored(teacher_gram), kind)).clamp_min(0)
    loss = loss + 0 * loss  # an infinite relation has no distance
    slopes = torch.empty(
        (student.shape[0] if with_slopes else 0, student.shape[1]), dtype=wide, device=device
    )
    if with_slopes:
        own = 4 * form(form(student_gram, kind).t(), kind).t()
        for rows in blocks:
            t, s, inverse = made[0] if made else block_features(rows)
            grad = (s @ own).addmm_(t, formed, alpha=-4)
            if kind == "cosine":
                grad = through_unit_rows(grad, s, inverse)
            elif kind == "squared_distance":
                grad = grad[:, :-2] + 2 * grad[:, -2:-1] * s[:, :-2]
            slopes[rows] = grad
    return loss.to(wide), slopes


GRAM = {"forward": forward_gram, "backward": scale_slopes}
REFERENCE = {"forward": reference.relation_distance_forward, "backward": scale_slopes}
implement(OP, "CPU", {"gram": GRAM, "reference": REFERENCE})
implement(OP, "CUDA", {"gram": GRAM, "reference": REFERENCE})


def relation_distance(
    teacher: Tensor, student: Tensor, kind: str = "cosine", teacher_term: bool = True
) -> Tensor:
    """The squared distance between the relation matrices of a teacher's and of a student's rows.

    loss = Σ_ij (A_ij − S_ij)² = ‖T̂ᵀT̂‖² − 2‖T̂ᵀŜ‖² + ‖ŜᵀŜ‖², over all ordered pairs of rows; A and S are their relations

    Args:
        teacher: [B, D_t] float. A constant: no gradient reaches it.
        student: [B, D_s] float.
        kind: of relation: "cosine" (rows are scaled to T̂ and Ŝ), "inner_product" or "squared_distance".
        teacher_term: True for the distance. False leaves out Σ_ij A_ij², which no gradient depends on and which is
            most of the work where D_t is large: the result is then the distance minus that constant.

    Returns:
        A scalar, float32 (float64 for a float64 student).

    Contract:
        Sums in float64, so that the value keeps its digits where the student's cosines are nearly the teacher's; of
        other relations it may be off by 1e-15 (float32: 1e-12) times B² and the largest one's square. Never below 0.
        A row of zeros has cosines 0 and gradient 0. A non-finite row makes the loss NaN. The gradient has the same bits
        with and without the teacher's term.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes, devices or kind.

    Cost:
        O(B·D_t·(D_t/2 + 2·D_s)) time, O(B·2·D_t·D_s) without the teacher's term; O((D_t + D_s)²) memory beside the
        gradient, and a block of rows in float64. Nothing grows with B².

    Source:
        Kang et al., Topology Distillation for Recommender System, KDD 2021, equation 3 (cosines); the identity is
        DESIGN.md RE-1.

    Example:
        >>> relation_distance(torch.eye(2), torch.ones(2, 3))  # cosines 0 and 1, both ways
        tensor(2.)
    """
    check_teacher_and_student(OP, teacher, student)
    check_kind(OP, kind)
    return call(f"{OP}_forward", teacher, student, kind, teacher_term, asks_gradients(student))[0]
