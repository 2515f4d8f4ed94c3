"""The list-wise loss above the whole rest of the catalogue, forward and backward, against torch with [B, N] scores.

Three bare products are what any form with gradients must compute: the scores, and the gradients by users and items.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, run
from benchmarks.inner_product_topk import random_exclusions
from rankdistill import catalogue_plackett_luce

SHAPES = [
    Shape("whole catalogue, 100k items", {"B": 1024, "N": 100_000, "D": 64, "K": 50}),
    Shape("whole catalogue, 100k items, D = 128", {"B": 1024, "N": 100_000, "D": 128, "K": 50}),
    Shape("whole catalogue, CiteULike", {"B": 1024, "N": 25_181, "D": 20, "K": 50}),
]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(shape["B"], shape["D"], generator=generator) * shape["D"] ** -0.25
    items = torch.randn(shape["N"], shape["D"], generator=generator) * shape["D"] ** -0.25
    item_ids = torch.randint(0, shape["N"], (shape["B"], shape["K"]), generator=generator)
    exclude = random_exclusions(shape, generator)
    return users.requires_grad_(), items.requires_grad_(), item_ids, exclude


def tail_mask(item_ids, exclude, n_items):
    """[B, N]: what is neither listed nor excluded."""
    indptr, indices = exclude
    rows = torch.arange(len(item_ids), device=item_ids.device)
    mask = torch.ones(len(item_ids), n_items, dtype=torch.bool, device=item_ids.device)
    mask[rows.repeat_interleave(indptr.diff()), indices] = False
    mask[rows[:, None], item_ids] = False
    return mask


def whole_scores(users, items, item_ids, exclude):
    scores = users @ items.t()
    mask = tail_mask(item_ids, exclude, len(items))
    tail = scores.masked_fill(~mask, -torch.inf).logsumexp(1, keepdim=True)
    listed = scores.gather(1, item_ids)
    below = torch.cat([tail, listed.flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)
    return (below - listed).sum(1)


def forward_backward(losses):
    def call(users, items, item_ids, exclude):
        loss = losses(users, items, item_ids, exclude).sum()
        return (loss.detach(), *torch.autograd.grad(loss, (users, items)))

    return call


def chunked(users, items, item_ids, exclude):
    """Rows in pieces, each with its gradient at once: torch's best, by hand."""
    indptr, indices = exclude
    grad_users, grad_items, total = torch.empty_like(users), torch.zeros_like(items), 0.0
    for rows in torch.arange(len(users), device=users.device).split(64):
        with torch.no_grad():
            scores = users[rows] @ items.t()
        piece = indptr[rows[0] : rows[-1] + 2]
        part = piece - piece[0], indices[piece[0] : piece[-1]]
        with torch.no_grad():
            counts, ids = part[0].diff(), item_ids[rows]
            listed = scores.gather(1, ids)
            scores[
                torch.arange(len(rows), device=rows.device).repeat_interleave(counts), part[1]
            ] = -torch.inf
            scores.scatter_(1, ids, -torch.inf)
            tail = scores.logsumexp(1, keepdim=True)
        leaves = listed.requires_grad_(), tail.requires_grad_()
        below = torch.cat([tail, listed.flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)
        loss = (below - listed).sum()
        by_list, by_tail = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            weights = scores.sub_(tail).exp_().mul_(by_tail)
            weights.scatter_add_(1, ids, by_list)
            torch.mm(weights, items, out=grad_users[rows[0] : rows[-1] + 1].detach())
            grad_items.addmm_(weights.t(), users[rows])
            total += loss.detach()
    return total, grad_users.detach(), grad_items.detach()


def three_products(users, items, item_ids, exclude):
    """In pieces of 64 rows, so that no [B, N] matrix costs page faults: their time is the products' own."""
    users, items = users.detach(), items.detach()
    scores = torch.empty(64, len(items), device=items.device)
    grad_users, grad_items = torch.empty_like(users), torch.zeros_like(items)
    for b in range(0, len(users), 64):
        rows = users[b : b + 64]
        torch.mm(rows, items.t(), out=scores)
        torch.mm(scores, items, out=grad_users[b : b + 64])
        grad_items.addmm_(scores.t(), rows)
    return grad_users, grad_items


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Losses and users' gradients of 8 rows against float64; items' gradients against each other."""
    users, items, item_ids, (indptr, indices) = args
    rows = users[:8].detach().double().requires_grad_()
    part = indptr[:9], indices[: indptr[8]]
    expected = whole_scores(rows, items.detach().double(), item_ids[:8], part)
    (by_user,) = torch.autograd.grad(expected.sum(), (rows,))
    losses = catalogue_plackett_luce(users, items, item_ids, exclude=(indptr, indices))[:8]
    torch.testing.assert_close(losses.double(), expected, rtol=2e-6, atol=1e-5)
    ours = outputs["rankdistill"]
    for name, output in outputs.items():
        if name == PRODUCTS:
            continue
        torch.testing.assert_close(
            output[1][:8].double(), by_user, rtol=1e-4, atol=1e-4, msg=f"{name}: wrong"
        )
        torch.testing.assert_close(output[2], ours[2], rtol=1e-4, atol=1e-4, msg=f"{name}: wrong")


PRODUCTS = "three bare products in torch"


def work(shape: Shape) -> Work:
    return Work(flops=3 * 2.0 * shape["B"] * shape["N"] * shape["D"])


def main(options: Options) -> None:
    ours = lambda users, items, item_ids, exclude: catalogue_plackett_luce(
        users, items, item_ids, exclude=exclude
    )
    variants = {
        "rankdistill": forward_backward(ours),
        "torch, [B, N] scores": forward_backward(whole_scores),
        "torch in chunks, gradient by hand": chunked,
        PRODUCTS: three_products,
    }
    run("catalogue_plackett_luce", SHAPES, prepare, variants, gate, work, options)
