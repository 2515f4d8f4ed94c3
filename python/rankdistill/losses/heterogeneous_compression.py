"""Heterogeneous compression as a module: one student, several teachers, each from its easy checkpoints on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.functional.checkpoints import GAINS
from rankdistill.losses.batch import Batch, unique_users
from rankdistill.losses.checkpoint_knowledge import CheckpointKnowledge
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.list_scores import unique_rows
from rankdistill.losses.settings import (
    expect_above_zero,
    expect_at_least,
    expect_begun,
    expect_choice,
    expect_reduction,
)
from rankdistill.losses.whole_catalogue import expect_scoring_vectors, scoring_vectors
from rankdistill.rankings import Rankings


class HeterogeneousCompression(Distillation):
    """Heterogeneous compression (HetComp): a student learns an ensemble's ranking, of early checkpoints first.

    Every `period` epochs each user goes on to a teacher's next checkpoint where the student has come near enough to it
    (`functional.advance_checkpoints`), and the ensemble's top-K is made anew. It is learned as a set until all
    users are (nearly) at the last checkpoints, from then on in order (`functional.heterogeneous_compression`).

    Args:
        checkpoints: for each teacher its rankings at V moments of its training, the last one converged; train items
            excluded, K items or more each.
        exclude: every user's train items.
        observed: [U, P] int64, a tensor or an array, train items in the teachers' order, of which the first K/10 count; -1 for none.
        n_listed: K.
        n_compared: k of the discrepancy D@k.
        period: epochs between two comparisons, the first after epoch `period`.
        looseness, decay: of the threshold, dimensionless.
        position_temperature: of the ensemble's weights exp(−position/temperature), > 0.
        ordered_weight: of the ordered loss relative to the unordered one; published: 0.005 / 0.01.
        gain: of the discrepancy, by the place of the "student" (as released) or of the "teacher" (the paper).
        reduction: "sum" over the batch's unique users (the paper's) or "mean".

    Raises:
        TypeError, ValueError: settings out of range; rankings of different catalogues, or too short; a student whose scores are not
        inner products of its vectors, but for biases; a user whose ensemble lists fewer than K items.
        IndexError: users that there are no rankings of (on a CPU). RuntimeError: a batch before `begin_epoch`.

    Contract:
        Which checkpoint each user is at is in `state_dict`; a run that is resumed goes on exactly.

    Cost:
        4·max(K, k) bytes per user and checkpoint, not permutations of the catalogue. A comparison: O(U·N·D) time. A batch: O(n·N·D)
        time for its n unique users, no [n, N].

    Forms:
        The paper's relevance in D@k belongs to the teacher's rank, the released gain to the student's place: `gain`. The
        release computes the base loss but does not add it, clamps scores at ±40 and floors masses at 1e-5, found by
        subtraction, which cancels; here they are summed. KDs' form of one teacher has the base loss and other weights.

    Source:
        Kang et al., Distillation from Heterogeneous Models for Top-K Recommendation, WWW 2023. Published weight 0.01
        and no base loss. The released importance of items is a file; here it is the sum over teachers of the weights of
        positions.

    Example:
        >>> from rankdistill.data import CSR
        >>> teachers = [[Rankings.from_scores(torch.rand(2, 9), k=8) for _ in range(2)] for _ in range(3)]
        >>> observed = torch.full((2, 1), -1)
        >>> method = HeterogeneousCompression(teachers, CSR.empty(2, 9), observed, n_listed=4, n_compared=3)
        >>> student = MatrixFactorization(2, 9, width=4)
        >>> method.begin_epoch(0, student)
        >>> loss = 0.01 * method(student, torch.tensor([0, 1]))
    """

    reads_whole = "both tables, for masses of the catalogue with joined lists"
    divides = "users"
    needs = frozenset({"checkpoints"})
    default_weight = 1e-2
    default_base_weight = 0.0

    def __init__(
        self,
        checkpoints: Sequence[Sequence[Rankings]],
        exclude: CSR,
        observed: Tensor,
        n_listed: int = 100,
        n_compared: int = 50,
        period: int = 10,
        looseness: float = 1.05,
        decay: float = 0.995,
        position_temperature: float = 10.0,
        ordered_weight: float = 0.5,
        gain: str = "student",
        reduction: str = "sum",
    ) -> None:
        super().__init__()
        self.exclude, observed = CSR.from_any(exclude).to("cpu"), torch.as_tensor(observed)
        if observed.shape[:1] != (self.exclude.n_rows,) or observed.dim() != 2:
            raise ValueError(
                f"{type(self).__name__}: expected observed of {self.exclude.n_rows} rows, as exclude; "
                f"got {list(observed.shape)}"
            )
        expect_reduction(type(self).__name__, reduction)
        expect_choice(type(self).__name__, "gain", gain, GAINS)
        expect_at_least(type(self).__name__, 1, period=period, n_listed=n_listed, n_compared=n_compared)
        numbers = {"looseness": looseness, "decay": decay, "position_temperature": position_temperature}
        expect_above_zero(type(self).__name__, **numbers)
        self.knowledge = CheckpointKnowledge(checkpoints, self.exclude, n_listed, n_compared)
        self.observed = observed[:, : n_listed // 10].long()
        self.period, self.looseness, self.decay = period, looseness, decay
        self.position_temperature, self.ordered_weight = position_temperature, ordered_weight
        self.gain, self.reduction = gain, reduction
        self._top: Tensor | None = None  # [U, K] int64

    def _load_from_state_dict(self, *arguments) -> None:
        super()._load_from_state_dict(*arguments)
        self._top = None  # was that of other checkpoints

    def begin_epoch(self, epoch: int, student: Student) -> None:
        """Goes on to later checkpoints after every `period` epochs."""
        expect_scoring_vectors(type(self).__name__, student, self.exclude.n_columns)
        done = epoch - 1
        if done >= self.period and done % self.period == 0 and not self.knowledge.is_last:
            self.knowledge.advance(student, done // self.period, self.looseness, self.decay, self.gain)
            self._top = None
        if self._top is None:
            self._top = self.knowledge.ranking(self.position_temperature)

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's unique users."""
        expect_begun(type(self).__name__, self._top)
        users, _ = unique_rows(batch, type(self).__name__, self.exclude.n_rows)
        rows, device, ordered = users.cpu(), users.device, self.knowledge.is_last
        top = self._top[rows].to(device)
        if hasattr(student, "reading"):  # a table's rows may have decay to catch up
            student.reading(users, top)
        loss = functional.heterogeneous_compression(
            *scoring_vectors(student, users, self.exclude.n_columns), self.observed[rows].to(device), top,
            self.exclude.rows(rows).to(device), ordered, "sum",
        )  # fmt: skip
        if self.reduction == "mean":
            loss = loss / max(len(unique_users(batch)), 1)
        return loss * (self.ordered_weight if ordered else 1)
