"""Matrix factorisation beside a network over a user's and an item's numbers."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from rankdistill.losses.batch import Batch
from rankdistill.losses.settings import expect_at_least
from rankdistill.models.recommender import Recommender, linear, normal, rows_of

NUMBERS = (
    1 << 18
)  # of a layer that exist at a time where no gradient is asked for: they stay in the second-level cache


class NeuralMatrixFactorization(Recommender):
    """Neural matrix factorisation (NeuMF): a weighted product and a network's output, trained as a classifier.

    score(u, i) = ⟨w, p_u ⊙ q_i⟩ + ⟨v, z_n⟩ + b, z_0 = [x_u, y_i], z_l = ReLU(W_l·z_{l−1} + b_l), of half the width each
    time; p, q, x, y of D numbers. It has no vectors whose products are the scores: the whole catalogue is ranked by
    scoring it. loss = Σ softplus(−s) of positives + Σ softplus(s) of negatives. Both parts are trained together from the
    start, without the paper's pre-training.

    Args:
        n_users, n_items: rows of the tables.
        width: D, numbers per user and item in either part, 2^(n_layers − 1) or more.
        seed: of the initial values, N(0, init_std²) in the tables, those of torch.nn.Linear in the layers.
        init_std: the tables' standard deviation.
        n_layers: n, >= 1.

    Raises:
        TypeError, ValueError: sizes or n_layers out of range; `loss` of a batch without positives or negatives.
        IndexError: ids out of range (on a CPU).

    Cost:
        O(D²) time a score, a half of it once per item where more scores are asked for than there are items. Memory with
        gradients O(B·K·D); without, a block of pairs at a time, O(B·K).

    Source:
        He et al., Neural Collaborative Filtering, WWW 2017, section 3.4.

    Example:
        >>> model = NeuralMatrixFactorization(n_users=3, n_items=5, width=8)
        >>> model.score(torch.tensor([0]), torch.tensor([[4, 1]])).shape
        torch.Size([1, 2])
    """

    scores_in_pieces = True

    def __init__(
        self,
        n_users: int,
        n_items: int,
        width: int,
        seed: int = 0,
        init_std: float = 0.01,
        n_layers: int = 3,
    ) -> None:
        super().__init__()
        expect_at_least(type(self).__name__, 1, n_users=n_users, n_items=n_items, n_layers=n_layers)
        expect_at_least(type(self).__name__, 2 ** (n_layers - 1), width=width)
        self.init_std, self.n_layers = init_std, n_layers
        generator = torch.Generator().manual_seed(seed)
        self.product_users = normal(n_users, width, generator, init_std)
        self.product_items = normal(n_items, width, generator, init_std)
        self.network_users = normal(n_users, width, generator, init_std)
        self.network_items = normal(n_items, width, generator, init_std)
        widths = [2 * width >> layer for layer in range(n_layers + 1)]
        self.layers = nn.ModuleList(linear(*pair, generator) for pair in pairwise(widths))
        self.product_weight = nn.Parameter(torch.ones(width))
        self.top = linear(widths[-1], 1, generator)

    @property
    def n_users(self) -> int:
        return len(self.product_users)

    @property
    def n_items(self) -> int:
        return len(self.product_items)

    @property
    def width(self) -> int:
        return self.product_users.shape[1]

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        if torch.is_grad_enabled() or not items.numel():
            return self._score(users, items, None)
        of_all = self._first_of_items(self.network_items) if items.numel() > self.n_items else None
        columns = max(1, NUMBERS // self.width)
        rows = max(1, columns // items.shape[1])
        return torch.cat([
            torch.cat([self._score(some, part, of_all) for part in listed.split(columns, dim=1)], 1)
            for some, listed in zip(users.split(rows), items.split(rows))
        ])  # fmt: skip

    def _first_of_items(self, vectors: Tensor) -> Tensor:
        """The items' part in the first layer, which of [x_u, y_i] is a sum of one of x_u and one of y_i."""
        return vectors @ self.layers[0].weight[:, self.width :].T

    def _score(self, users: Tensor, items: Tensor, of_all: Tensor | None) -> Tensor:
        """Of all items their part in the first layer, or None: that of those listed is made here."""
        listed = items.clamp_min(0)
        weighted = rows_of(self.product_users, users) * self.product_weight
        product = (rows_of(self.product_items, listed) @ weighted[:, :, None])[..., 0]
        first, *others = self.layers
        of_users = rows_of(self.network_users, users) @ first.weight[:, : self.width].T + first.bias
        if of_all is None:
            of_items = self._first_of_items(rows_of(self.network_items, listed))
        else:
            of_items = rows_of(of_all, listed)
        hidden = of_items.add_(of_users[:, None]).relu_()
        for layer in others:
            hidden = layer(hidden).relu_()
        scores = product + self.top(hidden)[..., 0]
        return scores.masked_fill(items < 0, -torch.inf)

    def loss(self, batch: Batch) -> Tensor:
        """The cross entropy of the batch's positives and negatives (-1 is none), summed."""
        scores = self.score(batch.users, batch.listed(type(self).__name__))
        return nn.functional.softplus(torch.cat([-scores[:, :1], scores[:, 1:]], dim=1)).sum()
