"""Shared vectors of users and items under heads of heterogeneous objectives, any of which can recommend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill.experts import linear_parameters
from rankdistill.losses.head_objectives import HEADS
from rankdistill.models.recommender import rows_of
from rankdistill.models.vector_tables import VectorTables
from rankdistill.ops import gathered_inner_product


class MultiHeadFactorization(VectorTables):
    """Two tables of vectors, and six heads that each make scores of them: the model of consensus learning (ConCF).

    A head's bottom is linear (D → D/2), dropout, ReLU, linear (→ D/4). On top of it h_u, h_i:
    ranking ⟨Wh_u, Wh_i⟩; metric −10·‖ball(Wh_u) − ball(Wh_i)‖², ball the projection onto the unit ball; binary and squared
    w·(h_u ⊙ h_i) + b; multinomial w_i·h_u + b_i; item_multinomial w_u·h_i + b_u. All of them are inner products of two
    vectors, which `head_vectors` gives. `loss` is BPR of the recommending head; consensus learning has all heads' losses.

    Args:
        n_users, n_items: rows of the two tables.
        width: D, numbers per vector, 4 or more.
        seed: of the initial values, N(0, init_std²) in the tables, those of torch.nn.Linear in the heads.
        init_std: the tables' standard deviation.

    Raises:
        TypeError, ValueError: sizes out of range; `recommend_by` a head that is none; `loss` of a batch without positives or negatives.
        IndexError: ids out of range (on a CPU).

    Cost:
        O(D²) time for a head's vector of each distinct user and item of a batch, but of the multinomials' own tables. (U + N)·1.25·D
        numbers, and the heads' bottoms.

    Source:
        Kang et al., Consensus Learning from Heterogeneous Objectives for One-Class Collaborative Filtering, WWW 2022,
        released code.

    Example:
        >>> model = MultiHeadFactorization(n_users=3, n_items=5, width=8)
        >>> model.score(torch.tensor([0]), torch.tensor([[4, 1]])).shape
        torch.Size([1, 2])
    """

    least_width = 4
    nearness = 10.0  # the metric head scores −10 times the squared distance

    def __init__(
        self, n_users: int, n_items: int, width: int = 64, seed: int = 0, init_std: float = 0.01
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        super().__init__(n_users, n_items, width, generator, init_std)
        out = {"binary": 1, "squared": 1, "multinomial": n_items, "item_multinomial": n_users}
        self.heads = nn.ModuleDict({n: Head(width, out.get(n, width // 4), generator) for n in HEADS})
        self.register_buffer("recommending", torch.tensor(0))  # which of HEADS

    def recommend_by(self, head: str) -> None:
        """Chooses the head whose scores are the model's."""
        if head not in HEADS:
            raise ValueError(
                f"MultiHeadFactorization: expected head as one of {', '.join(HEADS)}; got {head!r}"
            )
        self.recommending.fill_(HEADS.index(head))

    def rows(self, side: str, ids: Tensor | None = None) -> Tensor:
        """[n, D] shared vectors of a side, "user" or "item"."""
        table = self.user_table if side == "user" else self.item_table
        return rows_of(table, ids)

    def head_vectors(
        self,
        head: str,
        side: str,
        ids: Tensor | None = None,
        rows: Tensor | None = None,
        dropout: Tensor | None = None,
    ) -> Tensor:
        """[n, W] a head's vectors of users or items [n] int64 (None: all), whose inner products are its scores.

        `rows` are their shared vectors where they have been read already; `dropout` [n, D/2] are the factors of the
        bottom's middle, none by default.
        """
        made = self.heads[head]
        if head == ("multinomial" if side == "item" else "item_multinomial"):
            return torch.cat([rows_of(made.weight, ids), rows_of(made.bias[:, None], ids)], 1)
        hidden = made.bottom(self.rows(side, ids) if rows is None else rows, dropout)
        one = hidden.new_ones(len(hidden), 1)
        if head in ("multinomial", "item_multinomial"):
            return torch.cat([hidden, one], 1)
        if head in ("binary", "squared"):
            return torch.cat([hidden * made.weight, one * made.bias] if side == "user" else [hidden, one], 1)
        top = nn.functional.linear(hidden, made.weight, made.bias).to(hidden.dtype)
        if head == "ranking":
            return top
        top = nn.functional.normalize(top, eps=1.0)  # leaves what is inside the ball
        square = -self.nearness * top.square().sum(1, keepdim=True)
        return torch.cat([2 * self.nearness * top, one, square] if side == "user" else [top, square, one], 1)

    def user_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[B, W] of users [B] int64, or of all: the recommending head's."""
        return self.head_vectors(HEADS[int(self.recommending)], "user", ids)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[K, W] of items [K] int64, or of all."""
        return self.head_vectors(HEADS[int(self.recommending)], "item", ids)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        listed, at = torch.unique(items, return_inverse=True)
        vectors = self.item_vectors(listed.clamp_min(0))
        return gathered_inner_product(self.user_vectors(users), vectors, at.masked_fill(items < 0, -1))


class Head(nn.Module):
    """A bottom of two linear maps, and the weights [out, D/4] and biases [out] of a top."""

    def __init__(self, width: int, out: int, generator: torch.Generator) -> None:
        super().__init__()
        for name, rows, columns in (("in", width // 2, width), ("out", width // 4, width // 2)):
            weight, bias = linear_parameters(1, rows, columns, generator)
            setattr(self, f"bottom_weight_{name}", nn.Parameter(weight[0]))
            setattr(self, f"bottom_bias_{name}", nn.Parameter(bias[0]))
        weight, bias = linear_parameters(1, out, width // 4, generator)
        self.weight, self.bias = nn.Parameter(weight[0]), nn.Parameter(bias[0])

    def bottom(self, rows: Tensor, dropout: Tensor | None = None) -> Tensor:
        """[n, D/4] of rows [n, D], in their dtype under autocast too: what is joined to them is in it."""
        middle = nn.functional.linear(rows, self.bottom_weight_in, self.bottom_bias_in)
        middle = middle if dropout is None else middle * dropout
        return nn.functional.linear(middle.relu(), self.bottom_weight_out, self.bottom_bias_out).to(
            rows.dtype
        )
