"""What methods with experts share: one set of them per side, and a routing whose temperature falls over the epochs."""

from __future__ import annotations

from torch import Tensor

from rankdistill import functional
from rankdistill.experts import SelectedExperts
from rankdistill.losses.batch import Batch
from rankdistill.losses.distillation import Student, VectorDistillation
from rankdistill.losses.settings import expect_above_zero, expect_at_least, expect_begun
from rankdistill.ops import gumbel_noise
from rankdistill.sampling import STREAMS, role_seed


class AnnealedExperts(VectorDistillation):
    """A method with experts for users and for items.

    Args:
        teacher_users, teacher_items, student_width: as `VectorDistillation`.
        n_experts: M, per side.
        schedule: (n_epochs, start, end) of `functional.annealed_temperature`; epochs 0 and 1 are alike, as released.
        seed: of initial values and noise.
        between: whether the experts' hidden width is ⌊(D_t + D_s)/2⌋ between equal widths too.
    """

    def __init__(
        self,
        teacher_users: Tensor,
        teacher_items: Tensor,
        student_width: int,
        n_experts: int,
        schedule: tuple[int, float, float],
        seed: int,
        between: bool = False,
    ) -> None:
        super().__init__(teacher_users, teacher_items, student_width)
        n_epochs, start, end = schedule
        expect_at_least(type(self).__name__, 1, n_experts=n_experts, n_epochs=n_epochs)
        expect_above_zero(type(self).__name__, start=start, end=end)
        self.schedule, self.seed = schedule, seed
        hidden_width = (self.teacher_width + student_width) // 2 if between else None
        self.user, self.item = (
            SelectedExperts(
                n_experts, student_width, self.teacher_width, hidden_width, role_seed(seed, f"{side} experts")
            )
            for side in ("user", "item")
        )
        self._epoch: int | None = None
        self._step = 0

    @property
    def temperature(self) -> float:
        """Of this epoch's routing."""
        return functional.annealed_temperature(max((self._epoch or 0) - 1, 0), *self.schedule)

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Lowers the temperature, and begins the epoch's noise."""
        self._epoch, self._step = epoch, 0

    def noise(self, side: str, ids: Tensor, part: Tensor | None = None, stream: str = "experts") -> Tensor:
        """[n, M] Gumbel variates of this step."""
        expect_begun(type(self).__name__, self._epoch)
        M = getattr(self, side).experts.n_experts
        return gumbel_noise(
            ids, M, seed=self.seed, epoch=self._epoch, step=self._step, stream=STREAMS[f"{side}_{stream}"], parts=part
        )  # fmt: skip

    def experts_loss(self, student: Student, batch: Batch, form: str = "released") -> Tensor:
        """`functional.distillation_experts` of the batch's users, and of its items with half weights."""
        loss = 0.0
        for rows in self.sides(student, batch):
            selected: SelectedExperts = getattr(self, rows.side)
            noise = self.noise(rows.side, rows.ids, rows.part)
            routing = selected.routing(rows.teacher, noise, self.temperature)
            loss = loss + functional.distillation_experts(
                rows.teacher, rows.student, routing, selected.experts.parts(), form, weights=rows.weights
            )
        return loss
