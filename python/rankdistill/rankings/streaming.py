"""The exact top k of users × items where the items pass by in blocks and the users in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.ops import checks, inner_product_topk
from rankdistill.ops.native import accumulator_dtype
from rankdistill.ops.prepared_items import PreparedItems, prepare_items
from rankdistill.rankings.plan import Plan
from rankdistill.rankings.tables import Table

LARGEST_ITEM = 2**31 - 1


def expect_tables(
    op: str, users: Table, items: Table, k: int, exclude: CSR | None, item_bias: Tensor | None
) -> tuple[int, int]:
    """Users and items that fit each other and the rest; returns U and N."""
    U, N = len(users), len(items)
    checks.expect(
        items.shape[1] == users.shape[1], op, f"items of width {users.shape[1]}, as users", repr(items)
    )
    if items.dtype != users.dtype:
        raise TypeError(f"{op}: expected items with the dtype of users ({users.dtype}); got {items!r}")
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"{op}: expected k as an int; got {checks.describe(k)}")
    checks.expect(k >= 0, op, "k of 0 or more", k)
    checks.expect(N <= LARGEST_ITEM, op, "fewer than 2^31 items", repr(items))
    if exclude is not None:
        if not isinstance(exclude, CSR):
            raise TypeError(f"{op}: expected exclude as a CSR; got {checks.describe(exclude)}")
        got = f"{exclude.n_rows} × {exclude.n_columns}"
        checks.expect(got == f"{U} × {N}", op, f"exclude of {U} users × {N} items", got)
    if item_bias is not None:
        checks.expect(len(item_bias) == N, op, f"item_bias of {N} entries, as items", item_bias)
        if item_bias.dtype != items.dtype:
            raise TypeError(
                f"{op}: expected item_bias with the dtype of items ({items.dtype}); got {checks.describe(item_bias)}"
            )
    return U, N


class Lists(NamedTuple):
    """Ranked lists of some users: scores [B, K] and indices [B, K], (-inf, -1) behind the last item."""

    scores: Tensor
    indices: Tensor


def merge_lists(parts: Sequence[Lists], k: int) -> Lists:
    """The best k of several lists per user, in the contract's order.

    Every item of a part stands before all items of later parts by index: then a stable sort by score is the order.
    """
    scores = torch.cat([part.scores for part in parts], dim=1)
    indices = torch.cat([part.indices for part in parts], dim=1)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return Lists(scores[:, :k], indices.gather(1, order[:, :k]))


class Step(NamedTuple):
    """Some users of a pass against a block of items."""

    users: range
    items: range
    is_last_block: bool
    ends_pass: bool


class Steps:
    """The order of an extraction: passes; in each the blocks of items; in each the users of the pass, by calls.

    So the item table is read once per pass. `len` is known, so that a progress bar can tell the time left.
    """

    def __init__(self, passes: Sequence[range], items: range, plan: Plan) -> None:
        self.passes, self.plan = passes, plan
        size = plan.items_per_block
        self.blocks = [range(n, min(n + size, items.stop)) for n in range(items.start, items.stop, size)] or [
            items
        ]

    def __len__(self) -> int:
        calls = sum(-(-len(users) // self.plan.users_per_call) for users in self.passes)
        return calls * len(self.blocks)

    def __iter__(self) -> Iterator[Step]:
        size = self.plan.users_per_call
        for users in self.passes:
            for block in self.blocks:
                last = block is self.blocks[-1]
                for u in range(users.start, users.stop, size):
                    call = range(u, min(u + size, users.stop))
                    yield Step(call, block, last, last and call.stop == users.stop)


class Streaming:
    """Ranks users against blocks of items, and keeps the lists of a pass until its last block.

    Args:
        users, items: of one dtype and width; `items` is in place where `steps` has one block.
        k: list length.
        exclude: of all users and items, or None.
        item_bias: of all items, or None.
        steps: what will be asked for, in this order.
        device: where users are ranked, to which both tables go by blocks and calls; None for that of the items.
    """

    def __init__(
        self,
        users: Table,
        items: Table,
        k: int,
        exclude: CSR | None,
        item_bias: Tensor | None,
        steps: Steps,
        device: torch.device | None = None,
    ) -> None:
        self.users, self.items, self.k, self.exclude, self.item_bias = users, items, k, exclude, item_bias
        self.steps, self.device = steps, items.device if device is None else device
        self._block: range | None = None
        self._vectors: Tensor | PreparedItems | None = None
        self._bias: Tensor | None = None  # of the block's items, unless these were prepared with it
        self._buffer: Tensor | None = None
        self._lists: Lists | None = None
        self._pass_start = 0
        if len(steps.blocks) > 1:
            most = max((len(p) for p in steps.passes), default=0)
            self._lists = Lists(
                torch.empty((most, k), dtype=accumulator_dtype(items.dtype)),
                torch.empty((most, k), dtype=torch.int32),
            )

    def rank(self, step: Step) -> Lists | None:
        """The users' final lists after the last block, else None."""
        if step.items is not self._block:
            self._load(step)
        self.items.expect_size()  # its rows may be views of a file
        users = self.users.rows(step.users.start, step.users.stop).to(self.device)
        exclude = None
        if self.exclude is not None:
            exclude = self.exclude.window(step.users, step.items).to(users.device)
        found = inner_product_topk(users, self._vectors, self.k, exclude, self._bias)
        self.users.drop(step.users.start, step.users.stop)
        if step.items.start:
            found.indices.add_(step.items.start).masked_fill_(found.scores == -torch.inf, -1)
        lists = Lists(found.scores, found.indices)
        if self._lists is None:
            return Lists(*(part.cpu() for part in lists))
        rows = slice(step.users.start - self._pass_start, step.users.stop - self._pass_start)
        kept = Lists(*(part[rows] for part in self._lists))
        if step.items is not self.steps.blocks[0]:
            earlier = Lists(*(part.to(self.device) for part in kept))
            lists = merge_lists([earlier, Lists(lists.scores, lists.indices.int())], self.k)
        if step.is_last_block:
            return Lists(*(part.cpu() for part in lists))
        for part, values in zip(kept, lists):
            part.copy_(values)
        return None

    def _load(self, step: Step) -> None:
        block = step.items
        if block is self.steps.blocks[0]:
            self._pass_start = step.users.start
        self._vectors = None  # frees what was prepared
        if len(self.steps.blocks) == 1 and self.device == self.items.device:
            self._vectors = self.items.rows(block.start, block.stop)
        else:
            # A copy stays in memory while all users of the pass go by; mapped pages might not.
            if self._buffer is None:
                rows = max(map(len, self.steps.blocks))
                self._buffer = torch.empty(
                    (rows, self.items.shape[1]), dtype=self.items.dtype, device=self.device
                )
            self._vectors = self._buffer[: len(block)]
            self.items.copy_rows(block, self._vectors)
        if self.item_bias is not None:
            self._bias = self.item_bias[block.start : block.stop].to(self.device)
        if self.steps.plan.prepares:
            self._vectors, self._bias = prepare_items(self._vectors, self._bias), None
        self._block = block
