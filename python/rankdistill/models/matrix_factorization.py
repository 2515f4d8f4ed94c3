"""Matrix factorisation: a score is the inner product of a user's and an item's vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rankdistill.models.recommender import rows_of
from rankdistill.models.vector_tables import VectorTables
from rankdistill.ops import gathered_inner_product


class MatrixFactorization(VectorTables):
    """Matrix factorisation trained by Bayesian personalised ranking (MF-BPR).

    Args:
        n_users, n_items: rows of the two tables.
        width: D, numbers per vector.
        seed: of the initial values, N(0, init_std²).
        init_std: their standard deviation.
        sparse_grad: whether the tables' gradients are sparse, of the rows that a batch touches; for a lazy optimiser.

    Raises:
        TypeError, ValueError: sizes that are no whole numbers of 1 or more; `loss` of a batch without positives or negatives.
        IndexError: ids out of range (on a CPU).

    Cost:
        O(D) time a score; nothing of [B, K, D] is written. Gradients are tables of (U + N)·D numbers, or the touched rows where
        `sparse_grad`.

    Source:
        Rendle et al., UAI 2009; initial values and loss as in the released code of DE-RRD and FTD.

    Example:
        >>> model = MatrixFactorization(n_users=3, n_items=5, width=2)
        >>> model.score(torch.tensor([0]), torch.tensor([[4, 1]])).shape
        torch.Size([1, 2])
    """

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
        super().__init__(n_users, n_items, width, torch.Generator().manual_seed(seed), init_std)
        self.sparse_grad = sparse_grad

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
        return rows_of(self.user_table, ids, self.sparse_grad)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[K, D] of items [K] int64, or the whole table."""
        self.reading(items=ids)
        return rows_of(self.item_table, ids, self.sparse_grad)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        self.reading(users, items)
        return gathered_inner_product(
            self.user_table, self.item_table, items, users, sparse_grad=self.sparse_grad
        )
