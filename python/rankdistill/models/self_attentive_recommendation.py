"""A transformer over a user's latest items."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdistill.data.interactions import Interactions
from rankdistill.losses.batch import Batch
from rankdistill.losses.settings import expect_at_least, expect_begun, expect_share
from rankdistill.models.recommender import NoisyRecommender, linear, normal, rows_of
from rankdistill.ops import catalogue_log_mass, gathered_inner_product
from rankdistill.sampling import within_row_positions

LENGTH = 50
ROWS_AT_ONCE = 512


class SelfAttentiveRecommendation(NoisyRecommender):
    """Self-attentive sequential recommendation (SASRec): a causal transformer of items in the order of time.

    A position is √D·e_item + p_place, then blocks of attention to itself and earlier positions and of two linear layers,
    each behind a layer norm and beside what it changes. A user's vector is the last position's; scores are its inner
    products with the items' vectors e. Places count from the latest item backwards. loss = Σ over positions of
    −log softmax over all items of the next one: the cross entropy of the whole catalogue, where the paper draws one
    negative and classifies, which is known to rank worse. Users are ranked for from their train items alone, as by every model
    here; the paper's test adds the validation item to the history, which ranks better.

    Args:
        histories: [U, H] int64, the train items of every user, the earliest first, -1 behind the last; the latest
            length + 1 are part of the model and of its file.
        n_items: N.
        width: D, numbers per item and position, a multiple of n_heads.
        seed: of the initial values and the noise.
        length: L, positions that are looked at, >= 1.
        n_blocks, n_heads: >= 1.
        dropout: of positions and of the linear layers, in [0, 1).

    Raises:
        TypeError, ValueError: sizes or settings out of range, a width that n_heads do not divide.
        RuntimeError: `loss` before the first `begin_epoch`.

    Cost:
        A batch is the train interactions of `batch_size` users: O(B·L·(N + L + D)·D) time, O(B·L·D·n_blocks) memory and
        no [B·L, N] scores.

    Source:
        Kang & McAuley, Self-Attentive Sequential Recommendation, ICDM 2018; the loss as in Klenitskiy & Vasilev, Turning
        Dross Into Gold Loss: is BERT4Rec really better than SASRec?, RecSys 2023.

    Example:
        >>> model = SelfAttentiveRecommendation(torch.tensor([[0, 2], [1, -1]]), n_items=3, width=4)
        >>> model.score(torch.tensor([0]), torch.tensor([[2, 1]])).shape
        torch.Size([1, 2])
    """

    batch_by = "users"

    def __init__(
        self,
        histories: Tensor,
        n_items: int,
        width: int,
        seed: int = 0,
        length: int = LENGTH,
        n_blocks: int = 2,
        n_heads: int = 1,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(seed)
        name = type(self).__name__
        expect_at_least(
            name, 1, n_items=n_items, width=width, length=length, n_blocks=n_blocks, n_heads=n_heads
        )
        expect_share(name, dropout=dropout)
        if width % n_heads:
            raise ValueError(f"{name}: expected width as a multiple of n_heads={n_heads}; got {width}")
        self.length, self.n_blocks, self.n_heads, self.dropout = length, n_blocks, n_heads, dropout
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("histories", latest(histories, length + 1))
        self.item_table = normal(n_items, width, generator, 1 / width**0.5)
        self.place_table = normal(length, width, generator, 1 / width**0.5)
        self.blocks = nn.ModuleList(Block(width, n_heads, generator) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width)

    @property
    def n_users(self) -> int:
        return len(self.histories)

    @property
    def n_items(self) -> int:
        return len(self.item_table)

    @property
    def width(self) -> int:
        return self.item_table.shape[1]

    def states(self, items: Tensor, share_dropped: float = 0.0) -> Tensor:
        """[B, L', D] after each of items [B, L'] int64, -1 behind the last of a row: what stands there means nothing."""
        drop = (
            (lambda x: x * self.noise.factors(tuple(x.shape), share_dropped).to(x)) if share_dropped else None
        )
        counts = (items >= 0).sum(1, keepdim=True)
        places = self.length - counts + torch.arange(items.shape[1], device=items.device)
        hidden = self.item_table[items.clamp_min(0)] * self.width**0.5
        hidden = hidden + self.place_table[places.clamp_max(self.length - 1)]
        hidden = hidden if drop is None else drop(hidden)
        for block in self.blocks:
            hidden = block(hidden, drop)
        return self.norm(hidden)

    def user_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[B, D] of users [B] int64, or of all; 0 for users without train items."""
        histories = latest(rows_of(self.histories, ids), self.length)
        if torch.is_grad_enabled():
            return self._last(histories)
        return torch.cat([self._last(part) for part in histories.split(ROWS_AT_ONCE)])

    def _last(self, histories: Tensor) -> Tensor:
        counts = (histories >= 0).sum(1)
        last = self.states(histories)[torch.arange(len(histories), device=counts.device), counts - 1]
        return last * (counts > 0)[:, None]

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[K, D] of items [K] int64, or of all."""
        return rows_of(self.item_table, ids)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        users, at = torch.unique(users, return_inverse=True)
        return gathered_inner_product(self.user_vectors(users), self.item_table, items, at)

    def loss(self, batch: Batch) -> Tensor:
        """The cross entropy of every next item in the histories of the batch's users, each once, summed."""
        expect_begun(type(self).__name__, self.begun)
        histories = self.histories[torch.unique(batch.users)]
        after = histories[:, 1:]
        shown = histories[:, :-1].masked_fill(after < 0, -1)
        states = self.states(shown, self.dropout)[after >= 0]
        following = self.item_table[after[after >= 0]]
        return (catalogue_log_mass(states, self.item_table) - (states * following).sum(1)).sum()


class Block(nn.Module):
    """Causal attention, then two linear layers, each beside what it changes."""

    def __init__(self, width: int, n_heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query, self.key, self.value, self.joined, self.first, self.second = (
            linear(width, width, generator) for _ in range(6)
        )

    def forward(self, hidden: Tensor, drop) -> Tensor:
        drop = drop or (lambda x: x)
        B, L, D = hidden.shape
        read = self.norms[0](hidden)
        query, key, value = (
            part(read).view(B, L, self.n_heads, D // self.n_heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + drop(self.joined(attended.transpose(1, 2).reshape(B, L, D)))
        return hidden + drop(self.second(drop(self.first(self.norms[1](hidden)).relu())))


def histories_of(train: Interactions, length: int) -> Tensor:
    """[U, length] int64: each user's latest train items, the earliest first, -1 behind the last.

    Raises:
        ValueError: interactions without timestamps.
    """
    if train.timestamps is None:
        raise ValueError(
            "sasrec: expected train interactions with timestamps, of which it makes sequences; got none"
        )
    # Equal timestamps in random order, since item ids may carry information.
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    order = order[torch.argsort(train.timestamps[order], stable=True)]
    users, items = train.users[order], train.items[order]
    counts = torch.bincount(users, minlength=train.n_users)
    places = within_row_positions(users) - (counts - length).clamp_min(0)[users]
    histories = torch.full((train.n_users, length), -1)
    histories[users[places >= 0], places[places >= 0]] = items[places >= 0]
    return histories


def latest(histories: Tensor, length: int) -> Tensor:
    """[B, length] the last items of histories [B, H], -1 behind them."""
    counts = (histories >= 0).sum(1, keepdim=True)
    at = (counts - length).clamp_min(0) + torch.arange(length, device=histories.device)
    found = histories.gather(1, at.clamp_max(histories.shape[1] - 1))
    return found.masked_fill(at >= counts, -1)
