"""Unbiased knowledge distillation as a module: the teacher's order within groups of like popularity."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.data.popularity import popularity_groups
from rankdistill.losses.batch import Batch
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.list_scores import list_scores, n_interactions, reduce_interactions, unique_rows
from rankdistill.losses.settings import (
    expect_above_zero,
    expect_at_least,
    expect_begun,
    expect_choice,
    expect_reduction,
    fits_at_hand,
)
from rankdistill.rankings import Rankings
from rankdistill.sampling import PAIR_FORMS, within_group_pairs


class UnbiasedDistillation(Distillation):
    """Unbiased knowledge distillation (UnKD): pairs of items of one popularity group, in the teacher's order.

    loss = sum over the batch's interactions of the mean over the user's pairs of −log σ(s⁺ − s⁻)

    Args:
        rankings: the teacher's lists, train items excluded (the released code keeps 1000 items of each group, the command
            line the best list_length of all).
        exclude: every user's train items, whose counts make the popularity groups
            (`rankdistill.data.popularity_groups`).
        n_pairs: pairs per epoch and user, of all groups together.
        n_groups: popularity groups to aim at.
        exponent: λ of the groups' shares of the pairs: 0 for equal ones, above 0 for more of unpopular items.
        temperature: of positions within a group, dimensionless, > 0.
        form: of the pairs, "paper" or "released" (half of them an item with itself).
        reduction: "sum" over the batch's interactions, or their "mean" (the authors', whose other loss is a mean too).
        seed: of the draws.

    Raises:
        TypeError, ValueError: settings out of range; train items of another catalogue, or none; too few pairs for any group.
        IndexError: users that rankings have no row for (on a CPU). RuntimeError: a batch before `begin_epoch`.

    Cost:
        An epoch's draw: O(U·K log K) time, 16·U·Σ n_pairs bytes. A batch: 2·Σ n_pairs scores per unique user.

    Forms:
        In the released code half of the pairs are an item with itself, as two elements are swapped through a view: `form`.
        Shares of groups are rounded one by one, so 30 pairs in 4 groups are 32, as released. The released 1e-10 within the
        logarithm is left out. In KDs train items can be drawn, by a comparison that never holds; here they are not listed.

    Source:
        Chen et al., Unbiased Knowledge Distillation for Recommendation, WSDM 2023.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1, 1]), torch.tensor([3, 0, 3]), n_rows=2, n_columns=5)
        >>> method = UnbiasedDistillation(Rankings.from_scores(torch.rand(2, 5), k=5), train, n_pairs=4)
        >>> method.begin_epoch(0)
        >>> loss = method(MatrixFactorization(2, 5, width=4), torch.tensor([0, 1, 1]))
    """

    divides = "users"
    needs = frozenset({"rankings"})

    def __init__(
        self,
        rankings: Rankings,
        exclude: CSR,
        n_pairs: int = 30,
        n_groups: int = 2,
        exponent: float = 0.0,
        temperature: float = 20.0,
        form: str = "paper",
        reduction: str = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        exclude = CSR.from_any(exclude)
        if exclude.n_columns != rankings.n_items:
            raise ValueError(
                f"{name}: expected exclude of {rankings.n_items} items, as rankings; got {exclude.n_columns}"
            )
        expect_at_least(name, 1, n_pairs=n_pairs)
        expect_above_zero(name, temperature=temperature)
        expect_choice(name, "form", form, PAIR_FORMS)
        expect_reduction(name, reduction)
        self.groups = popularity_groups(
            torch.bincount(exclude.indices.cpu(), minlength=exclude.n_columns), n_groups
        )
        self.rankings, self.n_pairs = rankings, self.groups.pairs(n_pairs, exponent)
        if not sum(self.n_pairs):
            raise ValueError(
                f"{name}: expected n_pairs for a pair of some of {len(self.n_pairs)} groups; got {n_pairs}, none of each"
            )
        self.temperature, self.form, self.reduction, self.seed = temperature, form, reduction, seed
        self._epoch: int | None = None
        self._pairs: Tensor | None = None  # [U, P, 2] int64; -1 for none; None: batch by batch

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Draws the epoch's pairs for every user, where there are not too many."""
        U, self._epoch = self.rankings.n_users, epoch
        self._pairs = self.draw(torch.arange(U)) if fits_at_hand(U) else None

    def draw(self, users: Tensor) -> Tensor:
        return within_group_pairs(
            users, self.rankings.indices[users], self.groups.group_of_item, self.n_pairs, self.temperature,
            form=self.form, seed=self.seed, epoch=self._epoch,
        )  # fmt: skip

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's interactions; a user counts as often as it occurs."""
        expect_begun(type(self).__name__, self._epoch)
        users, counts = unique_rows(batch, type(self).__name__, self.rankings.n_users)
        if self._pairs is None:
            pairs = self.draw(users.cpu()).to(users.device)
        else:
            self._pairs = self._pairs.to(users.device)
            pairs = self._pairs.index_select(0, users)
        real = pairs[..., 0] >= 0
        better, worse = list_scores(student, users, pairs.clamp_min(0).flatten(1)).view(pairs.shape).unbind(2)
        losses = functional.bayesian_personalized_ranking(better, worse, "none").masked_fill(~real, 0)
        losses = losses.sum(1) / real.sum(1).clamp_min(1)
        return reduce_interactions(losses, counts, self.reduction, n_interactions(batch))
