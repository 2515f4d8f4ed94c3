"""Two tables of vectors and the pairwise objective: what every model of users and items by rows begins with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill import functional
from rankdistill.losses.distillation import Batch


class VectorTables(nn.Module):
    """A model with a row of numbers for every user and item; subclasses have `score`.

    Args:
        n_users, n_items: rows of the two tables.
        width: D, numbers per vector, `least_width` or more.
        generator: of the initial values, N(0, init_std²).
        init_std: their standard deviation.
    """

    least_width = 1

    # Methods may then read the vectors instead of calling `score`, which is faster.
    scores_are_inner_products = True

    def __init__(
        self, n_users: int, n_items: int, width: int, generator: torch.Generator, init_std: float
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("n_users", n_users, 1),
            ("n_items", n_items, 1),
            ("width", width, self.least_width),
        ):
            if value < least:
                raise ValueError(f"{type(self).__name__}: expected {name} of {least} or more; got {value}")
        self.user_table = nn.Parameter(torch.randn(n_users, width, generator=generator) * init_std)
        self.item_table = nn.Parameter(torch.randn(n_items, width, generator=generator) * init_std)

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
        negatives = batch.negatives if batch.negatives.dim() == 2 else batch.negatives[:, None]
        scores = self.score(batch.users, torch.cat([batch.positives[:, None], negatives], dim=1))
        return functional.bayesian_personalized_ranking(scores[:, :1].expand_as(negatives), scores[:, 1:])
