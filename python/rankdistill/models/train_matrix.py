"""The train interactions inside a model that encodes them: its file then says all that it needs."""

from __future__ import annotations

from torch import Tensor, nn

from rankdistill.data.csr import CSR
from rankdistill.models.recommender import NoisyRecommender


class TrainMatrix(nn.Module):
    """Who has which items: buffers, of which `state_dict` keeps the users' rows.

    Args:
        train: [U, N].
    """

    def __init__(self, train: CSR) -> None:
        super().__init__()
        by_item = train.transposed()
        self.register_buffer("indptr", train.indptr)
        self.register_buffer("indices", train.indices)
        self.register_buffer("item_indptr", by_item.indptr, persistent=False)
        self.register_buffer("item_indices", by_item.indices, persistent=False)

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def n_items(self) -> int:
        return len(self.item_indptr) - 1

    def of_users(self) -> CSR:
        """[U, N]"""
        return CSR._trusted(self.indptr, self.indices, self.n_items)

    def of_items(self) -> CSR:
        """[N, U]"""
        return CSR._trusted(self.item_indptr, self.item_indices, self.n_users)


class Encoder(NoisyRecommender):
    """A model that encodes rows or columns of the train interactions.

    Args:
        train: [U, N].
        seed: of the noise.
    """

    def __init__(self, train: CSR, seed: int) -> None:
        super().__init__(seed)
        self.train_matrix = TrainMatrix(train)

    @property
    def n_users(self) -> int:
        return self.train_matrix.n_users

    @property
    def n_items(self) -> int:
        return self.train_matrix.n_items


def row_sums(table: Tensor, rows: CSR, weights: Tensor) -> Tensor:
    """[R, D] the weighted sum of table [C, D] over each row's columns, weights [nnz]; O(nnz·D) time, no [R, C] matrix."""
    return nn.functional.embedding_bag(
        rows.indices, table, rows.indptr, mode="sum", per_sample_weights=weights.to(table.dtype),
        include_last_offset=True,
    )  # fmt: skip


def unit_row_weights(rows: CSR, dropout: Tensor | None = None) -> Tensor:
    """Weights [nnz] that make every row of length 1, times dropout [nnz]."""
    weights = rows.counts.double().rsqrt().repeat_interleave(rows.counts, output_size=len(rows))
    return weights if dropout is None else weights * dropout
