"""A table of vectors whose rows are divided among ranks: looked up, and scored, by ids of the whole table."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rankdistill.ops import checks
from rankdistill.sharded.exchange import Ranks
from rankdistill.sharded.layout import Layout, normal_rows


class ShardedTable(nn.Module):
    """This rank's rows of a table [N, D] that no rank holds whole.

    All ranks of the group make it, and make the same calls in the same order; each gives ids of its own batch, which
    may be empty. A loss is summed over ranks: what a rank's own rows contribute to it comes back in their
    gradient, whoever read them. So every rank calls `backward` too, on losses of the same calls.

    Args:
        rows: [n, D] float: this rank's rows, after those of lower ranks. n may differ and may be 0.
        sparse_grad: whether the gradient of `rows` is sparse where a few are read, for a lazy optimiser.
        group: a torch.distributed group whose backend carries tensors of this device; None for all ranks.

    Attributes:
        rows: the parameter [n, D]; `layout`: which ids they are; `ranks`: the group, which counts the bytes it sends.
        before_reading: called as before_reading(rows, positions) before rows are read (None: all of them), where a
            lazy optimiser has decay to catch up.
        differ: the names of what is not the same on all ranks.

    Raises:
        TypeError, ValueError: no float table; ranks whose D, dtype or sparse_grad differ.
        ConnectionError: on all other ranks, where one failed, ended or did not answer within the group's time-out.

    Example:
        >>> table = ShardedTable(torch.tensor([[1.0], [2.0], [3.0]]))  # on one process: all rows
        >>> table.lookup(torch.tensor([[2, 0]])).flatten().detach()
        tensor([3., 1.])
    """

    before_reading: Callable[[Tensor, Tensor | None], None] | None = None
    differ: ClassVar[frozenset[str]] = frozenset({"rows"})

    def __init__(
        self, rows: Tensor, sparse_grad: bool = False, group: dist.ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.ranks = Ranks("ShardedTable", group)
        with self.ranks.together(rows.device if isinstance(rows, Tensor) else "cpu"):
            checks.expect_tensor("ShardedTable", "rows", rows, 2)
        told = self.ranks.same(
            {"rows": len(rows)}, width=rows.shape[1], dtype=str(rows.dtype), sparse_grad=bool(sparse_grad)
        )
        starts = [0]
        for length in (facts["rows"] for facts in told):
            starts.append(starts[-1] + length)
        self.layout = Layout(tuple(starts))
        self.rows = nn.Parameter(rows.detach())
        self.sparse_grad = bool(sparse_grad)

    @classmethod
    def normal(
        cls,
        n_rows: int,
        width: int,
        generator: torch.Generator,
        std: float = 0.01,
        *,
        layout: Layout | None = None,
        device: torch.device | str = "cpu",
        sparse_grad: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> ShardedTable:
        """This rank's rows of torch.randn(n_rows, width, generator=generator)·std, bit for bit, without the others.

        Args:
            n_rows, width: N and D.
            generator: of the CPU, in the same state on all ranks; it ends as if it had drawn the whole table.
            std: the standard deviation.
            layout: which rank owns what; None for `Layout.even`.
            device: of the rows, which the CPU draws.
            sparse_grad, group: as for the class.

        Raises:
            ValueError: ranks that disagree about the size, the layout, the deviation or the generator's state.

        Cost:
            O(N·D) time, O(n·D) memory.
        """
        ranks = Ranks("ShardedTable", group)
        with ranks.together(device):
            layout = layout or Layout.even(n_rows, ranks.size)
            state = zlib.crc32(generator.get_state().numpy().tobytes())
        ranks.same(n_rows=n_rows, width=width, std=std, layout=layout.starts, generator=state)
        if (layout.n_rows, layout.ranks) != (n_rows, ranks.size):
            raise ValueError(
                f"ShardedTable: expected a layout of {n_rows} rows on {ranks.size} ranks; got {layout.starts}"
            )
        rows = normal_rows(n_rows, width, layout.rows(ranks.rank), generator, std)
        return cls(rows.to(device), sparse_grad, group)

    @property
    def n_rows(self) -> int:
        return self.layout.n_rows

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    @property
    def own(self) -> range:
        """The ids of this rank's rows."""
        return self.layout.rows(self.ranks.rank)

    def extra_repr(self) -> str:
        return f"{self.n_rows} × {self.width}, rows {self.own.start} to {self.own.stop} here"

    def lookup(self, ids: Tensor) -> Tensor:
        """[..., D] the rows of ids [...] int64 in [0, N), in any order and with repeats, whoever owns them.

        An id out of range on one rank is an IndexError there and a ConnectionError on the others. A rank sends and
        gets 4 bytes for each distinct id of others' rows and D numbers, once in the forward and once in the backward.
        """
        rows, positions = self.distinct(ids, "ShardedTable.lookup", least=0)
        return nn.functional.embedding(positions, rows)

    def distinct(
        self,
        ids: Tensor,
        call: str,
        least: int = -1,
        check: Callable[[], None] | None = None,
        **inputs: object,
    ) -> tuple[Tensor, Tensor]:
        """The rows [M, D] of the distinct ids, ascending, and where in them each of `ids` is; -1 for an id of -1.

        call: what all ranks are to call, and whom errors speak of; check: the caller's own checks of the ids; inputs:
        whose gradients all ranks are to want, or none, as in `Ranks.agreed`.
        """

        def prepare():
            if check is None:
                check_range(call, "ids", ids, least, self.n_rows, self.rows)
            else:
                check()
            unique, positions = torch.unique(ids, return_inverse=True)
            absent = int((unique[:1] < 0).sum())
            unique = unique[absent:]
            owners = self.layout.owners(unique)
            wanted = self.layout.within(unique, owners)
            return (wanted, positions - absent), counts_of(owners, self.ranks.size)

        (wanted, positions), told = self.ranks.agreed(
            call, prepare, self.rows.device, rows=self.rows, **inputs
        )
        mine, theirs = told[self.ranks.rank], [row[self.ranks.rank] for row in told]
        return self.ranks.exchange(self.read(self.ranks.moved(wanted, mine, theirs)), theirs, mine), positions

    def read(self, positions: Tensor) -> Tensor:
        """Own rows by position, with repeats."""
        positions = positions.long()
        self.reading(positions)
        return nn.functional.embedding(positions, self.rows, sparse=self.sparse_grad)

    def reading(self, positions: Tensor | None) -> None:
        """To be called with the positions of own rows that are about to be read; None for all."""
        if self.before_reading is not None:
            self.before_reading(self.rows, positions)


class ReplicatedTable(nn.Module):
    """A table [N, D] that every rank holds whole, looked up as a `ShardedTable` is.

    The gradient of `rows` is the same on all ranks, bit for bit: that of the sum of their losses. So the same steps
    keep the copies equal.

    Args:
        rows: [N, D] float, the same on all ranks.
        sparse_grad, group: as for `ShardedTable`.

    Raises:
        TypeError, ValueError: no float table; ranks whose rows, dtype or sparse_grad differ.
        ConnectionError: on all other ranks, where one failed, ended or did not answer within the group's time-out.

    Cost:
        A lookup sends B ids of 8 bytes to every other rank, its backward B·D numbers.

    Example:
        >>> table = ReplicatedTable(torch.tensor([[1.0], [2.0], [3.0]]))
        >>> table.lookup(torch.tensor([[2, 0]])).flatten().detach()
        tensor([3., 1.])
    """

    before_reading: Callable[[Tensor, Tensor | None], None] | None = None

    def __init__(
        self, rows: Tensor, sparse_grad: bool = False, group: dist.ProcessGroup | None = None
    ) -> None:
        super().__init__()
        self.ranks = Ranks("ReplicatedTable", group)
        with self.ranks.together(rows.device if isinstance(rows, Tensor) else "cpu"):
            checks.expect_tensor("ReplicatedTable", "rows", rows, 2)
        self.ranks.same(
            shape=tuple(rows.shape),
            dtype=str(rows.dtype),
            sparse_grad=bool(sparse_grad),
            sum_of_rows=str(rows.sum(dtype=torch.float64).item()),
        )
        self.rows = nn.Parameter(rows.detach())
        self.sparse_grad = bool(sparse_grad)

    @property
    def n_rows(self) -> int:
        return self.rows.shape[0]

    @property
    def width(self) -> int:
        return self.rows.shape[1]

    def lookup(self, ids: Tensor) -> Tensor:
        """[..., D] the rows of ids [...] int64 in [0, N)."""
        op = "ReplicatedTable.lookup"

        def prepare():
            check_range(op, "ids", ids, 0, self.n_rows, self.rows)
            return None, [ids.numel()]

        _, told = self.ranks.agreed(op, prepare, self.rows.device, rows=self.rows)
        sizes = [row[0] for row in told]
        everyone = self.ranks.of_all(ids.flatten(), sizes)
        if self.before_reading is not None:
            self.before_reading(self.rows, everyone)
        rows = nn.functional.embedding(everyone, self.rows, sparse=self.sparse_grad)
        if self.ranks.size > 1:
            rows = _Own.apply(rows, self.ranks, tuple(sizes))
        return rows.view(*ids.shape, self.width)


class _Own(torch.autograd.Function):
    """Of every rank's rows, by rank, this one's; the gradients of all come together in the backward."""

    @staticmethod
    def forward(ctx, rows, ranks, sizes):
        ctx.ranks, ctx.sizes = ranks, sizes
        first = sum(sizes[: ranks.rank])
        return rows[first : first + sizes[ranks.rank]].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return ctx.ranks.of_all(grad, ctx.sizes), None, None


def summed_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model whose gradients after a backward are those of the sum of all ranks' losses already.

    Whoever adds up gradients over ranks (`parallel.reduce_gradients`) leaves them out: rows of sharded tables, and of
    replicated ones.

    Args:
        model: with sharded or replicated tables among its modules; without, there are none.

    Example:
        >>> len(summed_parameters(ShardedFactorization(3, 5, width=2)))
        2
    """
    tables = (m for m in model.modules() if isinstance(m, (ShardedTable, ReplicatedTable)))
    return [table.rows for table in tables]


def counts_of(owners: Tensor, ranks: int) -> list[int]:
    """How many of `owners` are each rank."""
    return torch.bincount(owners, minlength=ranks).tolist()


def check_range(op: str, name: str, ids: object, low: int, high: int, rows: Tensor) -> None:
    """An error unless `ids` are int64 in [low, high) on the device of `rows`, whatever it is."""
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        raise TypeError(f"{op}: expected {name} as an int64 tensor; got {checks.describe(ids)}")
    checks.expect(ids.device == rows.device, op, f"{name} on {rows.device}, as the table", ids)
    if ids.is_cuda and (not ids.numel() or bool((ids.amin() >= low) & (ids.amax() < high))):
        return
    checks.check_indices(op, name, ids.cpu().contiguous(), low, high)
