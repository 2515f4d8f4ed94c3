"""Plackett–Luce from embeddings, forward and backward, against the compositions that a user would write in torch."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch.nn.functional import embedding

from benchmarks.harness import Options, Shape, Work, compiled, run
from benchmarks.plackett_luce import shifted_cumsum
from rankdistill import embedding_plackett_luce

SHAPES = [
    Shape("long tail, 1M items", {"B": 4096, "K": 100, "L": 1000, "N": 1_000_000, "D": 64}),
    Shape("KDs' defaults, 1M items", {"B": 1024, "K": 50, "L": 50, "N": 1_000_000, "D": 64}),
    Shape("RRD on CiteULike", {"B": 900, "K": 40, "L": 40, "N": 25_181, "D": 20}),
    Shape("a tail that all rows share", {"B": 1024, "K": 50, "L": 0, "N": 100_000, "D": 64, "shared": 2000}),
    Shape("lists of popular items (Zipf)", {"B": 1024, "K": 50, "L": 50, "N": 1_000_000, "D": 64, "zipf": 1}),
]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(shape["B"], shape["D"], generator=generator) * shape["D"] ** -0.25
    items = torch.randn(shape["N"], shape["D"], generator=generator) * shape["D"] ** -0.25
    size = shape["B"], shape["K"] + shape["L"]
    if shape.sizes.get("zipf"):
        # Item i with probability log(1 + 1/(i + 1))/log(N + 1): Zipf's law.
        uniform = torch.rand(size, generator=generator, dtype=torch.float64)
        item_ids = ((shape["N"] + 1.0) ** uniform).long().clamp_max(shape["N"]) - 1
    else:
        item_ids = torch.randint(0, shape["N"], size, generator=generator)
    tail_ids = None
    if shape.sizes.get("shared"):
        tail_ids = torch.randint(0, shape["N"], (shape["shared"],), generator=generator)
    return users.requires_grad_(), items.requires_grad_(), item_ids, shape["K"], tail_ids


def forward_backward(losses):
    def call(users, items, item_ids, K, tail_ids):
        loss = losses(users, items, item_ids, K, tail_ids).sum()
        return (loss.detach(), *torch.autograd.grad(loss, (users, items)))

    return call


def ours(sparse: bool):
    return forward_backward(
        lambda users, items, item_ids, K, tail_ids: embedding_plackett_luce(
            users, items, item_ids, K, sparse_grad=sparse, tail_ids=tail_ids
        )
    )


def composed(users, items, item_ids, K, tail_ids, sparse=False):
    """Gathered vectors, a batched product (one of matrices for what is shared), the max-shifted loss; torch's sparse
    gradient is not coalesced."""
    scores = torch.bmm(embedding(item_ids, items, sparse=sparse), users[:, :, None])[:, :, 0]
    if tail_ids is not None:
        scores = torch.cat([scores, users @ embedding(tail_ids, items, sparse=sparse).T], 1)
    return shifted_cumsum(scores[:, :K], scores[:, K:])


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    users, items, item_ids, K, tail_ids = args
    item_ids = item_ids[:8]
    if tail_ids is not None:
        item_ids = torch.cat([item_ids, tail_ids.expand(8, -1)], 1)
    touched, ids = item_ids.unique(return_inverse=True)
    rows = users[:8].detach().double().requires_grad_()
    table = items.detach()[touched].double()
    scores = torch.einsum("bkd,bd->bk", table[ids], rows)
    (by_user,) = torch.autograd.grad(shifted_cumsum(scores[:, :K], scores[:, K:]).sum(), (rows,))
    first = next(iter(outputs.values()))
    for name, (loss, grad_users, grad_items) in outputs.items():
        dense = grad_items.to_dense() if grad_items.is_sparse else grad_items
        kept = first[2].to_dense() if first[2].is_sparse else first[2]
        torch.testing.assert_close(loss, first[0], rtol=1e-5, atol=0, msg=f"{name}: wrong")
        torch.testing.assert_close(
            grad_users[:8].double(), by_user, rtol=1e-4, atol=1e-4, msg=f"{name}: wrong"
        )
        torch.testing.assert_close(dense, kept, rtol=1e-4, atol=1e-4, msg=f"{name}: wrong")


def work(shape: Shape) -> Work:
    # Item vectors read once, and each touched row's gradient written once.
    shared = shape.sizes.get("shared", 0)
    listed, scored = shape["B"] * (shape["K"] + shape["L"]), shape["B"] * (shape["K"] + shape["L"] + shared)
    share = torch.full((shape["N"],), 1 / shape["N"], dtype=torch.float64)
    if shape.sizes.get("zipf"):
        share = torch.arange(1, shape["N"] + 1, dtype=torch.float64).reciprocal().log1p() / math.log(
            shape["N"] + 1
        )
    touched = float(-torch.expm1((listed + shared) * torch.log1p(-share)).sum())
    return Work(flops=6.0 * scored * shape["D"], bytes=4.0 * shape["D"] * (listed + shared + touched))


def main(options: Options) -> None:
    variants = {
        "rankdistill, sparse gradient": ours(sparse=True),
        "rankdistill, dense gradient": ours(sparse=False),
        "torch, sparse gradient": forward_backward(partial(composed, sparse=True)),
        "torch, dense gradient": forward_backward(composed),
        "torch.compile of it": compiled(forward_backward, composed),
    }
    run("embedding_plackett_luce", SHAPES, prepare, variants, gate, work, options)
