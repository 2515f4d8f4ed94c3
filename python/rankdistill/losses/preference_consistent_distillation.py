"""Preference-consistent distillation as a module: experts whose projections keep the student's preferences."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.experts import SelectedExperts
from rankdistill.functional.responses import CONSISTENCY_FORMS
from rankdistill.losses.annealed_experts import AnnealedExperts
from rankdistill.losses.batch import Batch, share_of, unique_users
from rankdistill.losses.distillation import Student
from rankdistill.losses.settings import (
    expect_above_zero,
    expect_begun,
    expect_choice,
    expect_sizes,
    expect_whole,
    expect_within,
)
from rankdistill.ops import position_sample
from rankdistill.rankings import Rankings
from rankdistill.sampling import STREAMS


class PreferenceConsistentDistillation(AnnealedExperts):
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
        n_epochs, start, end: the experts' temperature, falling from start to end over n_epochs, those of the training.
        seed: of initial values, noise and draws.

    Raises:
        TypeError, ValueError: settings out of range; tables and rankings that do not fit each other, or the student.
        IndexError: ids that the teacher's tables have no row for. RuntimeError: a batch before `begin_epoch`.

    Cost:
        An epoch's draw: O(U·list_length) time, 8·U·Q bytes. A batch: that of distillation experts, and once more for its users and
        up to Q items of each.

    Forms:
        As released the student is held fixed on both sides of the consistency. The release can draw from the student's list
        instead, and has a third form with a margin (`functional.list_mle`); neither is a setting here.

    Source:
        Zhu and Zhang, Preference-Consistent Knowledge Distillation for Recommender System, TKDE 2025; defaults as in
        its released code.

    Example:
        >>> teacher, student = MatrixFactorization(3, 5, width=8), MatrixFactorization(3, 5, width=2)
        >>> tables = teacher.user_vectors().detach(), teacher.item_vectors().detach()
        >>> method = PreferenceConsistentDistillation(*tables, Rankings.from_vectors(*tables, k=5), student_width=2)
        >>> method.begin_epoch(0)
        >>> loss = method(student, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([0, 0])))
    """

    needs = AnnealedExperts.needs | {"rankings"}
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
        schedule = (n_epochs, start, end)
        super().__init__(teacher_users, teacher_items, student_width, n_experts, schedule, seed)
        tables = len(self.teacher_users), len(self.teacher_items)
        listed = rankings.n_users, rankings.n_items
        expect_sizes(type(self).__name__, "rankings", listed, tables, "the teacher's tables")
        expect_whole(type(self).__name__, n_preferred=n_preferred, list_length=list_length)
        expect_above_zero(
            type(self).__name__,
            position_temperature=position_temperature,
            consistency_temperature=consistency_temperature,
        )
        expect_choice(type(self).__name__, "form", form, CONSISTENCY_FORMS)
        most = min(list_length, rankings.k)
        expect_within(
            type(self).__name__, "n_preferred", n_preferred, 1, most, ", as list_length and rankings"
        )
        self.rankings, self.beta, self.n_preferred, self.form = rankings, beta, n_preferred, form
        self.list_length, self.position_temperature = list_length, position_temperature
        self.consistency_temperature = consistency_temperature
        self._preferred: Tensor | None = None  # [U, Q] int64, this epoch's items; -1 for none

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Lowers the temperature, and draws the epoch's items for every user."""
        super().begin_epoch(epoch)
        lengths = self.rankings.lengths.long().clamp(max=self.list_length)
        positions = position_sample(
            torch.arange(self.rankings.n_users), lengths, self.n_preferred, self.position_temperature,
            seed=self.seed, epoch=epoch, stream=STREAMS["consistency"],
        )  # fmt: skip
        drawn = self.rankings.indices.gather(1, positions.clamp_min(0)).long()
        self._preferred = drawn.masked_fill(positions < 0, -1).to(self.teacher_users.device)

    def forward(self, student: Student, batch: Batch) -> Tensor:
        expect_begun(type(self).__name__, self._preferred)
        loss = self.experts_loss(student, batch) + self.beta * self.consistency(student, batch)
        self._step += 1
        return loss

    def consistency(self, student: Student, batch: Batch) -> Tensor:
        users = unique_users(batch)
        users = users[(self._preferred[users] >= 0).all(1)]  # a list shorter than Q has no such sample
        users = share_of(batch).take(users)
        items, places = torch.unique(self._preferred[users], return_inverse=True)
        projected, raw = [], []
        for rows in (self.rows(student, "user", users), self.rows(student, "item", items)):
            vectors = rows.student.detach()
            selected: SelectedExperts = getattr(self, rows.side)
            noise = self.noise(rows.side, rows.ids, stream="preferences")
            routing = selected.routing(rows.teacher, noise, self.temperature)
            projected.append(selected.experts(vectors, routing))
            raw.append(vectors)
        scores = [(u[:, None] * i[places]).sum(2) for u, i in (projected, raw)]
        return functional.preference_consistency(*scores, self.consistency_temperature, self.form)
