"""Dual correction as a module: what the student ranks too low, above what it ranks too high."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.losses.batch import Batch, expect_interactions, share_of, unique_users
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.rank_correction import RankCorrection
from rankdistill.losses.settings import (
    expect_above_zero,
    expect_at_least,
    expect_begun,
    expect_choice,
    expect_reduction,
    expect_sizes,
)
from rankdistill.rankings import Rankings
from rankdistill.vector_scores import evaluating

STEP_BITS = 20  # of a draw's 32-bit epoch: a million batches in each of 4096 epochs


class DualCorrection(Distillation):
    """Dual correction (DCD): of the teacher's list, what the student ranks too low in order above what it ranks too high.

    Every `period` epochs the student's ranks among the teacher's list are compared with the teacher's; at every batch
    n under- and n over-estimated items are drawn in proportion to tanh(sharpness·|rank difference|), without
    replacement, for each unique user (and, swapped, users for each unique positive item), for
    `functional.relaxed_ranking_distillation`. A row with fewer of them has as many as there are.

    Args:
        rankings: the teacher's lists, train items excluded (the released code keeps 500 items).
        item_rankings: its lists of users for every item; None for the user side alone (KDs).
        n_samples: n of each kind.
        sharpness: ε of the weights, dimensionless, > 0.
        among: "list", the student's ranks among the list's entries, or "catalogue", among all items (KDs; for students
            whose scores are inner products).
        floor: least weight, so that rows ranked rightly are drawn from too (KDs: 1e-5).
        item_weight: of the item side relative to the user side.
        period: epochs between two comparisons.
        reduction: "sum" (the paper's) or "mean" over rows with an under-estimated item.
        seed: of the draws.

    Raises:
        TypeError, ValueError: settings out of range; rankings without items, or of two catalogues; among the catalogue a student
        whose scores are no inner products.
        IndexError: users or items that rankings have no row for (on a CPU). RuntimeError: a batch before `begin_epoch`.

    Cost:
        A comparison: U·k scores, or O(U·N·D) time among the catalogue; 4·U·k bytes kept. Of the item side likewise. A batch: 2n
        scores per row.

    Forms:
        KDs: `among="catalogue"`, `floor=1e-5`, `sharpness=0.1`, `n_samples=100`, no item side (`item_weight=0` on the command
        line), and both kinds as drawn, in no order. Where a row has fewer under-estimated entries
        than n, the released code draws entries of weight 0, on a GPU with an error; here there are as many as there are.
        Under-estimated entries are in the teacher's order, over-estimated ones in any.

    Source:
        Lee and Kim, Dual Correction Strategy for Ranking Distillation in Top-N Recommender System, CIKM 2021. The paper
        adds the plain ranking loss as well (`RelaxedRankingDistillation`); the release has no defaults for ε, n and
        the weights.

    Example:
        >>> method = DualCorrection(Rankings.from_scores(torch.rand(2, 5), k=4), n_samples=2)
        >>> student = MatrixFactorization(2, 5, width=4)
        >>> method.begin_epoch(0, student)
        >>> loss = method(student, torch.tensor([0, 1, 1]))
    """

    divides = "users"
    needs = frozenset({"rankings", "item_rankings"})
    default_weight = 1e-2

    def __init__(
        self,
        rankings: Rankings,
        item_rankings: Rankings | None = None,
        n_samples: int = 40,
        sharpness: float = 0.01,
        among: str = "list",
        floor: float = 0.0,
        item_weight: float = 1.0,
        period: int = 3,
        reduction: str = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        expect_at_least(name, 1, n_samples=n_samples, period=period, **{"k of rankings": rankings.k})
        expect_choice(name, "among", among, ("list", "catalogue"))
        expect_reduction(name, reduction)
        expect_above_zero(name, sharpness=sharpness)
        if item_rankings is not None:
            swapped = item_rankings.n_items, item_rankings.n_users
            expect_sizes(name, "item_rankings", swapped, (rankings.n_users, rankings.n_items), "rankings")
        self.user_side = RankCorrection(
            rankings, sharpness, among, floor, False, ("underestimated", "overestimated")
        )
        self.item_side = None
        if item_rankings is not None:
            streams = ("underestimated_users", "overestimated_users")
            self.item_side = RankCorrection(item_rankings, sharpness, among, floor, True, streams)
        self.n_samples, self.item_weight, self.period = n_samples, item_weight, period
        self.reduction, self.seed = reduction, seed
        self._epoch: int | None = None
        self._step, self._measured = 0, False

    @property
    def reads_whole(self) -> str | None:
        return "both tables, for ranks among the catalogue" if self.user_side.among == "catalogue" else None

    def begin_epoch(self, epoch: int, student: Student) -> None:
        """Compares rankings, every `period` epochs, and where none have been: a first epoch need not be one of these."""
        self._epoch, self._step = epoch, 0
        # What a state has brought back has been measured too.
        self._measured = self._measured or bool(self.user_side.signed_weights.any())
        if epoch % self.period == 0 or not self._measured:
            self._measured = True
            with evaluating(student):
                for side in (self.user_side, self.item_side):
                    if side is not None:
                        side.measure(student)

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's unique users, and of its unique positive items where the item side counts."""
        expect_begun(type(self).__name__, self._epoch)
        draw = (self.n_samples, self.reduction, self.seed, (self._epoch << STEP_BITS) + self._step)
        self._step += 1
        name, share = type(self).__name__, share_of(batch)
        loss = self.user_side.loss(name, student, unique_users(batch), share, *draw)
        if self.item_side is None or isinstance(batch, Tensor) or batch.positives is None:
            return loss
        items = torch.unique(expect_interactions(name, batch).positives)
        return loss + self.item_weight * self.item_side.loss(name, student, items, share, *draw)
