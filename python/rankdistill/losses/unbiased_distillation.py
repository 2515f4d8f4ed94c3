"""Unbiased knowledge distillation as a module: the teacher's order within groups of like popularity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.losses.distillation import Batch, Distillation, Student
from rankdistill.losses.list_scores import list_scores, unique_rows
from rankdistill.rankings import Rankings
from rankdistill.sampling import within_group_pairs


class UnbiasedDistillation(Distillation):
    """Unbiased knowledge distillation (UnKD): pairs of items of one popularity group, in the teacher's order.

    loss = mean over the batch's interactions of the mean over the user's pairs of −log σ(s⁺ − s⁻)

    Args:
        rankings: the teacher's lists, train items excluded (the released code keeps 1000 items of each group).
        group_of_item: [N] int64, popularity groups (`rankdistill.data.popularity_groups`); -1 for none.
        n_pairs: pairs of each group, drawn once per epoch and user.
        temperature: of positions within a group, dimensionless, > 0.
        reduction: "mean" (the authors'), or "sum" over interactions of the pairs' mean.
        seed: of the draws.

    Cost:
        An epoch's draw: O(U·K log K) time, 16·U·Σ n_pairs bytes. A batch: 2·Σ n_pairs scores per unique user.

    Source:
        Chen et al., Unbiased Knowledge Distillation for Recommendation, WSDM 2023. In the released code half of the
        pairs are an item with itself (a swap through a view); here pairs follow the law of the paper.

    Example:
        >>> groups = torch.tensor([0, 0, 1, 1, 1])
        >>> method = UnbiasedDistillation(Rankings.from_scores(torch.rand(2, 5), k=5), groups, n_pairs=[2, 3])
        >>> method.begin_epoch(0)
        >>> loss = method(MatrixFactorization(2, 5, width=4), torch.tensor([0, 1, 1]))
    """

    needs = frozenset({"rankings"})

    def __init__(
        self,
        rankings: Rankings,
        group_of_item: Tensor,
        n_pairs: Sequence[int] = (15, 15),
        temperature: float = 20.0,
        reduction: str = "mean",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if group_of_item.shape != (rankings.n_items,):
            raise ValueError(
                f"{name}: expected group_of_item of {rankings.n_items} items, as rankings; "
                f"got {list(group_of_item.shape)}"
            )
        if int(group_of_item.max()) >= len(n_pairs):
            raise ValueError(
                f"{name}: expected n_pairs of {int(group_of_item.max()) + 1} groups or more; got {len(n_pairs)}"
            )
        if reduction not in ("sum", "mean"):
            raise ValueError(f"{name}: expected reduction sum or mean; got {reduction!r}")
        self.rankings, self.group_of_item, self.n_pairs = rankings, group_of_item.long().cpu(), list(n_pairs)
        self.temperature, self.reduction, self.seed = temperature, reduction, seed
        self._pairs: Tensor | None = None  # [U, P, 2] int64; -1 for none

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Draws the epoch's pairs for every user."""
        self._pairs = within_group_pairs(
            torch.arange(self.rankings.n_users), self.rankings.indices, self.group_of_item, self.n_pairs,
            self.temperature, seed=self.seed, epoch=epoch,
        )  # fmt: skip

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's interactions; a user counts as often as it occurs."""
        if self._pairs is None:
            raise RuntimeError(
                f"{type(self).__name__}: expected begin_epoch before the first batch; got none"
            )
        users, counts = unique_rows(batch)
        self._pairs = self._pairs.to(users.device)
        pairs = self._pairs.index_select(0, users)
        real = pairs[..., 0] >= 0
        better, worse = list_scores(student, users, pairs.clamp_min(0).flatten(1)).view(pairs.shape).unbind(2)
        losses = functional.bayesian_personalized_ranking(better, worse, "none").masked_fill(~real, 0)
        losses = losses.sum(1) / real.sum(1).clamp_min(1)
        total = (losses * counts).sum()
        return total if self.reduction == "sum" else total / counts.sum().clamp_min(1)
