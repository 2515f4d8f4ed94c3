"""Matrix factorisation whose tables are divided among ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rankdistill import functional, ops
from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch
from rankdistill.ops.inner_product_topk import InnerProductTopK
from rankdistill.rankings.distributed import distributed_inner_product_topk
from rankdistill.sharded.catalogue import catalogue_plackett_luce
from rankdistill.sharded.layout import Layout
from rankdistill.sharded.scores import embedding_plackett_luce, gathered_inner_product
from rankdistill.sharded.table import ReplicatedTable, ShardedTable


class ShardedFactorization(nn.Module):
    """`MatrixFactorization` for tables that fit no single device: items divided among ranks, users too or replicated.

    Every rank has its own batch; the loss of all is the sum of the ranks' losses, and each parameter's gradient is
    that sum's. Initial values are those of `MatrixFactorization` with the same seed, bit for bit.

    Args:
        n_users, n_items, width, seed, init_std, sparse_grad: as for `MatrixFactorization`, the same on all ranks.
        user_layout, item_layout: which rank owns which rows; None for `Layout.even`.
        replicate_users: every rank holds all users; their gradients are added up over ranks in the backward.
        device: of the parameters.
        group: a torch.distributed group whose backend carries tensors of this device; None for all ranks.

    Raises:
        ValueError: on all ranks, where they disagree about any of these.

    Example:
        >>> model = ShardedFactorization(n_users=3, n_items=5, width=2)
        >>> model.score(torch.tensor([0]), torch.tensor([[4, 1]])).shape
        torch.Size([1, 2])
    """

    # Methods must call `score`: no rank holds a whole table of vectors.
    scores_are_inner_products = False

    def __init__(
        self,
        n_users: int,
        n_items: int,
        width: int,
        seed: int = 0,
        init_std: float = 0.01,
        sparse_grad: bool = False,
        *,
        user_layout: Layout | None = None,
        item_layout: Layout | None = None,
        replicate_users: bool = False,
        device: torch.device | str = "cpu",
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("n_users", n_users), ("n_items", n_items), ("width", width)):
            if value < 1:
                raise ValueError(f"ShardedFactorization: expected {name} of 1 or more; got {value}")
        self.init_std = init_std
        generator = torch.Generator().manual_seed(seed)
        settings = {"device": device, "sparse_grad": sparse_grad, "group": group}
        if replicate_users:
            rows = torch.randn(n_users, width, generator=generator).mul_(init_std).to(device)
            self.user_table = ReplicatedTable(rows, sparse_grad, group)
        else:
            self.user_table = ShardedTable.normal(
                n_users, width, generator, init_std, layout=user_layout, **settings
            )
        self.item_table = ShardedTable.normal(
            n_items, width, generator, init_std, layout=item_layout, **settings
        )

    @property
    def n_users(self) -> int:
        return self.user_table.n_rows

    @property
    def n_items(self) -> int:
        return self.item_table.n_rows

    @property
    def width(self) -> int:
        return self.item_table.width

    def tables(self) -> list[nn.Parameter]:
        """The parameters, of this rank's rows, whose gradients are sparse where `sparse_grad` is set."""
        return [self.user_table.rows, self.item_table.rows]

    @property
    def sparse_grad(self) -> bool:
        """Whether the tables' gradients are sparse, of the rows that a batch touches."""
        return self.item_table.sparse_grad

    @sparse_grad.setter
    def sparse_grad(self, sparse: bool) -> None:
        self.user_table.sparse_grad = self.item_table.sparse_grad = sparse

    @property
    def before_reading(self) -> Callable[[Tensor, Tensor | None], None] | None:
        """Called as before_reading(rows, positions) before rows are read, where a lazy optimiser has decay to catch up."""
        return self.item_table.before_reading

    @before_reading.setter
    def before_reading(self, catch_up: Callable[[Tensor, Tensor | None], None] | None) -> None:
        self.user_table.before_reading = self.item_table.before_reading = catch_up

    def user_vectors(self, ids: Tensor) -> Tensor:
        """[B, D] of users [B] int64 in [0, U)."""
        return self.user_table.lookup(ids)

    def item_vectors(self, ids: Tensor) -> Tensor:
        """[K, D] of items [K] int64 in [0, N)."""
        return self.item_table.lookup(ids)

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64."""
        return gathered_inner_product(self.user_vectors(users), self.item_table, items)

    def list_losses(
        self, rows: Tensor, columns: Tensor, list_size: int, lengths: Tensor, swapped: bool = False
    ) -> Tensor:
        """[n] of users [n] the Plackett–Luce losses of their first `list_size` items of [n, K + L] above the others; -1
        past the list's length is none. Of items, and their users, where `swapped`."""
        vectors = self.item_vectors(rows) if swapped else self.user_vectors(rows)
        table = self.user_table if swapped else self.item_table
        if isinstance(table, ShardedTable):
            return embedding_plackett_luce(vectors, table, columns, list_size, lengths)
        real = columns >= 0
        scores = (vectors[real.nonzero()[:, 0]] * table.lookup(columns[real])).sum(1)
        scores = scores.new_full(columns.shape, -torch.inf).masked_scatter(real, scores)
        return ops.plackett_luce(scores[:, :list_size], scores[:, list_size:], lengths)

    def catalogue_list_losses(self, users: Tensor, items: Tensor, lengths: Tensor, exclude: object) -> Tensor:
        """[n] the losses of lists [n, K] above all other items but those of `exclude`, by row."""
        return catalogue_plackett_luce(self.user_vectors(users), self.item_table, items, lengths, exclude)

    @torch.no_grad()
    def best_items(self, users: Tensor, k: int, exclude: CSR | None = None) -> InnerProductTopK:
        """The k best items of users [B] int64, the same ones on all ranks, each of which ranks its own items."""
        vectors, table = self.user_vectors(users), self.item_table
        table.reading(None)
        return distributed_inner_product_topk(
            vectors, table.rows, k, exclude, first_item=table.own.start, group=table.ranks.group
        )

    def loss(self, batch: Batch) -> Tensor:
        """BPR over the batch's pairs, summed; pairs whose negative is -1 do not count."""
        scores = self.score(batch.users, batch.listed("ShardedFactorization"))
        positive, negative = scores[:, :1], scores[:, 1:]
        return functional.bayesian_personalized_ranking(positive.expand_as(negative), negative)
