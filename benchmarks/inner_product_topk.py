"""Exact masked top-K against what a user would write in torch: the whole score matrix, or row chunks of it."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, run
from rankdistill import inner_product_topk

EXCLUDED = 50

SHAPES = [
    Shape("extraction, 100k items", {"B": 1024, "N": 100_000, "D": 64, "K": 100}),
    Shape("evaluation, Gowalla-sized", {"B": 256, "N": 25_000, "D": 20, "K": 50}),
    Shape("extraction, CiteULike-sized", {"B": 1024, "N": 25_000, "D": 200, "K": 500}),
    Shape("extraction, 1M items", {"B": 256, "N": 1_000_000, "D": 64, "K": 100}),
]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(shape["B"], shape["D"], generator=generator)
    items = torch.randn(shape["N"], shape["D"], generator=generator)
    seen = torch.randint(0, shape["N"], (shape["B"], EXCLUDED), generator=generator).sort(dim=1).values
    indptr = torch.arange(shape["B"] + 1) * EXCLUDED
    return users, items, shape["K"], (indptr, seen.reshape(-1))


def torch_whole(users, items, k, exclude):
    indptr, indices = exclude
    scores = users @ items.T
    rows = torch.repeat_interleave(torch.arange(len(users), device=users.device), indptr.diff())
    scores[rows, indices] = -torch.inf
    return scores.topk(k)


def torch_chunked(users, items, k, exclude, chunk=32):
    indptr, indices = exclude
    parts = []
    for begin in range(0, len(users), chunk):
        cut = indptr[begin : begin + chunk + 1]
        parts.append(
            torch_whole(users[begin : begin + chunk], items, k, (cut - cut[0], indices[cut[0] : cut[-1]]))
        )
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Ours is checked against fp64 scores of 16 rows; torch's, with its own roundings, against ours."""
    users, items, k, (_, indices) = args
    ours = outputs["rankdistill"]
    exact = users[:16].double() @ items.double().T
    exact.scatter_(1, indices.view(-1, EXCLUDED)[:16], -torch.inf)
    expected = exact.sort(dim=1, descending=True, stable=True)
    assert torch.equal(ours.scores[:16], expected.values[:, :k].float())
    assert (ours.indices[:16] == expected.indices[:, :k]).float().mean() > 0.9999
    for name, output in outputs.items():
        torch.testing.assert_close(output[0], ours.scores, rtol=1e-4, atol=1e-4, msg=f"{name}: wrong scores")


def work(shape: Shape) -> Work:
    return Work(flops=2.0 * shape["B"] * shape["N"] * shape["D"])


def main(options: Options) -> None:
    variants = {
        "rankdistill": inner_product_topk,
        "torch whole matmul + mask + topk": torch_whole,
        "torch in chunks of 32 rows": torch_chunked,
    }
    run("inner_product_topk", SHAPES, prepare, variants, gate, work, options)
