"""What ranks send each other: agreement on sizes first, then rows, whose gradients go the way back."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from rankdistill.rankings.distributed import Processes

Made = TypeVar("Made")


class Ranks(Processes):
    """The ranks that share tables.

    bytes_sent: what this rank has sent to others since it was made, gradients and agreements included.

    Args:
        op: whom errors speak of.
        group: a torch.distributed group; None for all ranks, or for this one alone where there are no others.
    """

    members = "ranks"
    bytes_sent = 0

    def agreed(
        self,
        op: str,
        prepare: Callable[[], tuple[Made, Sequence[int]]],
        device: torch.device,
        **inputs: object,
    ) -> tuple[Made, list[list[int]]]:
        """What `prepare` makes here, and its numbers of every rank, by rank: 2·W + 4 at most.

        Where it fails on one rank, where ranks call different ops, or where only some of them want gradients of one of
        the inputs (and would wait in a backward for the others), that is an error on all of them.
        """
        wanted = [name for name, t in inputs.items() if isinstance(t, Tensor) and t.requires_grad]
        call = op + (f" with gradients of {', '.join(wanted)}" if wanted and torch.is_grad_enabled() else "")
        room, code = 2 * self.size + 5, zlib.crc32(call.encode())
        try:
            made, numbers = prepare()
        except Exception as failure:
            self.agree(code, failure=failure, device=device, room=room)
            raise
        told = self.agree(code, *numbers, device=device, room=room)
        if any(row[0] != code for row in told):
            named = self.share(call)
            rank = next(r for r, name in enumerate(named) if name != call)
            raise ValueError(f"{call}: expected every rank to call it; got {named[rank]} on rank {rank}")
        return made, [row[1:] for row in told]

    def exchange(self, rows: Tensor, sent: Sequence[int], got: Sequence[int]) -> Tensor:
        """Rows in the order of the ranks that get them → those that came, in the order of the ranks that sent them.

        The gradient's rows travel back in the backward: all ranks call it, or none.

        Args:
            rows: [Σ sent, ...], the first sent[0] for rank 0 and so on.
            sent, got: how many rows go to, and come from, every rank.
        """
        if self.size == 1:
            return rows
        return _Exchange.apply(rows, self, tuple(sent), tuple(got))

    def of_all(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """[Σ sizes, ...] every rank's rows, by rank; the gradients of a rank's rows are added up in the order of ranks."""
        if self.size == 1:
            return rows
        copies = rows.expand(self.size, *rows.shape).flatten(0, 1)
        return self.exchange(copies, [len(rows)] * self.size, sizes)

    def moved(self, rows: Tensor, sent: Sequence[int], got: Sequence[int]) -> Tensor:
        """`exchange` without gradients."""
        if self.size == 1:
            return rows
        rows = rows.contiguous()
        out = rows.new_empty((sum(got), *rows.shape[1:]))
        self.bytes_sent += (sum(sent) - sent[self.rank]) * rows[:1].numel() * rows.itemsize
        with self.connected():
            dist.all_to_all_single(out, rows, list(got), list(sent), group=self.group)
        return out

    def add_up(self, numbers: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            self.bytes_sent += 2 * (self.size - 1) * numbers.numel() * numbers.itemsize // self.size
            with self.connected():
                dist.all_reduce(numbers, group=self.group)
        return numbers

    def gather(self, whole: Tensor, mine: Tensor) -> None:
        self.bytes_sent += (self.size - 1) * mine.numel() * mine.itemsize
        super().gather(whole, mine)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, ranks, sent, got):
        ctx.ranks, ctx.sent, ctx.got = ranks, sent, got
        return ranks.moved(rows, sent, got)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return ctx.ranks.moved(grad, ctx.got, ctx.sent), None, None, None
