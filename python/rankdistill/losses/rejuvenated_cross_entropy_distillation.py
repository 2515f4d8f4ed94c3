"""Rejuvenated cross-entropy distillation as a module: on the student's best items, and towards the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.functional.membership import is_in
from rankdistill.losses.batch import Batch
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.list_scores import (
    list_scores,
    n_interactions,
    reduce_interactions,
    teacher_scores,
    unique_rows,
)
from rankdistill.losses.settings import (
    expect_above_zero,
    expect_begun,
    expect_reduction,
    expect_whole,
    expect_within,
)
from rankdistill.losses.whole_catalogue import catalogue_ranker
from rankdistill.ops import weighted_sample
from rankdistill.rankings import Rankings
from rankdistill.sampling import STREAMS, shared_position_weights

ROWS_AT_ONCE = 4096


class RejuvenatedCrossEntropyDistillation(Distillation):
    """Rejuvenated cross entropy (RCE-KD): cross entropy on the student's K best items, and on L items drawn from further
    down its list together with the teacher's K best that it lacks; the more of these were drawn, the less the second
    (`functional.rejuvenated_cross_entropy`).

    Every epoch the student ranks the catalogue anew (train items included, as released) for its `n_ranked` best, from
    which the L items are drawn, likelier where more of the teacher's best stand at or behind a position.

    Args:
        full_rankings: the teacher's lists, K items or more, train items included.
        teacher: anything with `score(users, items)`.
        n_listed: K.
        n_sampled: L.
        n_ranked: how far down the student's list items are drawn.
        temperature: of the softmaxes, dimensionless, > 0.
        position_temperature: of the weights of positions, dimensionless, > 0.
        sharpness: β of the weight exp(−β·share found).
        reduction: "sum" over the batch's interactions (as released) or their "mean".
        seed: of the draws.

    Raises:
        TypeError, ValueError: settings out of range; more listed items than the rankings or the student's list have.
        IndexError: users that rankings have no row for (on a CPU). RuntimeError: a batch before `begin_epoch`.

    Cost:
        An epoch: the student's top `n_ranked` of every user, O(U·N·D) time; 8·U·(K + L) bytes kept. A batch: 2K + L scores
        per unique user, of student and teacher each.

    Forms:
        As released train items are in both lists, and items of the teacher's that were drawn, or that the student has among
        its best, are not counted again. The released code exponentiates raw scores; here no score overflows.

    Source:
        Zhu and Zhang, Rejuvenating Cross-Entropy Loss in Knowledge Distillation for Recommender Systems, 2025.
        Published weights beside a summed BPR loss: 500 with these settings (matrix factorisation), 100 with a temperature
        of 10 and a sharpness of 5 (LightGCN), 5e4 with K = L = 100 of the best 500 (HSTU).

    Example:
        >>> teacher, student = MatrixFactorization(2, 9, width=8), MatrixFactorization(2, 9, width=4)
        >>> rankings = Rankings.from_vectors(teacher.user_table.detach(), teacher.item_table.detach(), 3)
        >>> method = RejuvenatedCrossEntropyDistillation(rankings, teacher, 3, 2, 6)
        >>> method.begin_epoch(0, student)
        >>> loss = method(student, torch.tensor([0, 1, 1]))
    """

    divides = "users"
    needs = frozenset({"rankings", "scores"})
    default_weight = 500.0

    def __init__(
        self,
        full_rankings: Rankings,
        teacher: Student,
        n_listed: int = 50,
        n_sampled: int = 50,
        n_ranked: int = 200,
        temperature: float = 1.0,
        position_temperature: float = 10.0,
        sharpness: float = 3.0,
        reduction: str = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        expect_whole(name, n_listed=n_listed, n_ranked=n_ranked, n_sampled=n_sampled)
        expect_within(name, "n_listed", n_listed, 1, full_rankings.k, ", as full_rankings")
        expect_within(name, "n_ranked", n_ranked, n_listed, full_rankings.n_items)
        expect_within(name, "n_sampled", n_sampled, 1, n_ranked)
        expect_reduction(name, reduction)
        temperatures = {"temperature": temperature, "position_temperature": position_temperature}
        expect_above_zero(name, **temperatures, sharpness=sharpness)
        object.__setattr__(self, "teacher", teacher)  # no part of the module: neither trained nor saved
        self.rankings, self.n_listed = full_rankings, n_listed
        self.n_sampled, self.n_ranked = n_sampled, n_ranked
        self.temperature, self.position_temperature = temperature, position_temperature
        self.sharpness, self.reduction, self.seed = sharpness, reduction, seed
        self._own: Tensor | None = None  # [U, K] int64, the student's best
        self._sampled: Tensor | None = None  # [U, L] int64

    @torch.no_grad()
    def begin_epoch(self, epoch: int, student: Student) -> None:
        """Ranks by the student, and draws."""
        own, sampled = [], []
        best_of = catalogue_ranker(student, self.n_ranked, self.rankings.n_items)
        for users in torch.arange(self.rankings.n_users).split(ROWS_AT_ONCE):
            ranked = best_of(users).indices
            best = self.rankings.indices[users, : self.n_listed].long()
            weights = shared_position_weights(is_in(ranked, best), self.position_temperature)
            at = weighted_sample(
                users, weights, self.n_sampled, seed=self.seed, epoch=epoch, stream=STREAMS["interesting"]
            )
            own.append(ranked[:, : self.n_listed])
            sampled.append(ranked.gather(1, at.clamp_min(0)).masked_fill(at < 0, -1))
        self._own, self._sampled = torch.cat(own), torch.cat(sampled)

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's interactions; a user counts as often as it occurs."""
        expect_begun(type(self).__name__, self._own)
        users, counts = unique_rows(batch, type(self).__name__, self.rankings.n_users)
        rows = users.cpu()
        best = self.rankings.indices[rows, : self.n_listed].long()
        own, sampled = self._own[rows], self._sampled[rows]
        found = is_in(best, sampled)
        overlap = (found.sum(1) / self.n_listed).to(users.device)
        counted = torch.cat([sampled >= 0, ~found & ~is_in(best, own) & (best >= 0)], 1).to(users.device)
        own, wider = (ids.clamp_min(0).to(users.device) for ids in (own, torch.cat([sampled, best], 1)))
        scores: list[Tensor] = []
        for ids in (own, wider):
            scores += [teacher_scores(self.teacher, users, ids), list_scores(student, users, ids)]
        losses = functional.rejuvenated_cross_entropy(
            *scores, counted, overlap, self.temperature, self.sharpness, "none"
        )
        return reduce_interactions(losses, counts, self.reduction, n_interactions(batch))
