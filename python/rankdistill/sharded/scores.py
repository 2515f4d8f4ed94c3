"""Scores of listed items whose rows other ranks own: whichever of rows and scores is less to send."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rankdistill import ops
from rankdistill.ops import checks
from rankdistill.ops.embedding_plackett_luce import without_padding
from rankdistill.ops.prepared_items import checked_bias
from rankdistill.sharded.routes import Entries, Route
from rankdistill.sharded.table import ShardedTable, check_range

Check = Callable[[], None]


def check_users(op: str, users: Tensor, table: ShardedTable, item_bias: Tensor | None) -> None:
    checks.expect_tensor(op, "users", users, 2)
    checks.expect_same(op, "table", table.rows, "users", users)
    checks.expect(users.shape[1] == table.width, op, f"users of width {table.width}, as the table", users)
    checked_bias(op, table.rows, item_bias)


def as_called(op: str, exclude: object = None, item_bias: Tensor | None = None) -> str:
    """What all ranks are to call: with exclusions and biases, or without."""
    return (
        op
        + (" with exclude" if exclude is not None else "")
        + (" with biases" if item_bias is not None else "")
    )


def gathered_inner_product(
    users: Tensor, table: ShardedTable, item_ids: Tensor, item_bias: Tensor | None = None
) -> Tensor:
    """`rankdistill.gathered_inner_product` of this rank's users with items whose rows are divided among ranks.

    scores[b, k] = <users[b], table[item_ids[b, k]]> + bias[item_ids[b, k]]

    Args:
        users: [B, D] float, of the table's dtype: this rank's batch; B may differ between ranks and be 0.
        table: the items.
        item_ids: [B, K] int64 in [-1, N), K the same on all ranks; -1 scores -inf.
        item_bias: [n], of this rank's items; None on all ranks adds nothing.

    Returns:
        [B, K] float32 (float64 for float64 tables), with gradients to users, rows and biases.

    Contract:
        Values have the bits of one rank's. Gradients of a row are summed per rank, then over ranks in their order.

    Raises:
        TypeError, ValueError, IndexError: as the op; on the other ranks a ConnectionError that quotes it.

    Cost:
        O(B·K·D) time. Lists of K ≤ W items, without biases, fetch the distinct rows; longer ones send their users to
        all ranks and get scores back: DESIGN.md SH-3.

    Example:
        >>> table = ShardedTable(torch.tensor([[1.0], [2.0], [3.0]]))
        >>> gathered_inner_product(torch.tensor([[2.0]]), table, torch.tensor([[2, -1, 0]])).detach()
        tensor([[6., -inf, 2.]])
    """
    return listed_scores("gathered_inner_product", users, table, item_ids, item_bias)


def listed_scores(
    op: str,
    users: Tensor,
    table: ShardedTable,
    item_ids: Tensor,
    item_bias: Tensor | None = None,
    check: Check | None = None,
) -> Tensor:
    """`gathered_inner_product` in the name of `op`, with its further checks, whose errors are errors on all ranks."""

    def checked() -> None:
        check_users(op, users, table, item_bias)
        check_range(op, "item_ids", item_ids, -1, table.n_rows, table.rows)
        checks.expect(item_ids.dim() == 2, op, "item_ids with 2 dimensions", item_ids)
        checks.expect(len(item_ids) == len(users), op, f"item_ids with {len(users)} rows, as users", item_ids)
        if check is not None:
            check()

    listed = item_ids.shape[-1] if isinstance(item_ids, Tensor) and item_ids.dim() else 0
    call = as_called(f"{op} of {listed} items a row", None, item_bias)
    rows_cost_less = listed <= table.ranks.size and item_bias is None
    by = scores_by_rows if rows_cost_less else scores_by_owners
    return by(call, users, table, item_ids, item_bias, checked)


def scores_by_rows(call, users, table, item_ids, item_bias, check: Check) -> Tensor:
    rows, positions = table.distinct(item_ids, call, check=check, users=users)
    return ops.gathered_inner_product(users, rows, positions)


def scores_by_owners(call, users, table, item_ids, item_bias, check: Check) -> Tensor:
    ranks = table.ranks

    def prepare():
        check()
        route = Route.of_lists(table.layout, item_ids)
        return route, [len(users), *route.totals]

    route, told = ranks.agreed(
        call, prepare, table.rows.device, users=users, rows=table.rows, biases=item_bias
    )
    sizes, coming = [row[0] for row in told], [row[1 + ranks.rank] for row in told]
    everyone = ranks.of_all(users, sizes)
    entries = route.send(ranks, sizes, coming)
    return scores_at_owners(everyone, table, route, entries, coming, table.sparse_grad, item_ids, item_bias)


def scores_at_owners(
    everyone: Tensor,
    table: ShardedTable,
    route: Route,
    entries: Entries,
    coming: list[int],
    sparse_grad: bool,
    item_ids: Tensor,
    item_bias: Tensor | None,
) -> Tensor:
    """[B, K] scores of this rank's lists, from their items' owners, who score the entries of everyone's rows."""
    padded, counted = entries.padded()
    table.reading(padded)
    own = ops.gathered_inner_product(
        everyone, table.rows, padded, item_bias=item_bias, sparse_grad=sparse_grad
    )
    back = table.ranks.exchange(own[counted], coming, route.totals)
    places = (item_ids >= 0).flatten().nonzero()[:, 0][route.order]
    scores = back.new_full((item_ids.numel(),), -torch.inf)
    return scores.index_copy(0, places, back).view(item_ids.shape)


def embedding_plackett_luce(
    users: Tensor,
    table: ShardedTable,
    item_ids: Tensor,
    list_size: int,
    lengths: Tensor | None = None,
    item_bias: Tensor | None = None,
) -> Tensor:
    """`rankdistill.embedding_plackett_luce` of this rank's users and lists, with items divided among ranks.

    Args:
        users, table, item_bias: as in `gathered_inner_product`.
        item_ids: [B, K + L] int64: the list in order, then the tail; -1 in the tail is no item.
        list_size: K.
        lengths: [B] int64 in [0, K], how many of each list count; None for all.

    Returns:
        losses [B], of this rank's rows: the whole batch's loss is the sum over ranks.

    Raises:
        TypeError, ValueError, IndexError: as the op; on the other ranks a ConnectionError that quotes it.

    Cost:
        O(B·(K + L)·D) time; bytes as in `gathered_inner_product`, of K + L items.

    Example:
        >>> table = ShardedTable(torch.ones(3, 2))
        >>> embedding_plackett_luce(torch.zeros(1, 2), table, torch.tensor([[0, 1]]), list_size=1).detach()
        tensor([0.6931])
    """
    op = "embedding_plackett_luce"

    def check() -> None:
        listed = item_ids.shape[1]
        checks.expect(
            0 <= list_size <= listed, op, f"list_size in [0, {listed}], the columns of item_ids", list_size
        )
        check_listed(op, item_ids[:, :list_size], lengths)

    # What stands past a list's length touches no row; a list that is none is told by the checks.
    if lists_are_sound(item_ids, lengths):
        item_ids = without_padding(item_ids, lengths, list_size)
    scores = listed_scores(op, users, table, item_ids, item_bias, check)
    return ops.plackett_luce(scores[:, :list_size], scores[:, list_size:], lengths)


def lists_are_sound(item_ids: object, lengths: object) -> bool:
    tensors = all(isinstance(given, Tensor) and given.dtype == torch.int64 for given in (item_ids, lengths))
    same = tensors and lengths.device == item_ids.device
    return same and item_ids.dim() == 2 and lengths.shape == item_ids.shape[:1]


def check_listed(op: str, item_ids: Tensor, lengths: Tensor | None) -> None:
    """An error for lengths that are not those of lists [B, K], and for a -1 within a list."""
    B, K = item_ids.shape
    absent = item_ids < 0
    if lengths is not None:
        check_range(op, "lengths", lengths, 0, K + 1, item_ids)
        checks.expect(lengths.shape == (B,), op, f"{B} lengths, as item_ids has rows", lengths)
        absent = absent & (torch.arange(K, device=absent.device) < lengths[:, None])
    if bool(absent.any()):
        b, k = absent.nonzero()[0].tolist()
        raise IndexError(f"{op}: expected listed item_ids of 0 or more; got -1 at position [{b}, {k}]")
