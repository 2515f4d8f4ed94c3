"""Matrix factorisation: a score is the inner product of a user's and an item's vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rankdistill import functional
from rankdistill.losses.distillation import Batch
from rankdistill.ops import gathered_inner_product


class MatrixFactorization(nn.Module):
    """Matrix factorisation trained by Bayesian personalised ranking (MF-BPR).

    Args:
        n_users, n_items: rows of the two tables.
        width: D, numbers per vector.
        seed: of the initial values, N(0, init_std²).
        init_std: their standard deviation.
        sparse_grad: whether the tables' gradients are sparse, of the rows that a batch touches; for a lazy optimiser.

    Source:
        Rendle et al., UAI 2009; initial values and loss as in the released code of DE-RRD and FTD.

    Example:
        >>> model = MatrixFactorization(n_users=3, n_items=5, width=2)
        >>> model.score(torch.tensor([0]), torch.tensor([[4, 1]])).shape
        torch.Size([1, 2])
    """

    # Methods may then read the tables instead of calling `score`, which is faster.
    scores_are_inner_products = True

    # Called as before_reading(table, ids) before rows are read, where a lazy optimiser has decay to catch up.
    before_reading: Callable[[Tensor, Tensor], None] | None = None

    def __init__(
        self,
        n_users: int,
        n_items: int,
        width: int,
        seed: int = 0,
        init_std: float = 0.01,
        sparse_grad: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("n_users", n_users), ("n_items", n_items), ("width", width)):
            if value < 1:
                raise ValueError(f"MatrixFactorization: expected {name} of 1 or more; got {value}")
        self.sparse_grad = sparse_grad
        generator = torch.Generator().manual_seed(seed)
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

    def tables(self) -> list[nn.Parameter]:
        """The parameters whose gradients are sparse where `sparse_grad` is set."""
        return [self.user_table, self.item_table]

    def reading(self, users: Tensor | None = None, items: Tensor | None = None) -> None:
        """To be called with the rows that are about to be read by whoever reads the whole tables' rows himself."""
        if self.before_reading is not None:
            for table, ids in zip(self.tables(), (users, items)):
                if ids is not None:
                    self.before_reading(table, ids)

    def user_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[B, D] of users [B] int64, or the whole table."""
        self.reading(users=ids)
        return self._rows(self.user_table, ids)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[K, D] of items [K] int64, or the whole table."""
        self.reading(items=ids)
        return self._rows(self.item_table, ids)

    def _rows(self, table: Tensor, ids: Tensor | None) -> Tensor:
        if ids is None:
            return table
        return nn.functional.embedding(ids, table, sparse=True) if self.sparse_grad else table[ids]

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        self.reading(users, items)
        return gathered_inner_product(
            self.user_table, self.item_table, items, users, sparse_grad=self.sparse_grad
        )

    def loss(self, batch: Batch) -> Tensor:
        """The model's own objective: BPR over the batch's pairs, summed.

        Pairs whose negative is -1 (a user who has every item) do not count.
        """
        negatives = batch.negatives if batch.negatives.dim() == 2 else batch.negatives[:, None]
        scores = self.score(batch.users, torch.cat([batch.positives[:, None], negatives], dim=1))
        return functional.bayesian_personalized_ranking(scores[:, :1].expand_as(negatives), scores[:, 1:])
