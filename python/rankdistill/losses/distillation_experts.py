"""Distillation experts as a module: networks that rebuild the teacher's vectors, one side each for users and items."""

from __future__ import annotations

from torch import Tensor

from rankdistill import functional
from rankdistill.experts import SelectedExperts
from rankdistill.losses.distillation import Batch, Student, VectorDistillation
from rankdistill.losses.settings import expect_choice
from rankdistill.ops import gumbel_noise
from rankdistill.sampling import STREAMS


class DistillationExperts(VectorDistillation):
    """Distillation experts (DE): the teacher's vectors rebuilt from the student's by experts, chosen per entity.

    A batch's loss is `functional.distillation_experts` of its unique users, plus half of that of its unique positive
    and of its unique negative items, each with Gumbel noise of its own. The temperature falls geometrically, so that
    a mixture of experts becomes a choice of one; from then on a step costs 1/M.

    Args:
        teacher_users, teacher_items: [U, D_t], [N, D_t] float, frozen.
        student_width: D_s.
        n_experts: M, per side.
        n_epochs: over which the temperature falls from `start` to `end`; the released code sets epochs 0 and 1 alike.
        start, end: temperatures, dimensionless, > 0.
        form: "released" (squared norm) or "paper" (the norm itself).
        seed: of initial values and noise.

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
        super().__init__(teacher_users, teacher_items, student_width)
        functional.annealed_temperature(0, n_epochs, start, end)  # complains
        expect_choice(type(self).__name__, "form", form, ("released", "paper"))
        self.form, self.seed, self.schedule = form, seed, (n_epochs, start, end)
        self.user = SelectedExperts(n_experts, student_width, self.teacher_width, seed=seed)
        self.item = SelectedExperts(n_experts, student_width, self.teacher_width, seed=seed + 2)
        self.temperature, self.epoch, self.step = start, 0, 0

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Lowers the temperature, and begins the epoch's noise."""
        self.temperature = functional.annealed_temperature(max(epoch - 1, 0), *self.schedule)
        self.epoch, self.step = epoch, 0

    def forward(self, student: Student, batch: Batch) -> Tensor:
        loss = 0.0
        for rows in self.sides(student, batch):
            selected: SelectedExperts = getattr(self, rows.side)
            noise = gumbel_noise(
                rows.ids, selected.experts.n_experts, seed=self.seed, epoch=self.epoch, step=self.step,
                stream=STREAMS[f"{rows.side}_experts"], parts=rows.part,
            )  # fmt: skip
            routing = selected.routing(rows.teacher, noise, self.temperature)
            loss = loss + functional.distillation_experts(
                rows.teacher, rows.student, routing, selected.experts.parts(), self.form, weights=rows.weights
            )
        self.step += 1
        return loss
