"""Plackett–Luce straight from embeddings, forward and backward, against torch with gathered [B, K + L, D] vectors."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, run
from rankdistill import embedding_plackett_luce, gathered_inner_product, plackett_luce

SHAPES = [
    Shape("RRD on CiteULike", {"B": 900, "N": 25_181, "K": 40, "L": 40, "D": 20}),
    Shape("long tail, 1M items", {"B": 4096, "N": 1_000_000, "K": 100, "L": 1000, "D": 64}),
]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(shape[rows], shape["D"], generator=generator) * shape["D"] ** -0.25 for rows in "BN"
    )
    listed = shape["B"], shape["K"] + shape["L"]
    item_ids = torch.randint(0, shape["N"], listed, generator=generator)
    return users.requires_grad_(), items.requires_grad_(), item_ids, shape["K"]


def forward_backward(losses):
    def call(users, items, item_ids, K):
        loss = losses(users, items, item_ids, K).sum()
        return (loss.detach(), *torch.autograd.grad(loss, (users, items)))

    return call


def gathered(users, items, item_ids, K):
    scores = torch.einsum("bd,bkd->bk", users, items[item_ids])
    tail = scores[:, K:].logsumexp(1, keepdim=True)
    below = torch.cat([tail, scores[:, :K].flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)
    return (below - scores[:, :K]).sum(1)


def in_two_ops(users, items, item_ids, K):
    scores = gathered_inner_product(users, items, item_ids)
    return plackett_luce(scores[:, :K], scores[:, K:])


def sparse(users, items, item_ids, K):
    return embedding_plackett_luce(users, items, item_ids, K, sparse_grad=True)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Losses and users' gradients of 8 rows against float64; items' gradients against each other."""
    users, items, item_ids, K = args
    rows = users[:8].detach().double().requires_grad_()
    listed = items.detach()[item_ids[:8]].double().flatten(0, 1)
    own = torch.arange(len(listed), device=listed.device).view(8, -1)
    (by_user,) = torch.autograd.grad(gathered(rows, listed, own, K).sum(), rows)
    ours = outputs["rankdistill"]
    for name, (loss, grad_users, grad_items) in outputs.items():
        torch.testing.assert_close(loss, ours[0], rtol=1e-5, atol=1e-3, msg=f"{name}: wrong loss")
        torch.testing.assert_close(
            grad_users[:8].double(), by_user, rtol=1e-4, atol=1e-4, msg=f"{name}: wrong"
        )
        dense = grad_items.to_dense() if grad_items.is_sparse else grad_items
        torch.testing.assert_close(dense, ours[2], rtol=1e-4, atol=1e-4, msg=f"{name}: wrong")


def work(shape: Shape) -> Work:
    # Every listed vector read once, the items' gradient written once.
    numbers = shape["B"] * (shape["K"] + shape["L"]) + shape["N"]
    return Work(bytes=4.0 * numbers * shape["D"])


def main(options: Options) -> None:
    variants = {
        "rankdistill": forward_backward(lambda *args: embedding_plackett_luce(*args)),
        "rankdistill, sparse gradient": forward_backward(sparse),
        "rankdistill, gathered scores and loss": forward_backward(in_two_ops),
        "torch, gathered vectors": forward_backward(gathered),
    }
    run("embedding_plackett_luce", SHAPES, prepare, variants, gate, work, options)
