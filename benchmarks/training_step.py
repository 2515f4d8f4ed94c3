"""One step of BPR with a list-wise loss, optimiser included, at a million items: what surrounds the loss counts too."""

from __future__ import annotations

import torch
from torch.nn.functional import embedding, softplus

from benchmarks.harness import Options, PerShape, Shape, Work, run
from benchmarks.plackett_luce import shifted_cumsum
from rankdistill import embedding_plackett_luce, gathered_inner_product
from rankdistill.optim import LazyAdam

SHAPES = [
    Shape("1M items", {"B": 1024, "K": 50, "L": 50, "N": 1_000_000, "D": 64}),
    Shape("100k items", {"B": 1024, "K": 50, "L": 50, "N": 100_000, "D": 64}),
    Shape("10k items", {"B": 1024, "K": 50, "L": 50, "N": 10_000, "D": 64}),
]
RATE = 1e-3


def prepare(shape: Shape) -> tuple:
    """Tables of as many users as items; a batch of users, each with an item, a negative and a list."""
    generator = torch.Generator().manual_seed(0)
    N, D, B, listed = shape["N"], shape["D"], shape["B"], shape["K"] + shape["L"]
    tables = [torch.randn(N, D, generator=generator) * D**-0.25 for _ in range(2)]
    user_ids = torch.randint(0, N, (B,), generator=generator)
    pairs = torch.randint(0, N, (B, 2), generator=generator)
    lists = torch.randint(0, N, (B, listed), generator=generator)
    return *tables, user_ids, pairs, lists, shape["K"]


def fused(sparse: bool):
    def losses(users, items, user_ids, pairs, lists, K):
        scores = gathered_inner_product(users, items, pairs, user_ids, sparse_grad=sparse)
        listwise = embedding_plackett_luce(users, items, lists, K, user_ids=user_ids, sparse_grad=sparse)
        return softplus(scores[:, 1] - scores[:, 0]).sum() + listwise.sum()

    return losses


def composed(sparse: bool):
    def losses(users, items, user_ids, pairs, lists, K):
        rows = embedding(user_ids, users, sparse=sparse)[:, :, None]
        scores = torch.bmm(embedding(pairs, items, sparse=sparse), rows)[:, :, 0]
        listed = torch.bmm(embedding(lists, items, sparse=sparse), rows)[:, :, 0]
        listwise = shifted_cumsum(listed[:, :K], listed[:, K:])
        return softplus(scores[:, 1] - scores[:, 0]).sum() + listwise.sum()

    return losses


def steps(losses, make_optimizer) -> PerShape:
    """Steps as a training loop has them; what comes back is the first one's loss and change of the touched rows."""

    def variant(users, items, user_ids, pairs, lists, K):
        tables = [torch.nn.Parameter(table.clone()) for table in (users, items)]
        optimizer = make_optimizer(tables)
        first = []

        def call():
            optimizer.zero_grad()
            loss = losses(*tables, user_ids, pairs, lists, K)
            loss.backward()
            optimizer.step()
            if not first:
                first.extend([loss.detach(), tables[1].detach()[lists[:8]] - items[lists[:8]]])
            return first

        return call

    return PerShape(variant)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Adam's first step is the rate by the gradient's sign: few entries may differ, where a gradient is next to 0."""
    reference, *others = outputs.values()
    for output in others:
        torch.testing.assert_close(output[0], reference[0], rtol=1e-5, atol=0)
        far = (output[1] - reference[1]).abs() > 0.1 * RATE
        if far.float().mean() > 1e-3:
            raise AssertionError(f"{far.float().mean():.2%} of the touched entries moved otherwise")


def work(shape: Shape) -> Work:
    # Item vectors read; of each touched row gradient, parameter and two moments read and written.
    listed = shape["B"] * (shape["K"] + shape["L"] + 3)
    return Work(bytes=4.0 * shape["D"] * 8 * listed)


def main(options: Options) -> None:
    variants = {
        "rankdistill, sparse gradients, LazyAdam": steps(fused(sparse=True), lambda p: LazyAdam(p, RATE)),
        "rankdistill, dense gradients, fused Adam": steps(
            fused(sparse=False), lambda p: torch.optim.Adam(p, RATE, fused=True)
        ),
        "torch, sparse gradients, SparseAdam": steps(
            composed(sparse=True), lambda p: torch.optim.SparseAdam(p, RATE)
        ),
        "torch, dense gradients, fused Adam": steps(
            composed(sparse=False), lambda p: torch.optim.Adam(p, RATE, fused=True)
        ),
    }
    run("training_step", SHAPES, prepare, variants, gate, work, options)
