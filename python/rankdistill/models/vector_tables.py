"""Two tables of vectors and the pairwise objective: what every model of users and items by rows begins with."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.losses.batch import Batch
from rankdistill.losses.settings import expect_at_least
from rankdistill.models.recommender import Recommender, normal


class VectorTables(Recommender):
    """A model with a row of numbers for every user and item; subclasses have `score`.

    Args:
        n_users, n_items: rows of the two tables.
        width: D, numbers per vector, `least_width` or more.
        generator: of the initial values, N(0, init_std²).
        init_std: their standard deviation.
    """

    scores_are_inner_products = True

    def __init__(
        self, n_users: int, n_items: int, width: int, generator: torch.Generator, init_std: float
    ) -> None:
        super().__init__()
        expect_at_least(type(self).__name__, 1, n_users=n_users, n_items=n_items)
        expect_at_least(type(self).__name__, self.least_width, width=width)
        self.init_std = init_std
        self.user_table = normal(n_users, width, generator, init_std)
        self.item_table = normal(n_items, width, generator, init_std)

    @property
    def n_users(self) -> int:
        return self.user_table.shape[0]

    @property
    def n_items(self) -> int:
        return self.item_table.shape[0]

    @property
    def width(self) -> int:
        return self.user_table.shape[1]

    def loss(self, batch: Batch) -> Tensor:
        """The model's own objective: BPR over the batch's pairs, summed.

        Pairs whose negative is -1 (a user who has every item) do not count.
        """
        positive, negative = self.pair_scores(batch)
        return functional.bayesian_personalized_ranking(positive.expand_as(negative), negative)

    def pair_scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B, 1] of the batch's positives and [B, J] of its negatives; of none -inf."""
        scores = self.score(batch.users, batch.listed(type(self).__name__))
        return scores[:, :1], scores[:, 1:]
