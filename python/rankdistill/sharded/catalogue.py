"""What runs over all items, each rank over its own: log-masses that are joined, and lists that are merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankdistill import functional, ops
from rankdistill.ops import checks
from rankdistill.ops.exclusions import check_exclusions_anywhere, exclusion_lists
from rankdistill.ops.inner_product_topk import InnerProductTopK
from rankdistill.rankings.streaming import Lists, merge_lists
from rankdistill.reference.catalogue_plackett_luce import joined_exclusions, listed_items
from rankdistill.sharded.routes import Route
from rankdistill.sharded.scores import as_called, check_listed, check_users, scores_at_owners
from rankdistill.sharded.table import ShardedTable, check_range


@dataclass(frozen=True)
class Everyone:
    """All ranks' rows at this rank: users [Σ B, D], B of every rank, and what each row excludes of this rank's items."""

    users: Tensor
    sizes: list[int]
    exclude: tuple[Tensor, Tensor] | None


def excluded_route(op: str, table: ShardedTable, exclude: object, users: Tensor) -> Route:
    indptr, indices = exclusion_lists(op, exclude, users)
    if indptr is None:
        indptr, indices = (
            torch.zeros(n, dtype=torch.int64, device=users.device) for n in (len(users) + 1, 0)
        )
    check_exclusions_anywhere(op, indptr, indices, table.n_rows)
    return Route.of_csr(table.layout, indptr, indices)


def gathered(
    op: str, users: Tensor, table: ShardedTable, exclude: object, item_bias: Tensor | None
) -> Everyone:
    """Users of all ranks, and those of their exclusions that are this rank's items. All ranks exclude, or none does."""
    ranks = table.ranks
    call = as_called(op, exclude, item_bias)

    def prepare():
        check_users(op, users, table, item_bias)
        route = excluded_route(op, table, exclude, users)
        return route, [len(users), *route.totals]

    route, told = ranks.agreed(
        call, prepare, table.rows.device, users=users, rows=table.rows, biases=item_bias
    )
    sizes, coming = [row[0] for row in told], [row[1 + ranks.rank] for row in told]
    everyone = ranks.of_all(users, sizes)
    if exclude is None:
        return Everyone(everyone, sizes, None)
    entries = route.send(ranks, sizes, coming)
    return Everyone(everyone, sizes, (entries.indptr, entries.positions))


def joined(table: ShardedTable, log_masses: Tensor, sizes: list[int]) -> Tensor:
    """[B] the log-masses of this rank's rows over all items, from those of all ranks' rows over this rank's items."""
    ranks = table.ranks
    B = sizes[ranks.rank]
    parts = ranks.exchange(log_masses, sizes, [B] * ranks.size)
    return functional.joined_log_mass(list(parts.view(ranks.size, B).unbind(0)))


def catalogue_log_mass(
    users: Tensor, table: ShardedTable, exclude: object = None, item_bias: Tensor | None = None
) -> Tensor:
    """`rankdistill.catalogue_log_mass` of this rank's users over items divided among ranks.

    Args:
        users: [B, D] float, of the table's dtype: this rank's batch; B may differ between ranks and be 0.
        table: the items.
        exclude: item ids of a row that do not count, as CSR, in ids of all items; given on all ranks or on none.
        item_bias: [n], of this rank's items; None on all ranks adds nothing.

    Returns:
        log_masses [B], float32 (float64 for float64 tables).

    Raises:
        TypeError, ValueError, IndexError: as the op; on the other ranks a ConnectionError that quotes it.

    Cost:
        O(ΣB·n·D) time, ΣB over ranks. A rank sends D + 1 numbers per row to every other rank and 4 bytes per excluded
        item and row, and as many numbers in the backward.

    Example:
        >>> table = ShardedTable(torch.ones(4, 2))
        >>> catalogue_log_mass(torch.zeros(1, 2), table, (torch.tensor([0, 1]), torch.tensor([2]))).detach()  # log 3
        tensor([1.0986])
    """
    everyone = gathered("catalogue_log_mass", users, table, exclude, item_bias)
    table.reading(None)
    log_masses = ops.catalogue_log_mass(everyone.users, table.rows, everyone.exclude, item_bias)
    return joined(table, log_masses, everyone.sizes)


def catalogue_plackett_luce(
    users: Tensor,
    table: ShardedTable,
    item_ids: Tensor,
    lengths: Tensor | None = None,
    exclude: object = None,
    item_bias: Tensor | None = None,
) -> Tensor:
    """`rankdistill.catalogue_plackett_luce` of this rank's users and lists, over items divided among ranks.

    Args:
        users, table, exclude, item_bias: as in `catalogue_log_mass`.
        item_ids: [B, K] int64 in [0, N) within a row's length.
        lengths: [B] int64 in [0, K]; None: those before a row's first -1.

    Returns:
        losses [B], of this rank's rows: the whole batch's loss is the sum over ranks.

    Contract:
        As the op: the tail is summed directly, each rank over its own items, and joined. Gradients of rows are dense and
        of a rank's own rows only.

    Raises:
        TypeError, ValueError, IndexError: as the op; on the other ranks a ConnectionError that quotes it.

    Cost:
        O(ΣB·n·D) time, one product forward and three backward; memory O(ΣB·(K + D)) beside the gradient. A rank
        sends O(B·(K + D)) numbers to every other rank, and 4 bytes per excluded item: never O(B·N). DESIGN.md SH-4.

    Example:
        >>> table = ShardedTable(torch.ones(3, 2))
        >>> catalogue_plackett_luce(torch.zeros(1, 2), table, torch.tensor([[2, 0]])).exp().detach()
        tensor([6.])
    """
    op, ranks = "catalogue_plackett_luce", table.ranks
    call = as_called(op, exclude, item_bias)

    def prepare():
        check_users(op, users, table, item_bias)
        check_range(op, "item_ids", item_ids, -(2**63), 2**63 - 1, table.rows)
        checks.expect(item_ids.dim() == 2, op, "item_ids with 2 dimensions", item_ids)
        checks.expect(len(item_ids) == len(users), op, f"item_ids with {len(users)} rows, as users", item_ids)
        if lengths is not None:
            check_listed(op, item_ids, lengths)
        listed, counts = listed_items(item_ids, lengths)
        check_range(op, "listed item_ids", listed, -1, table.n_rows, table.rows)
        routes = Route.of_lists(table.layout, listed), excluded_route(op, table, exclude, users)
        return (listed, counts, *routes), [len(users), *routes[0].totals, *routes[1].totals]

    (listed, counts, route, excluded), told = ranks.agreed(
        call, prepare, table.rows.device, users=users, rows=table.rows, biases=item_bias
    )
    sizes = [row[0] for row in told]
    coming, to_exclude = ([row[1 + ranks.size * of + ranks.rank] for row in told] for of in (0, 1))
    everyone = ranks.of_all(users, sizes)
    entries = route.send(ranks, sizes, coming)
    indptr = indices = None
    if exclude is not None:
        found = excluded.send(ranks, sizes, to_exclude)
        indptr, indices = found.indptr, found.positions
    out = joined_exclusions(entries.padded()[0], indptr, indices, len(table.rows))
    table.reading(None)
    log_masses = ops.catalogue_log_mass(everyone, table.rows, out, item_bias)
    rest = joined(table, log_masses, sizes)
    # Sparse, and after the masses: autograd adds it to their dense gradient in place, and there is no second table.
    scores = scores_at_owners(everyone, table, route, entries, coming, True, listed, item_bias)
    return ops.plackett_luce(scores, rest[:, None], counts)


@torch.no_grad()
def inner_product_topk(
    users: Tensor, table: ShardedTable, k: int, exclude: object = None, item_bias: Tensor | None = None
) -> InnerProductTopK:
    """The k best items of each of this rank's users among all items, which are divided among ranks.

    Args:
        users, table, exclude, item_bias: as in `catalogue_log_mass`.
        k: length of each list, >= 0, the same on all ranks.

    Returns:
        InnerProductTopK(scores [B, k], indices [B, k] int64, lengths [B] int64) of this rank's users.

    Contract:
        Bit for bit what `rankdistill.inner_product_topk` gives for these users and all items on one rank. For the same
        users on all ranks `distributed_inner_product_topk` sends less.

    Raises:
        TypeError, ValueError, IndexError: as the op; on the other ranks a ConnectionError that quotes it.

    Cost:
        O(ΣB·n·D) time. A rank sends every other rank its users, and for each of that rank's users k entries of 8
        bytes (12 for float64).

    Example:
        >>> table = ShardedTable(torch.tensor([[1., 0.], [0., 1.], [1., 1.]]))
        >>> inner_product_topk(torch.tensor([[1., 2.]]), table, 2)
        InnerProductTopK(scores=tensor([[3., 2.]]), indices=tensor([[2, 1]]), lengths=tensor([2]))
    """
    op, ranks, device = "inner_product_topk", table.ranks, users.device
    with ranks.together(table.rows.device):
        if isinstance(k, bool) or not isinstance(k, int) or k < 0:
            raise TypeError(f"{op}: expected k as an int >= 0; got {checks.describe(k)}")
    everyone = gathered(f"{op} of {k}", users, table, exclude, item_bias)
    table.reading(None)
    found = ops.inner_product_topk(everyone.users, table.rows.detach(), k, everyone.exclude, item_bias)
    B, sizes = len(users), everyone.sizes
    scores, positions = (
        ranks.moved(part, sizes, [B] * ranks.size).view(ranks.size, B, k)
        for part in (found.scores, found.indices.to(torch.int32))
    )
    starts = torch.tensor(table.layout.starts[:-1], device=device)[:, None, None]
    indices = torch.where(positions < 0, -1, positions + starts)
    best = merge_lists([Lists(*part) for part in zip(scores, indices)], k)
    return InnerProductTopK(*best, (best.indices >= 0).sum(1))
