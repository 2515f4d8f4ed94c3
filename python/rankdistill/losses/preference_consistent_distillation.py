"""Preference-consistent distillation as a module: experts whose projections keep the student's preferences."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.experts import SelectedExperts
from rankdistill.losses.batch import share_of
from rankdistill.losses.distillation import Batch, Student, VectorDistillation
from rankdistill.losses.settings import expect_begun
from rankdistill.ops import gumbel_noise, position_sample
from rankdistill.rankings import Rankings
from rankdistill.sampling import STREAMS


class PreferenceConsistentDistillation(VectorDistillation):
    """Preference-consistent distillation (PCKD): distillation experts that may not bend the student's preferences.

    A batch's loss is that of distillation experts plus β times `functional.preference_consistency` of its unique users:
    over items drawn from the top of the teacher's list, the scores by projected vectors are to prefer what the
    student's own scores prefer. The student is held fixed in the second part, which trains the experts alone.

    Args:
        teacher_users, teacher_items: [U, D_t], [N, D_t] float, frozen.
        rankings: the teacher's lists, train items excluded.
        student_width: D_s.
        n_experts: M, per side.
        beta: β, of the consistency term.
        n_preferred: Q, items drawn per user and epoch.
        list_length: positions that may be drawn.
        position_temperature: of the position weights exp(−(position + 1)/temperature).
        consistency_temperature: of the list form's softmax.
        form: of the consistency: "list" or "pair".
        n_epochs, start, end: the experts' temperature, falling from start to end over n_epochs.
        seed: of initial values, noise and draws.

    Cost:
        A batch: that of distillation experts, and once more for its users and up to Q items of each.

    Forms:
        As released the student is held fixed on both sides of the consistency. The release can draw from the student's list
        instead, and has a third form with a margin (`functional.list_mle`); neither is a setting here.

    Source:
        Zhu and Zhang, Preference-Consistent Knowledge Distillation for Recommender System, TKDE 2025; defaults as in
        its released code.

    Example:
        >>> teacher, student = MatrixFactorization(3, 5, width=8), MatrixFactorization(3, 5, width=2)
        >>> tables = teacher.user_vectors().detach(), teacher.item_vectors().detach()
        >>> method = PreferenceConsistentDistillation(*tables, Rankings.from_vectors(*tables, k=4), student_width=2)
        >>> method.begin_epoch(0)
        >>> loss = method(student, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([0, 0])))
    """

    needs = VectorDistillation.needs | {"rankings"}
    default_weight = 1e-2

    def __init__(
        self,
        teacher_users: Tensor,
        teacher_items: Tensor,
        rankings: Rankings,
        student_width: int,
        n_experts: int = 30,
        beta: float = 0.1,
        n_preferred: int = 5,
        list_length: int = 100,
        position_temperature: float = 10.0,
        consistency_temperature: float = 0.1,
        form: str = "list",
        n_epochs: int = 1000,
        start: float = 1.0,
        end: float = 1e-10,
        seed: int = 0,
    ) -> None:
        super().__init__(teacher_users, teacher_items, student_width)
        functional.annealed_temperature(0, n_epochs, start, end)  # complains
        if (rankings.n_users, rankings.n_items) != (len(teacher_users), len(teacher_items)):
            raise ValueError(
                f"{type(self).__name__}: expected rankings of {len(teacher_users)} users × {len(teacher_items)} items, "
                f"as the teacher's tables; got {rankings.n_users} × {rankings.n_items}"
            )
        self.rankings, self.beta, self.n_preferred, self.form = rankings, beta, n_preferred, form
        self.list_length, self.position_temperature = list_length, position_temperature
        self.consistency_temperature, self.schedule, self.seed = (
            consistency_temperature,
            (n_epochs, start, end),
            seed,
        )
        self.user = SelectedExperts(n_experts, student_width, self.teacher_width, seed=seed)
        self.item = SelectedExperts(n_experts, student_width, self.teacher_width, seed=seed + 2)
        self.temperature, self.epoch, self.step = start, 0, 0
        self._preferred: Tensor | None = None  # [U, Q] int64, this epoch's items; -1 for none

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Lowers the temperature, and draws the epoch's items for every user."""
        self.temperature = functional.annealed_temperature(max(epoch - 1, 0), *self.schedule)
        self.epoch, self.step = epoch, 0
        lengths = self.rankings.lengths.long().clamp(max=self.list_length)
        positions = position_sample(
            torch.arange(self.rankings.n_users), lengths, self.n_preferred, self.position_temperature,
            seed=self.seed, epoch=epoch, stream=STREAMS["consistency"],
        )  # fmt: skip
        drawn = self.rankings.indices.gather(1, positions.clamp_min(0)).long()
        self._preferred = drawn.masked_fill(positions < 0, -1).to(self.teacher_users.device)

    def routing(self, side: str, ids: Tensor, teacher: Tensor, part: Tensor | None = None) -> Tensor:
        selected: SelectedExperts = getattr(self, side)
        noise = gumbel_noise(
            ids, selected.experts.n_experts, seed=self.seed, epoch=self.epoch, step=self.step,
            stream=STREAMS[f"{side}_experts"], parts=part,
        )  # fmt: skip
        return selected.routing(teacher, noise, self.temperature)

    def forward(self, student: Student, batch: Batch) -> Tensor:
        expect_begun(type(self).__name__, self._preferred)
        loss = 0.0
        for rows in self.sides(student, batch):
            routing = self.routing(rows.side, rows.ids, rows.teacher, rows.part)
            parts = getattr(self, rows.side).experts.parts()
            loss = loss + functional.distillation_experts(
                rows.teacher, rows.student, routing, parts, weights=rows.weights
            )
        loss = loss + self.beta * self.consistency(student, batch)
        self.step += 1
        return loss

    def consistency(self, student: Student, batch: Batch) -> Tensor:
        users = torch.unique(batch.users)
        users = users[(self._preferred[users] >= 0).all(1)]  # a list shorter than Q has no such sample
        users = share_of(batch).take(users)
        items, places = torch.unique(self._preferred[users], return_inverse=True)
        projected, raw = [], []
        for rows in (self.rows(student, "user", users), self.rows(student, "item", items)):
            vectors = rows.student.detach()
            routing = self.routing(rows.side, rows.ids, rows.teacher)
            projected.append(getattr(self, rows.side).experts(vectors, routing))
            raw.append(vectors)
        scores = [(u[:, None] * i[places]).sum(2) for u, i in (projected, raw)]
        return functional.preference_consistency(*scores, self.consistency_temperature, self.form)
