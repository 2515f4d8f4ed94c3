"""The squared distance between a teacher's and a student's cosines between two sets of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import accumulator_dtype
from rankdistill.ops.registration import asks_gradients, call, implement
from rankdistill.ops.slopes import define_loss, scale_slopes
from rankdistill.reference import cross_relation_distance as reference
from rankdistill.reference.relation import inverse_lengths, through_unit_rows, unit_rows

OP = "cross_relation_distance"
ENTRY_BLOCK = 1 << 20  # cosines held at a time

define_loss(
    OP,
    "Tensor teacher_rows, Tensor teacher_columns, Tensor student_rows, Tensor student_columns, Tensor? left_out",
    differentiable=(2, 3),
)


def cosines(x: Tensor, columns: Tensor) -> Tensor:
    """Of rows [n, D] with columns [D, G] of length 1: [n, G] in float64."""
    if x.dtype == torch.float64:
        return unit_rows(x)[0] @ columns
    x = x.double()
    return torch.mm(x, columns).mul_(inverse_lengths(x))  # fewer numbers to scale than those of x


def forward_gram(teacher_rows, teacher_columns, student_rows, student_columns, left_out, with_slopes):
    wide, device = accumulator_dtype(student_rows.dtype), student_rows.device
    wanted_columns = unit_rows(teacher_columns)[0].t()
    columns, inverse = unit_rows(student_columns)
    numbers = torch.arange(columns.shape[0], device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    kept = student_rows.shape[0] if with_slopes else 0
    row_slopes = torch.empty((kept, student_rows.shape[1]), dtype=wide, device=device)
    grad_columns = columns.new_zeros(columns.shape if with_slopes else (0, columns.shape[1]))
    block = max(1, ENTRY_BLOCK // max(1, columns.shape[0]))
    for start in range(0, student_rows.shape[0], block):
        rows = slice(start, start + block)
        s, inverse_rows = unit_rows(student_rows[rows])
        difference = torch.mm(s, columns.t()).sub_(cosines(teacher_rows[rows], wanted_columns))
        if left_out is not None:
            own = numbers == left_out[rows, None]
            difference = difference.masked_fill(own & ~difference.isnan(), 0)
        loss += difference.square().sum()
        if with_slopes:
            row_slopes[rows] = through_unit_rows(2 * difference @ columns, s, inverse_rows)
            grad_columns.addmm_(difference.t(), s, alpha=2)
    column_slopes = through_unit_rows(grad_columns, columns, inverse) if with_slopes else grad_columns
    return loss.to(wide), row_slopes, column_slopes.to(wide, copy=True)


GRAM = {"forward": forward_gram, "backward": scale_slopes}
REFERENCE = {"forward": reference.cross_relation_distance_forward, "backward": scale_slopes}
implement(OP, "CPU", {"gram": GRAM, "reference": REFERENCE})
implement(OP, "CUDA", {"gram": GRAM, "reference": REFERENCE})


def cross_relation_distance(
    teacher_rows: Tensor,
    teacher_columns: Tensor,
    student_rows: Tensor,
    student_columns: Tensor,
    left_out: Tensor | None = None,
) -> Tensor:
    """The squared distance between a teacher's and a student's cosines of every row with every column.

    loss = Σ_j Σ_{k ≠ left_out_j} (cos(t_j, p_k) − cos(s_j, q_k))²

    Columns are for instance the means of groups of rows (`group_means`), of which a row may leave out its own.

    Args:
        teacher_rows, teacher_columns: [B, D_t], [G, D_t] float: t and p. Constants: no gradient reaches them.
        student_rows, student_columns: [B, D_s], [G, D_s] float of one dtype: s and q.
        left_out: [B] int64, the column that each row does not count; negative or past the last: none. None: no row.

    Returns:
        A scalar, float32 (float64 for float64 students).

    Contract:
        Cosines and sums in float64. A row or column of zeros has cosines 0 and gradient 0. A non-finite row or column
        makes the loss NaN.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.

    Cost:
        O(B·G·(D_t + 3·D_s)) time; 8 MB of cosines at a time, whatever B and G.

    Source:
        Kang et al., Topology Distillation for Recommender System, KDD 2021, equation 7, group-level term.

    Example:
        >>> rows, columns = torch.eye(2), torch.ones(1, 2)
        >>> cross_relation_distance(rows, rows, torch.ones(2, 3), torch.ones(2, 3))  # cosines of 0 against 1, twice
        tensor(2.)
        >>> cross_relation_distance(rows, rows, torch.ones(2, 3), torch.ones(2, 3), left_out=torch.tensor([1, -1]))
        tensor(1.)
    """
    teacher_rows, teacher_columns = checks.alike_under_autocast(teacher_rows, teacher_columns)
    student_rows, student_columns = checks.alike_under_autocast(student_rows, student_columns)
    tables = {
        "teacher_rows": teacher_rows,
        "teacher_columns": teacher_columns,
        "student_rows": student_rows,
        "student_columns": student_columns,
    }
    for name, table in tables.items():
        checks.expect_tensor(OP, name, table, 2)
        where = f"{name} on the device of student_rows ({student_rows.device})"
        checks.expect(table.device == student_rows.device, OP, where, table)
    checks.expect_same(OP, "student_rows", student_rows, "student_columns", student_columns)
    for side, rows, columns in (
        ("teacher", teacher_rows, teacher_columns),
        ("student", student_rows, student_columns),
    ):
        checks.expect(
            columns.shape[1] == rows.shape[1], OP, f"{side}_columns of width {rows.shape[1]}", columns
        )
    B, G = student_rows.shape[0], student_columns.shape[0]
    checks.expect(
        teacher_rows.shape[0] == B, OP, f"teacher_rows with {B} rows, as student_rows", teacher_rows
    )
    checks.expect(teacher_columns.shape[0] == G, OP, f"teacher_columns with {G} rows", teacher_columns)
    if left_out is not None:
        checks.expect_beside(OP, "left_out", left_out, 1, "student_rows", student_rows)
    checks.expect_no_forward_ad(OP, *tables.values())
    return call(f"{OP}_forward", 
        teacher_rows, teacher_columns, student_rows, student_columns, left_out,
        asks_gradients(student_rows, student_columns),
    )[0]  # fmt: skip
