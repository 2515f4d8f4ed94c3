"""Tables of interactions: as they were found, and with users and items numbered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.data.ids import IdColumn


class RawInteractions:
    """Interactions with external ids, as read from a file or given by a caller.

    `user_ids` and `item_ids` hold each id once; `users` and `items` are arrays [n] that are made of them each time, of
    strings with the room of the longest for every row.

    Args:
        users, items: [n] integers or strings each; 1 and "1" are the same id.
        ratings: [n] finite numbers, or None.
        timestamps: [n] finite numbers, or None; any unit, later is larger.

    Raises:
        TypeError, ValueError: ids that are neither; lengths that differ; a number that is not finite.

    Example:
        >>> RawInteractions(["ann", "bob"], [7, 9], timestamps=[5, 6]).items
        array([7, 9])
    """

    def __init__(
        self, users: object, items: object, ratings: object = None, timestamps: object = None
    ) -> None:
        self.user_ids = IdColumn.of(users, "RawInteractions", "users")
        self.item_ids = IdColumn.of(items, "RawInteractions", "items")
        self.ratings = None if ratings is None else _numbers("ratings", ratings)
        self.timestamps = None if timestamps is None else _numbers("timestamps", timestamps)
        for name, column in (
            ("items", self.item_ids), ("ratings", self.ratings), ("timestamps", self.timestamps),
        ):  # fmt: skip
            if column is not None and len(column) != len(self.user_ids):
                raise ValueError(
                    f"RawInteractions: expected {len(self.user_ids)} {name}, as users; got {len(column)}"
                )

    @property
    def users(self) -> np.ndarray:
        return self.user_ids.array()

    @property
    def items(self) -> np.ndarray:
        return self.item_ids.array()

    def __len__(self) -> int:
        return len(self.user_ids)

    def select(self, rows: np.ndarray) -> RawInteractions:
        """The rows that a mask or an index array names."""
        columns = (None if c is None else c[rows] for c in (self.ratings, self.timestamps))
        return RawInteractions(self.user_ids.select(rows), self.item_ids.select(rows), *columns)


def _numbers(name: str, values: object) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.ndim != 1 or (array.dtype.kind not in "iuf" and len(array)):
        raise TypeError(
            f"RawInteractions: expected {name} as numbers in 1 dimension; got {array.dtype} {list(array.shape)}"
        )
    array = array.astype(np.int64 if array.dtype.kind in "iu" and name == "timestamps" else np.float64)
    bad = ~np.isfinite(array)
    if bool(bad.any()):
        at = int(bad.argmax())
        raise ValueError(f"RawInteractions: expected finite {name}; got {array[at]} at position {at}")
    return array


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions with users and items as numbers; row i says that users[i] chose items[i].

    Args:
        users: [n] int64 in [0, n_users).
        items: [n] int64 in [0, n_items).
        n_users, n_items: the sizes of the whole data set, of which this may be a part.
        timestamps: [n] int64 or float64, or None.
        ratings: [n] float32 or float64, or None.

    Raises:
        TypeError, ValueError: other dtypes, shapes or ranges; the error names the first bad position.

    Example:
        >>> Interactions(torch.tensor([1, 0]), torch.tensor([2, 2]), n_users=2, n_items=3).csr().to_dense().int()
        tensor([[0, 0, 1],
                [0, 0, 1]], dtype=torch.int32)
    """

    users: Tensor
    items: Tensor
    n_users: int
    n_items: int
    timestamps: Tensor | None = None
    ratings: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_column("users", (torch.int64,))
        self._check_column("items", (torch.int64,))
        self._check_column("timestamps", (torch.int64, torch.float64))
        self._check_column("ratings", (torch.float32, torch.float64))
        for name, size in (("users", self.n_users), ("items", self.n_items)):
            values = getattr(self, name)
            bad = (values < 0) | (values >= size)
            if bool(bad.any()):
                at = int(bad.to(torch.uint8).argmax())
                raise ValueError(
                    f"Interactions: expected {name} in [0, {size}); got {int(values[at])} at position {at}"
                )

    def _check_column(self, name: str, dtypes: tuple[torch.dtype, ...]) -> None:
        value = getattr(self, name)
        if value is None and name in ("timestamps", "ratings"):
            return
        if not isinstance(value, Tensor) or value.dtype not in dtypes:
            kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"Interactions: expected {name} as a tensor of {kinds}; got {got}")
        if value.dim() != 1 or value.shape != self.users.shape:
            raise ValueError(f"Interactions: expected {name} of shape [n], as users; got {list(value.shape)}")

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        return f"Interactions({len(self)} of {self.n_users} users with {self.n_items} items)"

    def csr(self) -> CSR:
        """The items of every user: [n_users, n_items]. Made once and kept."""
        return self._csr

    @cached_property
    def _csr(self) -> CSR:
        return CSR.from_pairs(self.users, self.items, self.n_users, self.n_items)

    def select(self, rows: Tensor) -> Interactions:
        """The rows that a mask [n] or indices name, in their order."""
        columns = (None if c is None else c[rows] for c in (self.timestamps, self.ratings))
        return Interactions(self.users[rows], self.items[rows], self.n_users, self.n_items, *columns)

    def unique(self) -> Interactions:
        """Every pair once, sorted by (user, item): the earliest row of each, or the first without timestamps."""
        order = torch.arange(len(self), device=self.users.device)
        for key in (self.timestamps, self.items, self.users):
            if key is not None:
                order = order[torch.argsort(key[order], stable=True)]
        users, items = self.users[order], self.items[order]
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        return self.select(order[first])
