"""Exact ranks of given items by inner product, against scores in chunks that torch multiplies and counts."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, run
from benchmarks.inner_product_topk import random_exclusions
from rankdistill import inner_product_rank

CHUNK = 32  # users: 13 MB of scores for 100k items

SHAPES = [
    Shape("held-out items, 100k items", {"B": 1024, "N": 100_000, "D": 64, "K": 1}),
    Shape("relevant items, 100k items", {"B": 1024, "N": 100_000, "D": 64, "K": 10}),
    Shape("a teacher's list, 25k items", {"B": 1024, "N": 25_000, "D": 20, "K": 500}),
]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(shape["B"], shape["D"], generator=generator)
    items = torch.randn(shape["N"], shape["D"], generator=generator)
    item_ids = torch.randint(0, shape["N"], (shape["B"], shape["K"]), generator=generator)
    return users, items, item_ids, random_exclusions(shape, generator)


def torch_chunked(users, items, item_ids, exclude):
    indptr, indices = exclude
    parts = []
    for rows in torch.arange(len(users), device=users.device).split(CHUNK):
        scores = users[rows] @ items.T
        begin, end = indptr[rows[0]], indptr[rows[-1] + 1]
        counts = indptr[rows[0] : rows[-1] + 2].diff()
        scores[(rows - rows[0]).repeat_interleave(counts), indices[begin:end]] = -torch.inf
        own = scores.gather(1, item_ids[rows])
        better = [(scores > own[:, k, None]).sum(1, dtype=torch.int32) for k in range(item_ids.shape[1])]
        ranks = torch.stack(better, 1).long()
        parts.append(ranks.masked_fill(own == -torch.inf, -1))
    return torch.cat(parts)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Ours by fp64 scores of 4 users, exactly; torch's, with its own roundings, by ours."""
    users, items, item_ids, (indptr, indices) = args
    ours = outputs["rankdistill"]
    for b in range(4):
        scores = (users[b].double() @ items.double().T).float()
        excluded = indices[indptr[b] : indptr[b + 1]]
        scores[excluded] = -torch.inf
        own = scores[item_ids[b]]
        ids = torch.arange(len(items), device=items.device)
        before = (scores > own[:, None]) | ((scores == own[:, None]) & (ids < item_ids[b][:, None]))
        expected = before.sum(1).masked_fill(own == -torch.inf, -1)
        assert torch.equal(ours[b], expected)
    for name, output in outputs.items():
        assert ((output - ours).abs() <= 3).all(), f"{name}: wrong ranks"


def work(shape: Shape) -> Work:
    return Work(flops=2.0 * shape["B"] * shape["N"] * shape["D"])


def main(options: Options) -> None:
    variants = {"rankdistill": inner_product_rank, "torch in chunks of 32 rows": torch_chunked}
    run("inner_product_rank", SHAPES, prepare, variants, gate, work, options)
