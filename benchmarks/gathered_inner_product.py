"""Scores of listed items, forward and backward, against the compositions that a user would write in torch."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import embedding

from benchmarks.harness import Options, Shape, Work, compiled, run
from rankdistill import gathered_inner_product

SHAPES = [
    Shape("BPR on CiteULike", {"B": 1024, "K": 2, "U": 5_219, "N": 25_181, "D": 20}),
    Shape("HetComp's lists on CiteULike", {"B": 900, "K": 100, "U": 5_219, "N": 25_181, "D": 20}),
    Shape("BPR, 1M users and items", {"B": 1024, "K": 2, "U": 1_000_000, "N": 1_000_000, "D": 64}),
    Shape("lists, 1M users and items", {"B": 1024, "K": 100, "U": 1_000_000, "N": 1_000_000, "D": 64}),
]


def prepare(shape: Shape) -> tuple:
    generator, D = torch.Generator().manual_seed(0), shape["D"]
    tables = (torch.randn(shape[rows], D, generator=generator) * D**-0.25 for rows in "UN")
    user_ids = torch.randint(0, shape["U"], (shape["B"],), generator=generator)
    item_ids = torch.randint(0, shape["N"], (shape["B"], shape["K"]), generator=generator)
    grad_scores = torch.randn(shape["B"], shape["K"], generator=generator)
    return *(table.requires_grad_() for table in tables), item_ids, user_ids, grad_scores


def forward_backward(scores_of):
    def call(users, items, item_ids, user_ids, grad_scores):
        scores = scores_of(users, items, item_ids, user_ids)
        return scores.detach(), *torch.autograd.grad(scores, (users, items), grad_scores)

    return call


def ours(sparse: bool):
    return forward_backward(
        lambda users, items, item_ids, user_ids: gathered_inner_product(
            users, items, item_ids, user_ids, sparse_grad=sparse
        )
    )


def product_of_vectors(users, items, item_ids, user_ids, sparse=False):
    rows = embedding(user_ids, users, sparse=sparse)
    return torch.bmm(embedding(item_ids, items, sparse=sparse), rows[:, :, None])[:, :, 0]


torch_sparse = forward_backward(partial(product_of_vectors, sparse=True))


def coalesced(*args):
    """As ours are, and as optimisers need them."""
    scores, *grads = torch_sparse(*args)
    return scores, *(grad.coalesce() for grad in grads)


def products_summed(users, items, item_ids, user_ids):
    return (users[user_ids][:, None] * items[item_ids]).sum(2)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Of the touched rows in float64; nothing else has a gradient."""
    users, items, item_ids, user_ids, grad_scores = args
    touched = [ids.unique(return_inverse=True) for ids in (user_ids, item_ids)]
    wide = [t.detach()[ids].double().requires_grad_() for t, (ids, _) in zip((users, items), touched)]
    own = (*wide, touched[1][1], touched[0][1], grad_scores.double())
    scores, *grads = forward_backward(products_summed)(*own)
    for name, (found, *found_grads) in outputs.items():
        torch.testing.assert_close(found.double(), scores, rtol=1e-5, atol=1e-5, msg=f"{name}: scores")
        for grad, wanted, (ids, _) in zip(found_grads, grads, touched, strict=True):
            dense = grad.to_dense() if grad.is_sparse else grad
            torch.testing.assert_close(
                dense[ids].double(), wanted, rtol=1e-4, atol=1e-4, msg=f"{name}: gradient"
            )
            assert dense.any(1).sum() <= len(ids), f"{name}: a gradient of rows that nothing touched"


def work(shape: Shape) -> Work:
    # Vectors read forward and backward, and each touched row's gradient written once.
    listed = shape["B"] * (shape["K"] + 1)
    touched = sum(
        shape[n] * (1 - (1 - 1 / shape[n]) ** (shape["B"] * k)) for n, k in (("U", 1), ("N", shape["K"]))
    )
    return Work(
        flops=6.0 * shape["B"] * shape["K"] * shape["D"], bytes=4.0 * shape["D"] * (2 * listed + touched)
    )


def main(options: Options) -> None:
    variants = {
        "rankdistill, sparse gradients": ours(sparse=True),
        "rankdistill, dense gradients": ours(sparse=False),
        "torch, sparse gradients": torch_sparse,
        "torch, sparse gradients, coalesced": coalesced,
        "torch, dense gradients": forward_backward(product_of_vectors),
        "torch.compile, dense gradients": compiled(forward_backward, products_summed),
    }
    run("gathered_inner_product", SHAPES, prepare, variants, gate, work, options)
