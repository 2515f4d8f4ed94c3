"""Hint regression as a module: a linear map from the student's vectors to the teacher's, for users and for items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill import functional
from rankdistill.experts import linear_parameters
from rankdistill.functional.reduction import widened
from rankdistill.losses.batch import Batch
from rankdistill.losses.distillation import Student, VectorDistillation


class HintRegression(VectorDistillation):
    """Hint regression (FitNet): the teacher's vectors as a linear function of the student's.

    A batch's loss is `functional.hint_regression` of its unique users, plus half of that of its unique positive and of
    its unique negative items.

    Args:
        teacher_users, teacher_items: [U, D_t], [N, D_t] float, frozen.
        student_width: D_s.
        normalized: compare directions alone.
        seed: of the initial values.

    Raises:
        TypeError, ValueError: tables that do not fit each other, or the student.
        IndexError: ids that the teacher's tables have no row for.

    Cost:
        A batch: O(n·D_s·D_t) time for its n unique users and items.

    Forms:
        The paper is about images: one hint per entity, its sum, half weights of items and `normalized` are the released code's.

    Source:
        Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015; for recommenders as in the released code of
        Preference-Consistent Knowledge Distillation.

    Example:
        >>> teacher, student = MatrixFactorization(3, 5, width=8), MatrixFactorization(3, 5, width=2)
        >>> method = HintRegression(teacher.user_vectors(), teacher.item_vectors(), student_width=2)
        >>> loss = method(student, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([0, 0])))
        >>> sorted(method.state_dict())
        ['item_bias', 'item_weight', 'user_bias', 'user_weight']
    """

    default_weight = 1e-2

    def __init__(
        self,
        teacher_users: Tensor,
        teacher_items: Tensor,
        student_width: int,
        normalized: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(teacher_users, teacher_items, student_width)
        self.normalized = normalized
        generator = torch.Generator().manual_seed(seed)
        for side in ("user", "item"):
            weight, bias = linear_parameters(1, self.teacher_width, student_width, generator)
            self.register_parameter(f"{side}_weight", nn.Parameter(weight[0]))
            self.register_parameter(f"{side}_bias", nn.Parameter(bias[0]))

    def forward(self, student: Student, batch: Batch) -> Tensor:
        loss = 0.0
        for rows in self.sides(student, batch):
            weight, bias = getattr(self, f"{rows.side}_weight"), getattr(self, f"{rows.side}_bias")
            vectors, weight, bias = widened(rows.student, weight, bias)
            predicted = nn.functional.linear(vectors, weight, bias)
            loss = loss + functional.hint_regression(
                rows.teacher, predicted, self.normalized, weights=rows.weights
            )
        return loss
