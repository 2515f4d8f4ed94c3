"""The log-mass of a catalogue, forward and backward, against torch with [B, N] scores and in pieces of rows."""

from __future__ import annotations

import torch

from benchmarks.catalogue_plackett_luce import PRODUCTS, three_products
from benchmarks.harness import Options, Shape, Work, compiled, run
from benchmarks.inner_product_topk import random_exclusions
from rankdistill import catalogue_log_mass

SHAPES = [
    Shape("HetComp on CiteULike", {"B": 896, "N": 25_181, "D": 20}),
    Shape("SASRec on ML-1M", {"B": 4096, "N": 3_583, "D": 64}),
    Shape("a softmax over 100k items", {"B": 1024, "N": 100_000, "D": 64}),
]


def prepare(shape: Shape) -> tuple:
    generator, D = torch.Generator().manual_seed(0), shape["D"]
    tables = (torch.randn(shape[rows], D, generator=generator) * D**-0.25 for rows in "BN")
    return *(table.requires_grad_() for table in tables), random_exclusions(shape, generator)


def forward_backward(log_masses):
    def call(users, items, exclude):
        masses = log_masses(users, items, exclude)
        return masses.detach(), *torch.autograd.grad(masses.sum(), (users, items))

    return call


def whole_scores(users, items, exclude):
    indptr, indices = exclude
    rows = torch.arange(len(users), device=users.device).repeat_interleave(
        indptr.diff(), output_size=len(indices)
    )
    excluded = torch.zeros(len(users), len(items), dtype=torch.bool, device=users.device)
    excluded[rows, indices] = True
    return (users @ items.t()).masked_fill(excluded, -torch.inf).logsumexp(1)


@torch.no_grad()
def in_pieces(users, items, exclude):
    """64 rows at a time, each with its gradient at once: torch's best, by hand."""
    indptr, indices = exclude
    masses, by_users, by_items = [], [], torch.zeros_like(items)
    for start in range(0, len(users), 64):
        rows, own = users[start : start + 64], indptr[start : start + 65]
        scores = rows @ items.t()
        at = torch.arange(len(rows), device=rows.device).repeat_interleave(own.diff())
        scores[at, indices[own[0] : own[-1]]] = -torch.inf
        masses.append(scores.logsumexp(1))
        shares = scores.sub_(masses[-1][:, None]).exp_()
        by_users.append(shares @ items)
        by_items.addmm_(shares.t(), rows)
    return torch.cat(masses), torch.cat(by_users), by_items


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    users, items, exclude = args
    expected = in_pieces(users.double(), items.double(), exclude)
    for name, output in outputs.items():
        if name == PRODUCTS:
            continue
        for found, wanted in zip(output, expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5, msg=f"{name}: wrong")


def work(shape: Shape) -> Work:
    return Work(flops=3 * 2.0 * shape["B"] * shape["N"] * shape["D"])


def main(options: Options) -> None:
    ours = lambda users, items, exclude: catalogue_log_mass(users, items, exclude)
    variants = {
        "rankdistill": forward_backward(ours),
        "torch, [B, N] scores": forward_backward(whole_scores),
        "torch.compile of them": compiled(forward_backward, whole_scores),
        "torch in pieces, gradient by hand": in_pieces,
        PRODUCTS: lambda users, items, exclude: three_products(users, items, None, exclude),
    }
    run("catalogue_log_mass", SHAPES, prepare, variants, gate, work, options)
