"""Two tables of vectors, with or without biases, as a recommender: what a trained model serves, or a teacher is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.data.dataset import Dataset
from rankdistill.data.ids import as_ids
from rankdistill.data.vocabulary import Vocabulary
from rankdistill.ops import checks, gathered_inner_product, inner_product_topk
from rankdistill.ops.inner_product_topk import InnerProductTopK
from rankdistill.rankings import Rankings

logger = logging.getLogger("rankdistill")

SHOWN = 4  # ids of a warning
CURE = "give user_ids= and item_ids=, or a file with user_ids and item_ids"


@dataclass(frozen=True, eq=False)
class Factors:
    """A recommender whose scores are inner products: score(u, i) = <users[u], items[i]> + item_bias[i] + user_bias[u].

    Args:
        users: [U, D] float table.
        items: [N, D] float table of the same dtype.
        item_bias: [N] of that dtype, or None.
        user_bias: [U] of that dtype, or None; it orders nothing, but teaches methods that read scores.
        user_ids: [U] the external ids of the rows, integers or strings in any order; None where they are unknown.
        item_ids: [N] likewise.
        source: what errors call it.

    Raises:
        TypeError, ValueError: tables that do not fit each other; ids that repeat.

    Example:
        >>> teacher = Factors(torch.tensor([[1., 2.]]), torch.tensor([[1., 0.], [0., 1.]]), torch.tensor([5., 0.]))
        >>> teacher.score(torch.tensor([0]), torch.tensor([[1, 0]]))
        tensor([[2., 6.]])
    """

    users: Tensor
    items: Tensor
    item_bias: Tensor | None = None
    user_bias: Tensor | None = None
    user_ids: np.ndarray | None = None
    item_ids: np.ndarray | None = None
    source: str = "Factors"

    def __post_init__(self) -> None:
        op = self.source
        checks.expect_tensor(op, "users", self.users, 2)
        checks.expect_tensor(op, "items", self.items, 2)
        checks.expect_same(op, "users", self.users, "items", self.items)
        width = self.users.shape[1]
        checks.expect(self.items.shape[1] == width, op, f"items of width {width}, as users", self.items)
        for side in ("user", "item"):
            rows, bias, ids = (getattr(self, name) for name in (f"{side}s", f"{side}_bias", f"{side}_ids"))
            if bias is not None:
                checks.expect_tensor(op, f"{side}_bias", bias, 1)
                checks.expect_same(op, f"{side}s", rows, f"{side}_bias", bias)
                checks.expect(len(bias) == len(rows), op, f"{side}_bias of {len(rows)} entries", bias)
            if ids is not None:
                ids = as_ids(ids, op, f"{side}_ids")
                checks.expect(len(ids) == len(rows), op, f"{len(rows)} {side}_ids", f"{len(ids)}")
                unique, counts = np.unique(ids, return_counts=True)
                if len(unique) != len(ids):
                    raise ValueError(
                        f"{op}: expected {side}_ids without repeats; got {unique[counts.argmax()].item()!r} twice"
                    )
                object.__setattr__(self, f"{side}_ids", ids)

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def width(self) -> int:
        return self.users.shape[1]

    def __repr__(self) -> str:
        biases = "".join(
            f" + {side} bias" for side in ("item", "user") if getattr(self, f"{side}_bias") is not None
        )
        dtype = str(self.users.dtype).removeprefix("torch.")
        return f"Factors({self.n_users} users, {self.n_items} items, {dtype} of width {self.width}{biases})"

    def user_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[B, D] of users [B] int64, or the whole table; without biases."""
        return self.users if ids is None else self.users.index_select(0, ids)

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        """[K, D] of items [K] int64, or the whole table; without biases."""
        return self.items if ids is None else self.items.index_select(0, ids)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64, biases included."""
        scores = gathered_inner_product(self.users, self.items, items, users, self.item_bias)
        return scores if self.user_bias is None else scores + self.user_bias[users, None]

    def topk(self, users: Tensor, k: int, exclude: object = None) -> InnerProductTopK:
        """The exact k best items of users [B] int64; `exclude` by row of them, as in `inner_product_topk`."""
        found = inner_product_topk(self.user_vectors(users), self.items, k, exclude, self.item_bias)
        return (
            found
            if self.user_bias is None
            else found._replace(scores=found.scores + self.user_bias[users, None])
        )

    def rankings(self, k: int, exclude: CSR | None = None, **options) -> Rankings:
        """The exact top k of every user, biases included; options as in `Rankings.from_vectors`."""
        made = Rankings.from_vectors(self.users, self.items, k, exclude, item_bias=self.item_bias, **options)
        if self.user_bias is not None:
            made.scores.add_(self.user_bias[:, None].to(made.scores.device))
        return made

    def swapped(self) -> Factors:
        """Items as users: its rankings are lists of users per item."""
        return Factors(
            self.items, self.users, self.user_bias, self.item_bias, self.item_ids, self.user_ids, self.source
        )

    def to(self, device: torch.device | str) -> Factors:
        """The same factors on `device`."""
        return self._mapped(lambda table: table.to(device))

    def detached(self) -> Factors:
        """On the CPU, without gradients."""
        return self._mapped(lambda table: table.detach().cpu())

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Factors:
        names = ("users", "items", "item_bias", "user_bias")
        return replace(self, **{n: change(t) for n in names if (t := getattr(self, n)) is not None})

    def aligned(self, dataset: Dataset) -> Factors:
        """The rows of a data set's users and items, in its order: found by their ids where the factors know them.

        Rows without ids are taken to be in that order; a warning names it, unless the data set's ids are 0 … n-1.

        Raises:
            ValueError: a user or item of the data set without a row; without ids, another number of rows.
        """
        found = self
        for side in ("user", "item"):
            vocabulary = getattr(dataset, f"{side}s")
            ids, count = getattr(self, f"{side}_ids"), getattr(self, f"n_{side}s")
            if ids is None:
                if count != len(vocabulary):
                    raise ValueError(
                        f"{self.source}: expected rows of {len(vocabulary)} {side}s, as the data set {dataset.name}; got "
                        f"{count}, without {side}_ids that would tell whose they are"
                    )
                continue
            rows = rows_of(ids, vocabulary, self.source, side, dataset.name)
            found = found._selected(side, rows)
        unknown = [side for side in ("user", "item") if getattr(self, f"{side}_ids") is None]
        warn_of_order(self.source, dataset, unknown)
        return found

    def _selected(self, side: str, rows: Tensor) -> Factors:
        if len(rows) == getattr(self, f"n_{side}s") and torch.equal(rows, torch.arange(len(rows))):
            return self
        device = self.users.device
        parts = {f"{side}_ids": getattr(self, f"{side}_ids")[rows.numpy()]}
        for name in (f"{side}s", f"{side}_bias"):
            table = getattr(self, name)
            parts[name] = None if table is None else table.index_select(0, rows.to(device))
        return replace(self, **parts)


def warn_of_order(
    what: str, dataset: Dataset, sides: Sequence[str] = ("user", "item"), cure: str = CURE
) -> None:
    """Rows without ids are a data set's in its order, which a table from elsewhere seldom has: u10 comes before u2."""
    orders = []
    for side in sides:
        ids = getattr(dataset, f"{side}s").ids
        if not np.array_equal(ids, np.arange(len(ids))):
            first = ", ".join(map(str, ids[:SHOWN].tolist()))
            orders.append(f"{side}s {first}{', …' * (len(ids) > SHOWN)}")
    if orders:
        text = "%s: rows without ids are taken in the data set's order, %s. If theirs is another, %s"
        logger.warning(text, what, " and ".join(orders), cure)


def rows_of(ids: np.ndarray, vocabulary: Vocabulary, source: str, side: str, name: str) -> Tensor:
    """Where each id of a vocabulary stands among `ids` (in any order, without repeats)."""
    order = np.argsort(ids, kind="stable")
    try:
        return torch.from_numpy(order)[Vocabulary(ids[order]).encode(vocabulary.ids)]
    except KeyError as error:
        missing = len(vocabulary) - int(np.isin(vocabulary.ids.astype(str), ids.astype(str)).sum())
        raise ValueError(
            f"{source}: expected a row for every one of the {len(vocabulary)} {side}s of the data set {name}; got none "
            f"for {missing} of them ({error.args[0].partition('; ')[2]})"
        ) from None
