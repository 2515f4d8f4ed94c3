"""Personalised hint regression as a module: a hyper-network gives each entity its own map to the teacher's vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill import functional
from rankdistill.experts import linear_parameters
from rankdistill.losses.batch import Batch, expect_interactions
from rankdistill.losses.distillation import Student, VectorDistillation
from rankdistill.losses.entities import Entities
from rankdistill.losses.settings import expect_at_least, expect_choice


class PersonalizedHintRegression(VectorDistillation):
    """Personalised hint regression (PHR): distillation experts without experts, by one hyper-network.

    A batch's loss is `functional.personalized_hint_regression` of its unique users, plus half of that of its unique
    positive and of its unique negative items; users and items share the network.

    Args:
        teacher_users, teacher_items: [U, D_t], [N, D_t] float, frozen.
        student_width: D_s.
        hidden_width: H of the network; None: D_t + D_t·D_s, which makes it large (17 M numbers for 200 and 20).
        form: "released" conditions the map on the entity's own teacher vector; "paper" on the mean of it and of the
            teacher vectors of its partners among the batch's positives (an entity without one keeps its own).
        seed: of the initial values.

    Raises:
        TypeError, ValueError: settings out of range; tables that do not fit each other, or the student.
        IndexError: ids that the teacher's tables have no row for.

    Cost:
        A batch: O(n·H·D_t·D_s) time and O(n·(D_t·D_s + H)) memory for its n unique users and items.

    Forms:
        The paper's enriched vector, and the width of its network, are known from secondary notes alone; the re-implementation
        has the enrichment commented out.

    Source:
        Kang et al., Personalized Knowledge Distillation for Recommender System, Knowledge-Based Systems 239, 2022. No
        code was released by its authors: "released" is a later re-implementation. Published weight: 1e-2.

    Example:
        >>> teacher, student = MatrixFactorization(3, 5, width=8), MatrixFactorization(3, 5, width=2)
        >>> method = PersonalizedHintRegression(teacher.user_vectors(), teacher.item_vectors(), student_width=2)
        >>> loss = method(student, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([0, 0])))
        >>> [tuple(p.shape) for p in method.parameters()]
        [(24, 8), (24,), (16, 24), (16,)]
    """

    default_weight = 1e-2

    def __init__(
        self,
        teacher_users: Tensor,
        teacher_items: Tensor,
        student_width: int,
        hidden_width: int | None = None,
        form: str = "released",
        seed: int = 0,
    ) -> None:
        super().__init__(teacher_users, teacher_items, student_width)
        expect_choice(type(self).__name__, "form", form, ("released", "paper"))
        if hidden_width is not None:
            expect_at_least(type(self).__name__, 1, hidden_width=hidden_width)
        self.form = form
        D_t = self.teacher_width
        H = D_t + D_t * student_width if hidden_width is None else hidden_width
        generator = torch.Generator().manual_seed(seed)
        into = linear_parameters(1, H, D_t, generator)
        out = linear_parameters(1, D_t * student_width, H, generator)
        self.weight_in, self.bias_in = (nn.Parameter(part[0]) for part in into)
        self.weight_out, self.bias_out = (nn.Parameter(part[0]) for part in out)

    def forward(self, student: Student, batch: Batch) -> Tensor:
        network = self.weight_in, self.bias_in, self.weight_out, self.bias_out
        loss = 0.0
        for rows in self.sides(student, batch):
            condition = self.enriched(rows, batch) if self.form == "paper" else None
            loss = loss + functional.personalized_hint_regression(
                rows.teacher, rows.student, network, condition, weights=rows.weights
            )
        return loss

    def enriched(self, rows: Entities, batch: Batch) -> Tensor:
        """Each row's teacher vector, halfway to the mean of its partners' in the batch's positive interactions."""
        batch = expect_interactions(type(self).__name__, batch)
        if batch.positives is None:
            return rows.teacher
        own, partners = (
            (batch.users, self.teacher_items[batch.positives])
            if rows.side == "user"
            else (batch.positives, self.teacher_users[batch.users])
        )
        means, _ = functional.group_means(partners, own)
        owners = torch.unique(own)
        at = torch.searchsorted(owners, rows.ids).clamp(max=len(owners) - 1)
        has_partner = owners[at] == rows.ids
        return torch.where(has_partner[:, None], (rows.teacher + means[at]) / 2, rows.teacher)
