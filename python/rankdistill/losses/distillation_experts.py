"""Distillation experts as a module: networks that rebuild the teacher's vectors, one side each for users and items."""

from __future__ import annotations

from torch import Tensor

from rankdistill.losses.annealed_experts import AnnealedExperts
from rankdistill.losses.batch import Batch
from rankdistill.losses.distillation import Student
from rankdistill.losses.settings import expect_choice


class DistillationExperts(AnnealedExperts):
    """Distillation experts (DE): the teacher's vectors rebuilt from the student's by experts, chosen per entity.

    A batch's loss is `functional.distillation_experts` of its unique users, plus half of that of its unique positive
    and of its unique negative items, each with Gumbel noise of its own. The temperature falls geometrically, so that
    a mixture of experts becomes a choice of one; from then on a step costs 1/M.

    Args:
        teacher_users, teacher_items: [U, D_t], [N, D_t] float, frozen.
        student_width: D_s.
        n_experts: M, per side.
        n_epochs: over which the temperature falls from `start` to `end`, those of the training (released: 1000 of both; of
            them 100 end at 0.1, where a choice is still a mixture); the released code sets epochs 0 and 1 alike.
        start, end: temperatures, dimensionless, > 0.
        form: "released" (squared norm) or "paper" (the norm itself).
        seed: of initial values and noise.

    Raises:
        TypeError, ValueError: settings out of range; tables that do not fit each other, or the student.
        IndexError: ids that the teacher's tables have no row for. RuntimeError: a batch before `begin_epoch`.

    Cost:
        A batch: O(n·M·H·(D_s + D_t)) time and O(n·M·H) memory for its n unique users and items, H = ⌊(D_s + D_t)/2⌋, or ⌊D_s/2⌋
        of equal widths; as its temperature falls and entities have one expert each, O(n·H·(D_s + D_t)) and O(n·(H + D_t)).
        State: 2·M·(H·(D_s + D_t + 1) + 2·D_t + 1) numbers.

    Forms:
        The paper prints the norm, the released code squares it. Positive and negative items are made unique each for
        themselves, so that an item of both counts twice by a half, with two draws of noise. With early stopping the released
        temperature gets to about 3e-3, not to its end.

    Source:
        Kang et al., DE-RRD: A Knowledge Distillation Framework for Recommender System, CIKM 2020, section 4.1.
        Published weight: 1e-2, summed over a batch of 1024.

    Example:
        >>> teacher, student = MatrixFactorization(3, 5, width=8), MatrixFactorization(3, 5, width=2)
        >>> method = DistillationExperts(teacher.user_vectors(), teacher.item_vectors(), student_width=2, n_experts=3)
        >>> method.begin_epoch(0)
        >>> loss = method(student, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([0, 0])))
        >>> method.temperature
        1.0
    """

    default_weight = 1e-2

    def __init__(
        self,
        teacher_users: Tensor,
        teacher_items: Tensor,
        student_width: int,
        n_experts: int = 30,
        n_epochs: int = 1000,
        start: float = 1.0,
        end: float = 1e-10,
        form: str = "released",
        seed: int = 0,
    ) -> None:
        super().__init__(teacher_users, teacher_items, student_width, n_experts, (n_epochs, start, end), seed)
        expect_choice(type(self).__name__, "form", form, ("released", "paper"))
        self.form = form

    def forward(self, student: Student, batch: Batch) -> Tensor:
        loss = self.experts_loss(student, batch, self.form)
        self._step += 1
        return loss
