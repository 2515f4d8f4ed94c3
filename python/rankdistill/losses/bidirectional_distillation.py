"""Bidirectional distillation as a module: a teacher and a student that train together, each on the other's scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch, expect_interactions
from rankdistill.losses.discrepant_negatives import DiscrepantNegatives
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.settings import expect_above_zero, expect_at_least, expect_begun, expect_choice

TRAIN_ITEMS = ("ranked", "excluded")


class BidirectionalDistillation(Distillation):
    """Bidirectional distillation (BD): teacher and student train together, each towards the other's softened responses.

    Negatives of each interaction are drawn by the discrepancy of ranks: for the teacher likelier what the student ranks
    lower (`sampling.bidirectional_weights`), for the student only what the teacher ranks lower. On them each model has
    its own loss and weight · `functional.bidirectional_distillation` of the other's scores.

    Args:
        teacher: a model with `score` and `loss(batch)`. It is part of this module: trained, and kept in `state_dict`.
        train: the train items of every user.
        teacher_temperature: which softens what the student learns from, > 0.
        student_temperature: which softens what the teacher learns from, > 0.
        teacher_weight: λ of the teacher's term beside its own loss; the student's is the method's weight, as always.
        teacher_sharpness, student_sharpness: ε and ε_t of the weights, per place of rank.
        n_negatives: J, per interaction, epoch and learner, drawn with replacement.
        period: epochs between two rankings; draws for all of them are made at once.
        train_items: "ranked" (as released: their scores count as 0, and they can be drawn) or "excluded".
        seed: of the draws.

    Contract:
        `negatives` chooses those of the student's own loss. Where both models rank a user's items alike the student has
        no negative, -1, which trains nothing. Neither loss reaches the other's parameters. A run that is resumed goes on
        exactly.

    Raises:
        TypeError, ValueError: settings out of range; a batch of users alone, without negatives or of others than train's
        interactions. RuntimeError: a batch before `begin_epoch`.

    Cost:
        Every `period` epochs O(U·N·(D_t + D_s + log N)) time, 2^21 users × items at a time: some 200 MB, no [U, N]. State:
        8·period·J bytes per interaction, and the teacher. A batch: 2·J scores of both models per interaction.

    Forms:
        As released the learner's logit is not divided by a temperature. Train items' scores are multiplied by 0 there,
        not left out (`train_items`). Its form for autoencoders (temperatures 2 and 10) is not offered.

    Source:
        Kweon, Kang and Yu, Bidirectional Distillation for Top-K Recommender System, WWW 2021. Published weights 0.5, beside
        a summed BPR loss of one negative, batch 128.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([3, 0]), n_rows=2, n_columns=5)
        >>> teacher, student = MatrixFactorization(2, 5, width=8), MatrixFactorization(2, 5, width=4, seed=1)
        >>> method = BidirectionalDistillation(teacher, train)
        >>> method.begin_epoch(0, student)
        >>> users, positives = train.pairs()
        >>> batch = Batch(users, positives, method.negatives(0, users, positives))
        >>> loss = student.loss(batch) + 0.5 * method(student, batch) + method.teacher_loss(student, batch)
    """

    reads_whole = "scores of all items, for ranks of every item"
    divides = "interactions"
    needs = frozenset({"model"})
    default_weight = 0.5

    def __init__(
        self,
        teacher: nn.Module,
        train: CSR,
        teacher_temperature: float = 5.0,
        student_temperature: float = 5.0,
        teacher_weight: float = 0.5,
        teacher_sharpness: float = 1e-4,
        student_sharpness: float = 1e-2,
        n_negatives: int = 1,
        period: int = 10,
        train_items: str = "ranked",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        expect_at_least(name, 1, n_negatives=n_negatives, period=period)
        temperatures = {
            "teacher_temperature": teacher_temperature,
            "student_temperature": student_temperature,
        }
        sharpness = {"teacher_sharpness": teacher_sharpness, "student_sharpness": student_sharpness}
        expect_above_zero(name, **temperatures, **sharpness)
        expect_choice(name, "train_items", train_items, TRAIN_ITEMS)
        self.teacher, self.teacher_weight = teacher, teacher_weight
        self.teacher_temperature, self.student_temperature = teacher_temperature, student_temperature
        train, ranked = CSR.from_any(train).to("cpu"), train_items == "ranked"
        self.draws = DiscrepantNegatives(
            name, train, n_negatives, period, tuple(sharpness.values()), ranked, seed
        )
        self._epoch: int | None = None

    @property
    def trained_teacher(self) -> nn.Module:
        return self.teacher

    def begin_epoch(self, epoch: int, student: Student) -> None:
        """Ranks by both models and draws, every `period` epochs."""
        self._epoch = epoch
        if hasattr(self.teacher, "begin_epoch"):
            self.teacher.begin_epoch(epoch)
        if not self.draws.has(epoch):
            self.draws.draw(epoch, self.teacher, student)

    def negatives(self, epoch: int, users: Tensor, positives: Tensor) -> Tensor:
        """The student's [n, J] int64, of train interactions; -1 for none."""
        return self.draws.of("student", epoch, users, positives)

    def forward(self, student: Student, batch: Batch) -> Tensor:
        """The student's term on the batch's negatives."""
        expect_begun(type(self).__name__, self._epoch)
        batch = expect_interactions(type(self).__name__, batch).own()
        return towards(self.teacher, student, batch, self.teacher_temperature)

    def teacher_loss(self, student: Student, batch: Batch) -> Tensor:
        """The teacher's own loss and its term, on its negatives of the batch's interactions."""
        expect_begun(type(self).__name__, self._epoch)
        batch = expect_interactions(type(self).__name__, batch).own()
        drawn = self.draws.of("teacher", self._epoch, batch.users, batch.positives)
        return self.loss_of_teacher(student, Batch(batch.users, batch.positives, drawn))

    def loss_of_teacher(self, student: Student, batch: Batch) -> Tensor:
        term = towards(student, self.teacher, batch, self.student_temperature)
        return self.teacher.loss(batch) + self.teacher_weight * term


def towards(partner: Student, learner: Student, batch: Batch, temperature: float) -> Tensor:
    """What the learner has to learn from its partner's scores of the batch's negatives, summed."""
    negatives = batch.negative_columns("BidirectionalDistillation")
    items = negatives.clamp_min(0)
    with torch.no_grad():
        wanted = partner.score(batch.users, items)
    losses = functional.bidirectional_distillation(
        wanted, learner.score(batch.users, items), temperature, "none"
    )
    return losses.masked_fill(negatives < 0, 0).sum()
