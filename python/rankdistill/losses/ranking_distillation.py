"""Ranking distillation as a module: the teacher's best items as weighted positives."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.losses.batch import Batch
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.list_scores import list_scores, n_interactions, reduce_interactions, unique_rows
from rankdistill.losses.settings import (
    expect_above_zero,
    expect_at_least,
    expect_begun,
    expect_reduction,
    expect_whole,
    expect_within,
)
from rankdistill.ops import complement_sample
from rankdistill.rankings import Rankings
from rankdistill.sampling import STREAMS


class RankingDistillation(Distillation):
    """Ranking distillation (RD): the teacher's K best items of a user are further positives, weighted by position and,
    once the student has warmed up, by how far below the teacher's rank it ranks them (`functional.ranking_distillation`).

    Args:
        rankings: the teacher's lists, train items excluded, for every user.
        n_listed: K.
        temperature: of the position weights exp(−r/temperature), dimensionless, > 0 (the paper's λ).
        sharpness: μ of the discrepancy weights, dimensionless.
        n_sampled: Q, items drawn uniformly per user and epoch to estimate the student's ranks.
        start_epoch: the first epoch with discrepancy weights; before it positions alone count.
        normalized: whether a row's weights are scaled to sum 1 (as in the paper; the authors' code does not).
        first_rank: 0 in the authors' code, 1 in later re-implementations.
        reduction: "sum" over the batch's interactions, or their "mean" (the authors', whose other loss is a mean too).
        seed: of the sampled items.

    Raises:
        TypeError, ValueError: settings out of range; more listed items than the rankings have.
        IndexError: users that rankings have no row for (on a CPU). RuntimeError: a batch before `begin_epoch`.

    Cost:
        A batch: K + Q scores per unique user.

    Forms:
        The paper scales weights to sum 1 and mixes (1 − α)·base + α·distillation; the released code does neither, and adds.
        It compares strictly, so ties favour the better rank, and counts columns from 0; `first_rank` is 1 and weights are
        `normalized` in later re-implementations, which begin discrepancies at epoch 5 or 100.

    Source:
        Tang and Wang, Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender
        System, KDD 2018. Published weight 1 beside the student's own loss.

    Example:
        >>> method = RankingDistillation(Rankings.from_scores(torch.rand(2, 5), k=3), n_listed=3)
        >>> method.begin_epoch(0)
        >>> loss = method(MatrixFactorization(2, 5, width=4), torch.tensor([0, 1, 1]))
    """

    divides = "users"
    needs = frozenset({"rankings"})

    def __init__(
        self,
        rankings: Rankings,
        n_listed: int = 10,
        temperature: float = 1.0,
        sharpness: float = 0.1,
        n_sampled: int = 100,
        start_epoch: int = 10,
        normalized: bool = False,
        first_rank: int = 0,
        reduction: str = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        expect_whole(name, n_listed=n_listed)
        expect_within(name, "n_listed", n_listed, 1, rankings.k, ", as rankings")
        expect_at_least(name, 1, n_sampled=n_sampled)
        expect_at_least(name, 0, start_epoch=start_epoch, first_rank=first_rank)
        expect_above_zero(name, temperature=temperature, sharpness=sharpness)
        expect_reduction(name, reduction)
        self.rankings, self.n_listed, self.n_sampled = rankings, n_listed, n_sampled
        self.position_weights = functional.position_weights(n_listed, temperature, torch.float64)
        self.sharpness, self.start_epoch, self.normalized = sharpness, start_epoch, normalized
        self.first_rank, self.reduction, self.seed = first_rank, reduction, seed
        self._epoch: int | None = None

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Draws anew, and from `start_epoch` on weighs by discrepancy."""
        self._epoch = epoch

    def weights(self, student: Student, users: Tensor, scores: Tensor) -> Tensor:
        """[n, K] of users [n], whose listed items the student gives `scores`."""
        # Places past a list's end weigh nothing, also where weights are scaled to sum 1.
        weights = self.position_weights.to(scores) * (scores.detach() > -torch.inf)
        if self._epoch >= self.start_epoch:
            sampled = complement_sample(
                users.cpu(), self.rankings.n_items, min(self.n_sampled, self.rankings.n_items), seed=self.seed, epoch=self._epoch,
                stream=STREAMS["rank_estimates"],
            )  # fmt: skip
            with torch.no_grad():
                others = list_scores(student, users, sampled.to(users.device))
            n_items = self.rankings.n_items
            found = functional.discrepancy_weights(scores, others, n_items, self.sharpness, self.first_rank)
            weights = weights * found
        return weights / weights.sum(1, keepdim=True).clamp_min(1e-12) if self.normalized else weights

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's interactions; a user counts as often as it occurs."""
        expect_begun(type(self).__name__, self._epoch)
        users, counts = unique_rows(batch, type(self).__name__, self.rankings.n_users)
        rows = users.to(self.rankings.indices.device)
        items = self.rankings.indices[rows, : self.n_listed].long().to(users.device)
        lengths = self.rankings.lengths[rows].long().clamp(max=self.n_listed).to(users.device)
        scores = list_scores(student, users, items)
        losses = functional.ranking_distillation(
            scores, self.weights(student, users, scores), lengths, "none"
        )
        return reduce_interactions(losses, counts, self.reduction, n_interactions(batch))
