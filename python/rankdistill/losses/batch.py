"""What a step of training is about: a batch of interactions, and this process's share of what is summed over it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Share(NamedTuple):
    """Which part of a batch's sums is this process's: the losses of all `size` shares add up to the batch's.

    Every process knows the whole batch's ids; whatever is summed over rows (users, items, interactions) is cut by
    position, and what a method means by the batch stays that of the whole one.

    Args:
        rank: in [0, size).
        size: processes.

    Example:
        >>> [Share(rank, 3).take(torch.arange(5)).tolist() for rank in range(3)]
        [[0], [1, 2], [3, 4]]
    """

    rank: int
    size: int

    def of(self, n: int) -> slice:
        """The part of n rows: within one of n/size, empty where there are fewer rows than processes."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def take(self, rows: Tensor) -> Tensor:
        return rows[self.of(len(rows))]


class Batch(NamedTuple):
    """One step's interactions: whole numbers of any dtype, which methods read as int64.

    Args:
        users: [B], in any order; they may repeat.
        positives: [B] items, where the method or the model's own objective reads them; else None.
        negatives: [B, ...] items, likewise; -1 is none.
        share: this process's part of the whole batch, which its losses are of; None: all of it.

    Example:
        >>> Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), share=Share(1, 2)).own().users
        tensor([2])
    """

    users: Tensor
    positives: Tensor | None = None
    negatives: Tensor | None = None
    share: Share | None = None

    def own(self) -> Batch:
        """This process's interactions, by position: what a sum over interactions is to be taken of."""
        if self.share is None:
            return self
        return Batch(*(None if part is None else self.share.take(part) for part in self[:3]))

    def negative_columns(self, name: str) -> Tensor:
        """[B, J] the negatives of each interaction; ValueError, in the name of who reads them, where there are none."""
        if self.negatives is None:
            raise ValueError(f"{name}: expected a batch with negatives, which it learns from; got none")
        return self.negatives if self.negatives.dim() == 2 else self.negatives[:, None]

    def listed(self, name: str) -> Tensor:
        """[B, 1 + J] each interaction's positive and its negatives; ValueError likewise."""
        if self.positives is None:
            raise ValueError(f"{name}: expected a batch with positives, which it learns from; got none")
        return torch.cat([self.positives[:, None], self.negative_columns(name)], 1)


def as_ids(name: str, ids: Tensor) -> Tensor:
    """int64, of whole numbers of any size."""
    if (
        not isinstance(ids, Tensor)
        or ids.dtype.is_floating_point
        or ids.dtype.is_complex
        or ids.dtype == torch.bool
    ):
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"batch: expected {name} as a tensor of whole numbers; got {got}")
    return ids.long()


def users_of(batch: Batch | Tensor) -> Tensor:
    """[B] int64 the whole batch's users; the batch may be they alone."""
    if isinstance(batch, Tensor):
        return as_ids("users", batch)
    if not isinstance(batch, Batch):
        expected = "a Batch(users, positives, negatives), or its users alone"
        raise TypeError(f"batch: expected {expected}; got {type(batch).__name__}")
    return as_ids("users", batch.users)


def expect_interactions(name: str, batch: Batch) -> Batch:
    """The batch, its ids int64; users alone are not enough."""
    if not isinstance(batch, Batch):
        expected = "a Batch(users, positives, negatives), of which it reads the items too"
        raise TypeError(f"{name}: expected {expected}; got {type(batch).__name__}")
    parts = zip(batch._fields, batch[:3])
    return Batch(*(None if part is None else as_ids(of, part) for of, part in parts), batch.share)


def real_interactions(name: str, batch: Batch) -> Batch:
    """`expect_interactions`, of whose negatives, flat, those that are none (-1) are left out."""
    batch = expect_interactions(name, batch)
    if batch.negatives is None:
        return batch
    return batch._replace(negatives=batch.negatives[batch.negatives >= 0])


def share_of(batch: Batch | Tensor) -> Share:
    """The batch's share; all of it where it has none."""
    users_of(batch)
    share = None if isinstance(batch, Tensor) else batch.share
    return Share(0, 1) if share is None else share


def unique_users(batch: Batch | Tensor) -> Tensor:
    """[n] int64 the whole batch's users once each, ascending."""
    return torch.unique(users_of(batch))


def counted_once(batch: Batch | Tensor, loss: Tensor) -> Tensor:
    """A loss that every process has computed whole, its gradients divided already: its value is rank 0's."""
    return loss - loss.detach() if share_of(batch).rank else loss
