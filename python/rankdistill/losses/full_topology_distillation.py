"""Full topology distillation as a module: all relations between a batch's users and items."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.losses.batch import Batch, counted_once
from rankdistill.losses.distillation import Student, VectorDistillation
from rankdistill.losses.settings import expect_reduction
from rankdistill.ops.relation import check_kind


class FullTopologyDistillation(VectorDistillation):
    """Full topology distillation (FTD): cosines between all of a batch's users and items as in the teacher's space.

    A batch's loss is `functional.full_topology_distillation` of its unique users and its unique items, positive and
    negative together. No matrix of pairs is made.

    Args:
        teacher_users, teacher_items: [U, D_t], [N, D_t] float, frozen.
        kind: of relation: "cosine" (the paper's), "inner_product" or "squared_distance".
        reduction: "sum" (the paper's, to which published weights belong) or "mean" over pairs.
        exact_value: False leaves a constant out of the loss's value, and most of its cost; gradients stay the same.

    Raises:
        TypeError, ValueError: settings out of range; tables that do not fit each other, or the student.
        IndexError: ids that the teacher's tables have no row for.

    Cost:
        A batch: O(n·D_t² + n·D_t·D_s) time for its n unique entities, no [n, n].

    Forms:
        As in the paper all ordered pairs count, the diagonal (0) too. The released cosine divides by norms as they are: one row
        of zeros makes all NaN; here such a row has cosine 0 and gradient 0.

    Source:
        Kang et al., Topology Distillation for Recommender System, KDD 2021, section 3.2. Published weight: 1e-3,
        summed over a batch of 1024.

    Example:
        >>> teacher, student = MatrixFactorization(3, 5, width=8), MatrixFactorization(3, 5, width=2)
        >>> method = FullTopologyDistillation(teacher.user_vectors(), teacher.item_vectors())
        >>> loss = method(student, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([0, 0])))
        >>> method(teacher, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]))).item() < 1e-12
        True
    """

    divides = "gradients"
    default_weight = 1e-3

    def __init__(
        self,
        teacher_users: Tensor,
        teacher_items: Tensor,
        kind: str = "cosine",
        reduction: str = "sum",
        exact_value: bool = True,
    ) -> None:
        super().__init__(teacher_users, teacher_items)
        check_kind(type(self).__name__, kind)
        expect_reduction(type(self).__name__, reduction)
        self.kind, self.reduction, self.exact_value = kind, reduction, exact_value

    def forward(self, student: Student, batch: Batch) -> Tensor:
        sides = self.together(student, batch)
        loss = functional.full_topology_distillation(
            torch.cat([rows.teacher for rows in sides]),
            torch.cat([rows.student for rows in sides]),
            self.kind,
            self.reduction,
            self.exact_value,
        )
        return counted_once(batch, loss)
