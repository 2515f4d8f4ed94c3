"""An autoencoder of an item's users."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch
from rankdistill.losses.settings import expect_at_least, expect_begun, expect_share
from rankdistill.models.recommender import normal, once_each, rows_of
from rankdistill.models.train_matrix import Encoder, row_sums, unit_row_weights
from rankdistill.ops import gathered_inner_product


class ItemAutoencoder(Encoder):
    """Item-based autoencoder (I-AE, I-AutoRec): an item's train users through a hidden layer into a classifier of users.

    h_i = tanh(A·x_i + a), x_i the item's train users as a vector of length 1; score(u, i) = ⟨w_u, h_i⟩ + b_u: w and h are
    vectors, b a bias of users. loss = Σ_i Σ_u [softplus(score(u, i)) − score(u, i)·(u has i)] over all users, entries of
    x_i dropped at random: the cross entropy where the paper, on ratings, has squares.

    Args:
        train: [U, N] interactions, which are encoded; part of the model and of its file.
        width: D, numbers of h and per user.
        seed: of the initial values and the noise.
        dropout: share of an item's users that are not shown, in [0, 1).

    Raises:
        TypeError, ValueError: a width or dropout out of range. RuntimeError: `loss` before the first `begin_epoch`.

    Cost:
        A batch is the train interactions of `batch_size` items: O(B·U·D) time, and memory for the scores [B, U].

    Source:
        Sedhain et al., AutoRec: Autoencoders Meet Collaborative Filtering, WWW 2015; with the noise of Vincent et al.,
        ICML 2008.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([2, 2]), n_rows=2, n_columns=3)
        >>> ItemAutoencoder(train, width=4).score(torch.tensor([0]), torch.tensor([[2, 1]])).shape
        torch.Size([1, 2])
    """

    batch_by = "items"
    user_bias: nn.Parameter

    def __init__(self, train: CSR, width: int, seed: int = 0, dropout: float = 0.5) -> None:
        super().__init__(train, seed)
        expect_at_least(type(self).__name__, 1, width=width)
        expect_share(type(self).__name__, dropout=dropout)
        self.dropout = dropout
        generator, U = torch.Generator().manual_seed(seed), train.n_rows
        std = (2 / (U + width)) ** 0.5
        self.input_table = normal(U, width, generator, std)
        self.input_bias = nn.Parameter(torch.zeros(width))
        self.user_table = normal(U, width, generator, std)
        self.user_bias = nn.Parameter(torch.zeros(U))

    @property
    def width(self) -> int:
        return self.user_table.shape[1]

    def encoded(self, rows: CSR, dropout: Tensor | None = None) -> Tensor:
        """h [K, D] of rows of users."""
        return (row_sums(self.input_table, rows, unit_row_weights(rows, dropout)) + self.input_bias).tanh()

    def user_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[B, D] of users [B] int64, or of all; `user_bias` [U] belongs to them."""
        return rows_of(self.user_table, ids)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[K, D] of items [K] int64, or of all: h."""
        rows = self.train_matrix.of_items()
        return self.encoded(rows if ids is None else rows.rows(ids))

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        listed, at = once_each(items)
        products = gathered_inner_product(self.user_table, self.item_vectors(listed), at, users)
        return products + self.user_bias[users, None]

    def loss(self, batch: Batch) -> Tensor:
        """The cross entropy of all users with the batch's positive items, each once, summed."""
        expect_begun(type(self).__name__, self.begun)
        rows = self.train_matrix.of_items().rows(torch.unique(batch.positives))
        hidden = self.encoded(rows, self.noise.factors((len(rows),), self.dropout))
        scores = torch.addmm(self.user_bias, hidden, self.user_table.T)  # [B, U]
        return nn.functional.softplus(scores).sum() - scores[rows.pairs()].sum()
