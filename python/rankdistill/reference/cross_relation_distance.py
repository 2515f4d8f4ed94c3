"""loss = sum over rows j and columns k of (cos(t_j, p_k) − cos(s_j, q_k))², and its slopes by s and q.

t, s are the teacher's and the student's rows, p, q their columns. Row j leaves out column `left_out[j]`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference.relation import through_unit_rows, unit_rows


def cross_relation_distance_forward(
    teacher_rows: Tensor,
    teacher_columns: Tensor,
    student_rows: Tensor,
    student_columns: Tensor,
    left_out: Tensor | None,
    with_slopes: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.float64 if student_rows.dtype == torch.float64 else torch.float32
    rows, columns = unit_rows(student_rows), unit_rows(student_columns)
    difference = rows[0] @ columns[0].t() - unit_rows(teacher_rows)[0] @ unit_rows(teacher_columns)[0].t()
    if left_out is not None:
        own = torch.arange(difference.shape[1], device=left_out.device) == left_out[:, None]
        difference = difference.masked_fill(own & ~difference.isnan(), 0)
    loss = difference.square().sum()
    if not with_slopes:
        return loss.to(wide), rows[0][:0].to(wide), columns[0][:0].to(wide)
    row_slopes = through_unit_rows(2 * difference @ columns[0], *rows)
    column_slopes = through_unit_rows(2 * difference.t() @ rows[0], *columns)
    return loss.to(wide), row_slopes.to(wide), column_slopes.to(wide)
