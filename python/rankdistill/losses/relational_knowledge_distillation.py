"""Relational knowledge distillation as a module: distances and angles between a batch's users and items."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.losses.batch import Batch, counted_once
from rankdistill.losses.distillation import Student, VectorDistillation
from rankdistill.losses.settings import expect_at_least, expect_begun
from rankdistill.sampling import epoch_seed


class RelationalKnowledgeDistillation(VectorDistillation):
    """Relational knowledge distillation (RKD): distances between entities, and angles among them, as the teacher's.

    A batch's loss is `functional.relational_knowledge_distillation` of its unique users and unique items, positive and
    negative together. All distances count; angles are those of all triples of a sample of entities, drawn anew for
    every batch.

    Args:
        teacher_users, teacher_items: [U, D_t], [N, D_t] float, frozen.
        distance_weight, angle_weight: of the two terms, means over pairs and over triples; 0 leaves a term out.
        n_angle_entities: size of the sample, whose cube the angles' time grows with; None: all entities, exactly.
        seed: of the samples.

    Raises:
        TypeError, ValueError: settings out of range; tables that do not fit each other, or the student.
        IndexError: ids that the teacher's tables have no row for. RuntimeError: a batch before `begin_epoch`.

    Cost:
        A batch: O((n² + R³)·(D_s + D_t)) time for its n unique users and items and R of them in the sample; nothing of n² in memory.

    Forms:
        What KDs calls RKD is the mean squared difference of Gram matrices: `FullTopologyDistillation` of kind "inner_product"
        and reduction "mean". The original takes angles among all triples of a batch; here of a sample, or `None`.

    Source:
        Park et al., Relational Knowledge Distillation, CVPR 2019, section 3; the weights are those of its code.

    Example:
        >>> teacher, student = MatrixFactorization(3, 5, width=8), MatrixFactorization(3, 5, width=2)
        >>> method = RelationalKnowledgeDistillation(teacher.user_vectors(), teacher.item_vectors())
        >>> method.begin_epoch(0)
        >>> loss = method(student, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([0, 0])))
        >>> method(teacher, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]))).item() < 1e-12
        True
    """

    divides = "gradients"
    default_weight = 1.0

    def __init__(
        self,
        teacher_users: Tensor,
        teacher_items: Tensor,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        n_angle_entities: int | None = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(teacher_users, teacher_items)
        expect_at_least(type(self).__name__, 0, n_angle_entities=n_angle_entities or 0)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight
        self.n_angle_entities, self.seed = n_angle_entities, seed
        self._generator: torch.Generator | None = None

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Begins the epoch's samples."""
        self._generator = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))

    def forward(self, student: Student, batch: Batch) -> Tensor:
        expect_begun(type(self).__name__, self._generator)
        sides = self.together(student, batch)
        vectors = torch.cat([rows.student for rows in sides])
        sample = None
        if self.n_angle_entities is not None and self.n_angle_entities < len(vectors):
            order = torch.randperm(len(vectors), generator=self._generator)
            sample = order[: self.n_angle_entities].to(vectors.device)
        loss = functional.relational_knowledge_distillation(
            torch.cat([rows.teacher for rows in sides]),
            vectors,
            self.distance_weight,
            self.angle_weight,
            sample,
        )
        return counted_once(batch, loss)
