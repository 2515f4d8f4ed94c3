"""Ranking metrics of a model whose tables are divided among ranks: each ranks its own items, lists are merged exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankdistill import ops
from rankdistill.data.csr import CSR
from rankdistill.metrics import CUTOFFS, METRICS, USUAL, expect_cutoffs, ranking_metrics, with_columns
from rankdistill.ops import checks
from rankdistill.ops.prepared_items import prepare_items
from rankdistill.sharded.catalogue import gathered
from rankdistill.sharded.table import ShardedTable


@torch.no_grad()
def evaluate(
    model,
    truth: CSR,
    exclude: CSR,
    cutoffs: Sequence[int] = CUTOFFS,
    metrics: Sequence[str] = USUAL,
    *,
    batch_size: int = 4096,
    seed: int = 0,
) -> dict[str, float]:
    """`rankdistill.metrics.evaluate` of a model whose items (and perhaps users) are divided among ranks.

    Args:
        model: with `user_table` and `item_table`, such as `ShardedFactorization`.
        truth, exclude: [U, N], the same on all ranks; every rank takes its part of the users.
        cutoffs, metrics, seed: as there; of the metrics those that have cut-offs.
        batch_size: users of a rank per step, all of whose vectors come to every rank.

    Returns:
        "name@cutoff" → mean, the same on all ranks.

    Contract:
        The lists are those of one rank under the same seed, ties included; means differ in the order of their sums.

    Raises:
        ValueError: metrics without cut-offs; no user with relevant items; ranks that disagree.

    Cost:
        O(U·n·D) time; memory as the slice of items, once more, and O(N + W·batch_size·max cut-off).

    Example:
        >>> model, likes = ShardedFactorization(3, 5, width=2), torch.tensor([[0, 1, 2], [4, 0, 3]])
        >>> truth = data.CSR.from_pairs(*likes, n_rows=3, n_columns=5)
        >>> evaluate(model, truth, data.CSR.empty(3, 5), [5], ["recall"])["recall@5"]
        1.0
    """
    op, table = "evaluate", model.item_table
    ranks, device = table.ranks, table.rows.device
    users = (truth.counts > 0).nonzero().flatten()
    ranks.same(
        users=len(users), shape=(truth.n_rows, truth.n_columns), entries=len(truth), excluded=len(exclude),
        cutoffs=tuple(cutoffs), metrics=tuple(metrics), batch_size=batch_size, seed=seed,
    )  # fmt: skip
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"{op}: expected metrics of {', '.join(METRICS)}; got {name!r}")
    expect_cutoffs(op, cutoffs)
    checks.expect(len(users) > 0, op, "users with relevant items", "none")
    places = Places(table, seed)
    steps = -(-len(users) // (batch_size * ranks.size))
    totals: dict[str, Tensor] = {}
    for step in range(steps):
        part = users[step * batch_size * ranks.size :][ranks.rank * batch_size :][:batch_size]
        vectors = model.user_vectors(part.to(device))
        best = places.best(vectors, max(cutoffs), exclude.rows(part).to(device))
        found = ranking_metrics(best, truth.rows(part).to(device), cutoffs, metrics)
        for name, values in found.items():
            totals[name] = totals.get(name, 0.0) + values.sum()
    sums = ranks.add_up(torch.stack([*totals.values()]))
    return {name: total / len(users) for name, total in zip(totals, sums.tolist())}


class Places:
    """This rank's items in the order that breaks ties: that of a permutation of all items, drawn from a seed."""

    def __init__(self, table: ShardedTable, seed: int) -> None:
        device, own = table.rows.device, table.own
        self.order = torch.randperm(table.n_rows, generator=torch.Generator().manual_seed(seed))
        self.places = ((self.order >= own.start) & (self.order < own.stop)).nonzero().flatten()
        here = self.order[self.places] - own.start
        self.column = torch.empty_like(here)
        self.column[here] = torch.arange(len(here))
        self.order, self.places, self.column = (t.to(device) for t in (self.order, self.places, self.column))
        self.table = table
        table.reading(None)
        self.items = prepare_items(table.rows.detach()[here.to(device)])

    def best(self, vectors: Tensor, k: int, exclude: CSR) -> Tensor:
        """[B, k] the best items of this rank's users, whose lists all ranks make of their items; -1 for none."""
        table, ranks, B = self.table, self.table.ranks, len(vectors)
        everyone = gathered("evaluate", vectors, table, exclude, None)
        indptr, positions = everyone.exclude
        columns = with_columns(CSR(indptr, positions, len(table.rows)), self.column)
        found = ops.inner_product_topk(everyone.users, self.items, k, columns)
        beyond = torch.full_like(found.indices, table.n_rows)  # the place of no item, behind all others
        if len(self.places):
            beyond = torch.where(found.indices < 0, beyond, self.places[found.indices.clamp_min(0)])
        scores, places = (
            ranks.moved(part, everyone.sizes, [B] * ranks.size)
            .view(ranks.size, B, k)
            .transpose(0, 1)
            .flatten(1)
            for part in (found.scores, beyond)
        )
        places, by_place = places.sort(dim=1)
        by_score = scores.gather(1, by_place).sort(dim=1, descending=True, stable=True).indices[:, :k]
        places = places.gather(1, by_score)
        return torch.where(places == table.n_rows, -1, self.order[places.clamp_max(table.n_rows - 1)])
