"""A variational autoencoder of a user's items."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch
from rankdistill.losses.settings import expect_at_least, expect_begun, expect_share, expect_within
from rankdistill.models.recommender import linear, normal, rows_of
from rankdistill.models.train_matrix import Encoder, row_sums, unit_row_weights
from rankdistill.ops import gathered_inner_product


class MultinomialAutoencoder(Encoder):
    """Multinomial variational autoencoder (Multi-VAE): a user's train items through a bottleneck into a softmax.

    h_u = tanh(A·x_u + a), x_u the user's train items as a vector of length 1; μ, log σ² = M·h_u + m; z ~ N(μ, σ²), or μ
    where the user is scored; g_u = tanh(Z·z + c); score(u, i) = ⟨w_i, g_u⟩ + b_i: g and w are vectors, b a bias of items.
    loss = Σ_u −Σ_{i of u} log softmax(score(u, ·))_i + β·KL(N(μ, σ²) ‖ N(0, 1)), entries of x_u dropped at random.

    Args:
        train: [U, N] interactions, which are encoded; part of the model and of its file.
        width: D, numbers of h, of g and per item.
        seed: of the initial values and the noise.
        latent: numbers of z; None for `width`. Published: width 600, latent 200.
        dropout: share of a user's items that are not shown, in [0, 1).
        kl_weight: β at the end, >= 0.
        annealing: epochs over which β grows from 0, >= 0.

    Raises:
        TypeError, ValueError: a width or a setting out of range. RuntimeError: `loss` before the first `begin_epoch`.

    Cost:
        A batch is the train interactions of `batch_size` users. O(B·N·D) time, O((B + N)·D) memory: the softmax is
        that of `catalogue_log_mass`, no [B, N] scores.

    Source:
        Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([2, 2]), n_rows=2, n_columns=3)
        >>> MultinomialAutoencoder(train, width=4).score(torch.tensor([0]), torch.tensor([[2, 1]])).shape
        torch.Size([1, 2])
    """

    batch_by = "users"
    item_bias: nn.Parameter

    def __init__(
        self,
        train: CSR,
        width: int,
        seed: int = 0,
        latent: int | None = None,
        dropout: float = 0.5,
        kl_weight: float = 0.2,
        annealing: int = 20,
    ) -> None:
        super().__init__(train, seed)
        name = type(self).__name__
        expect_at_least(name, 1, width=width, latent=width if latent is None else latent)
        expect_at_least(name, 0, annealing=annealing)
        expect_within(name, "kl_weight", kl_weight, 0, math.inf)
        expect_share(name, dropout=dropout)
        self.latent = width if latent is None else latent
        self.dropout, self.kl_weight, self.annealing = dropout, kl_weight, annealing
        generator, N = torch.Generator().manual_seed(seed), train.n_columns
        std = (2 / (N + width)) ** 0.5
        self.input_table = normal(N, width, generator, std)
        self.input_bias = nn.Parameter(torch.zeros(width))
        self.moments = linear(width, 2 * self.latent, generator)
        self.decoder = linear(self.latent, width, generator)
        self.item_table = normal(N, width, generator, std)
        self.item_bias = nn.Parameter(torch.zeros(N))

    @property
    def width(self) -> int:
        return self.item_table.shape[1]

    def encoded(self, rows: CSR, dropout: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """μ and log σ² [B, latent] of rows of items."""
        shown = row_sums(self.input_table, rows, unit_row_weights(rows, dropout))
        return self.moments((shown + self.input_bias).tanh()).chunk(2, dim=1)

    def user_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[B, D] of users [B] int64, or of all: g at z = μ."""
        rows = self.train_matrix.of_users()
        return self.decoder(self.encoded(rows if ids is None else rows.rows(ids))[0]).tanh()

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[K, D] of items [K] int64, or of all; `item_bias` [N] belongs to them."""
        return rows_of(self.item_table, ids)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        users, at = torch.unique(users, return_inverse=True)
        return gathered_inner_product(self.user_vectors(users), self.item_table, items, at, self.item_bias)

    def loss(self, batch: Batch) -> Tensor:
        """The negative evidence lower bound of the batch's users, each once, summed."""
        expect_begun(type(self).__name__, self.begun)
        rows = self.train_matrix.of_users().rows(torch.unique(batch.users))
        mean, log_variance = self.encoded(rows, self.noise.factors((len(rows),), self.dropout))
        drawn = mean + self.noise.normal(tuple(mean.shape)).to(mean) * (log_variance / 2).exp()
        users = self.decoder(drawn).tanh()
        users = torch.cat([users, users.new_ones(len(users), 1)], dim=1)
        items = torch.cat([self.item_table, self.item_bias[:, None]], dim=1)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        share = min(1.0, self.begun / self.annealing) if self.annealing else 1.0
        return functional.multinomial_likelihood(users, items, rows) + share * self.kl_weight * divergence
