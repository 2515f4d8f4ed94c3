"""Graphs among users or among items, from the interactions that they share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rankdistill.data.csr import CSR

PAIRS_PER_BLOCK = 1 << 24


def co_occurrence_graph(
    interactions: CSR, k: int = 5, values: Tensor | None = None, leave_out: str = "first"
) -> Tensor:
    """The graph that joins every row to the rows it shares most columns with, symmetrically normalised.

    C = R Rᵀ; row i is joined to its k largest C_ij, but for itself; G = (E + Eᵀ)/2 of the 0/1 edges E, and the result
    is D^{-1/2} G D^{-1/2} with D the row sums of G.

    Args:
        interactions: [R, n_columns], the items of every user, or the users of every item.
        k: edges from each row, fewer where it shares columns with fewer rows.
        values: [nnz] positive weights of the interactions; None: 1.
        leave_out: "first" leaves out the largest of k + 1, as the released code, which takes it for the row itself;
            "self" leaves out the row itself. They differ where another row shares more.

    Returns:
        A torch.sparse_csr tensor [R, R] float32; equal weights go to the lower row.

    Cost:
        O(pairs of entries that share a column) time, blocks of rows of 2^24 such pairs in memory.

    Source:
        Zhu and Zhang, A Frequency Perspective, KDD 2025, and its released code.

    Example:
        >>> from rankdistill.data import CSR
        >>> likes = CSR.from_pairs(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), n_rows=2, n_columns=2)
        >>> co_occurrence_graph(likes, k=1, leave_out="self").to_dense()
        tensor([[0., 1.],
                [1., 0.]])
    """
    if k < 0:
        raise ValueError(f"co_occurrence_graph: expected k of 0 or more; got {k}")
    if leave_out not in ("first", "self"):
        raise ValueError(f"co_occurrence_graph: expected leave_out first or self; got {leave_out!r}")
    R, indptr = interactions.n_rows, interactions.indptr
    values = torch.ones(len(interactions.indices)) if values is None else values.float()
    rows = interactions.pairs()[0]
    entries = torch.stack([rows, interactions.indices])
    transposed = sparse(entries.flip(0), values, (interactions.n_columns, R)).coalesce()
    popularity = torch.bincount(interactions.indices, minlength=interactions.n_columns)
    pairs = torch.zeros(R, dtype=torch.int64).index_add_(0, rows, popularity[interactions.indices]).cumsum(0)
    edges = []
    start = 0
    while start < R:
        done = int(pairs[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(pairs, done + PAIRS_PER_BLOCK, right=True)))
        own = slice(int(indptr[start]), int(indptr[stop]))
        local = torch.stack([rows[own] - start, interactions.indices[own]])
        block = sparse(local, values[own], (stop - start, interactions.n_columns))
        with without_beta_warning():
            shared = torch.sparse.mm(block, transposed).coalesce()
        edges.append(strongest(shared, start, k, leave_out))
        start = stop
    sources, targets = torch.cat(edges, 1) if edges else torch.empty((2, 0), dtype=torch.int64)
    both = torch.stack([torch.cat([sources, targets]), torch.cat([targets, sources])])
    graph = sparse(both, torch.full((both.shape[1],), 0.5), (R, R)).coalesce()
    (i, j), weights = graph.indices(), graph.values()
    degrees = torch.zeros(R).index_add_(0, i, weights)
    normal = weights * degrees[i].rsqrt() * degrees[j].rsqrt()
    with without_beta_warning():
        return sparse(graph.indices(), normal, (R, R)).coalesce().to_sparse_csr()


def sparse(entries: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A COO tensor of entries that are within it; torch warns where it is not told whether to look."""
    return torch.sparse_coo_tensor(entries, values, size, check_invariants=False)


@contextmanager
def without_beta_warning() -> Iterator[None]:
    """torch warns of its CSR tensors, on a CPU in products of COO tensors too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        yield


def strongest(shared: Tensor, first_row: int, k: int, leave_out: str) -> Tensor:
    """[2, n] edges from each row of a block of R Rᵀ to its k largest entries."""
    rows, columns = shared.indices()
    values = shared.values()
    if leave_out == "self":
        others = rows + first_row != columns
        rows, columns, values = rows[others], columns[others], values[others]
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]
    rows, columns = rows[order], columns[order]
    counts = torch.bincount(rows, minlength=shared.shape[0])
    places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    skipped = 1 if leave_out == "first" else 0
    kept = (places >= skipped) & (places < k + skipped)
    return torch.stack([rows[kept] + first_row, columns[kept]])
