"""Item-side ranking regularisation as a module: relaxed ranking distillation of both sides of the table."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch, share_of, unique_users
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.drawn_lists import DrawnLists
from rankdistill.losses.settings import expect_at_least
from rankdistill.rankings import Rankings


class UserSide(DrawnLists):
    """Relaxed ranking distillation, as this method's part."""

    method = "ItemSideRankingRegularization"


class ItemSide(UserSide):
    """The loss with the sides swapped: for items, users in the teacher's order above other users."""

    streams = ("interesting_users", "uninteresting_users")
    swapped = True


class ItemSideRankingRegularization(Distillation):
    """Item-side ranking regularised distillation (IR-RRD): RRD of users, and of the items that it drew for them.

    loss = RRD of the batch's unique users + item_weight · RRD of all unique items among their K + L drawn ones

    Args:
        rankings: the teacher's lists of items for every user, as `RelaxedRankingDistillation`.
        item_rankings: its lists of users for every item, train users excluded: `Rankings` of a table with the sides
            swapped (the released code keeps 500 users).
        exclude: every user's train items.
        item_weight: of the item side relative to the user side; published: 5e-4 / 1e-3.
        n_interesting, n_uninteresting: items drawn for a user.
        n_interesting_users, n_uninteresting_users: users drawn for an item.
        temperature: of the position weights of both sides, dimensionless, > 0.
        reduction: "sum" (the paper's) or "mean" over rows, each side for itself.
        seed: of the draws.

    Raises:
        TypeError, ValueError: settings out of range; rankings and train items of different catalogues or users.
        IndexError: users that rankings have no row for (on a CPU). RuntimeError: a batch before `begin_epoch`.

    Cost:
        An epoch's draws: as `RelaxedRankingDistillation`, of users and of items. A batch: K + L scores per unique user, and one per
        user drawn for each of the items drawn: nearly the whole catalogue at a batch of 1024.

    Forms:
        As released: every item drawn for one of the batch's users counts, interesting or not, and both sides are drawn anew
        every epoch. The paper's weights 1e-3 and 5e-4 are the method's weight and `item_weight` times it.

    Source:
        Kang et al., Item-side ranking regularized distillation for recommender system, Information Sciences 580, 2021.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([3, 0]), n_rows=2, n_columns=5)
        >>> scores = torch.rand(2, 5)
        >>> lists = Rankings.from_scores(scores, k=2, exclude=train)
        >>> users = Rankings.from_scores(scores.T.contiguous(), k=1, exclude=train.transposed())
        >>> method = ItemSideRankingRegularization(lists, users, exclude=train)
        >>> method.begin_epoch(0)
        >>> loss = 1e-3 * method(MatrixFactorization(2, 5, width=4), torch.tensor([0, 1]))
    """

    divides = "users"
    needs = frozenset({"rankings", "item_rankings"})
    default_weight = 1e-3

    def __init__(
        self,
        rankings: Rankings,
        item_rankings: Rankings,
        exclude: CSR,
        item_weight: float = 0.5,
        n_interesting: int = 40,
        n_uninteresting: int = 40,
        n_interesting_users: int = 20,
        n_uninteresting_users: int = 20,
        temperature: float = 10.0,
        reduction: str = "sum",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        expect_at_least(name, 0, n_interesting=n_interesting, n_uninteresting=n_uninteresting)
        users = {"n_interesting_users": n_interesting_users, "n_uninteresting_users": n_uninteresting_users}
        expect_at_least(name, 0, **users)
        exclude = CSR.from_any(exclude)
        self.item_weight = item_weight
        self.user_side = UserSide(
            rankings, exclude, n_interesting, n_uninteresting, temperature, reduction, seed
        )
        self.item_side = ItemSide(
            item_rankings,
            exclude.transposed(),
            n_interesting_users,
            n_uninteresting_users,
            temperature,
            reduction,
            seed,
        )

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Draws the epoch's items for every user, and users for every item."""
        self.user_side.begin_epoch(epoch, student)
        self.item_side.begin_epoch(epoch, student)

    def forward(self, student: Student, batch: Batch | Tensor) -> Tensor:
        """The loss of the batch's unique users and of the items drawn for them."""
        of_users = self.user_side(student, batch)
        drawn = torch.unique(self.user_side.drawn(unique_users(batch))[0])
        items = drawn[drawn >= 0]
        own = share_of(batch).take(items)
        return of_users + self.item_weight * self.item_side.loss_of(student, own, items)
