"""Ranks of given items among given scores, against counting them in torch and against a full sort."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, run
from rankdistill import masked_rank

SHAPES = [
    Shape("held-out items, 100k items", {"B": 256, "N": 100_000, "K": 1}),
    Shape("relevant items, 100k items", {"B": 256, "N": 100_000, "K": 10}),
    Shape("a teacher's list, 25k items", {"B": 256, "N": 25_000, "K": 500}),
]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(shape["B"], shape["N"], generator=generator)
    return scores, torch.randint(0, shape["N"], (shape["B"], shape["K"]), generator=generator)


def torch_count(scores, item_ids):
    own = scores.gather(1, item_ids)
    # int32 sums take half the time of int64 ones.
    better = [(scores > own[:, k, None]).sum(1, dtype=torch.int32) for k in range(item_ids.shape[1])]
    return torch.stack(better, 1).long()


def torch_sort(scores, item_ids):
    order = scores.sort(dim=1, descending=True, stable=True).indices
    positions = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions).gather(1, item_ids)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """The stable sort gives the same ranks; counting does where no score is equal, so it may only be lower."""
    ours = outputs["rankdistill"]
    for name, output in outputs.items():
        exact = torch.equal(output, ours)
        assert exact or (name == "torch count" and (output <= ours).all()), f"{name}: wrong ranks"
        assert (output == ours).float().mean() > 0.9, f"{name}: wrong ranks"


def work(shape: Shape) -> Work:
    return Work(bytes=4.0 * shape["B"] * shape["N"])


def main(options: Options) -> None:
    variants = {"rankdistill": masked_rank, "torch count": torch_count, "torch sort": torch_sort}
    run("masked_rank", SHAPES, prepare, variants, gate, work, options)
