"""The best of given scores against torch.topk, numpy and one read of the matrix (amax), on random and on hard rows.

The page ends with what each shape must reach at least (floor) and is meant to reach (target).
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import Missing, Options, Shape, Work, ceilings, measure, report, threads
from rankdistill import masked_topk

EXCLUDED = 50  # entries per row
OURS, READ, UNMASKED = "rankdistill", "torch.amax", "torch.topk, unmasked"

SHAPES = [
    Shape("100k items", {"B": 1024, "N": 100_000, "K": 10}),
    Shape("100k items", {"B": 1024, "N": 100_000, "K": 100}),
    Shape("100k items", {"B": 1024, "N": 100_000, "K": 1000}),
    Shape("400k items", {"B": 256, "N": 400_000, "K": 100}),
    Shape("rising scores", {"B": 256, "N": 100_000, "K": 100}),
    Shape("falling scores", {"B": 256, "N": 100_000, "K": 100}),
    Shape("equal scores", {"B": 256, "N": 100_000, "K": 100}),
]

LEAST_GAIN = 4.0  # over torch.topk
MOST_READS = {10: (2.5, 1.5), 100: (2.5, 1.5), 1000: (5.5, 3.0)}  # floor and target, in times of amax, by K


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    B, N = shape["B"], shape["N"]
    if shape.name == "equal scores":
        scores = torch.ones(B, N)
    else:
        scores = torch.randn(B, N, generator=generator)
    if shape.name in ("rising scores", "falling scores"):
        scores = scores.sort(dim=1, descending=shape.name == "falling scores").values
    listed = torch.randint(0, N, (B, EXCLUDED), generator=generator).sort(dim=1).values
    return scores, shape["K"], (torch.arange(B + 1) * EXCLUDED, listed.reshape(-1))


def torch_masked(scores, k, exclude):
    indptr, indices = exclude
    masked = scores.clone()
    rows = torch.arange(len(scores), device=scores.device).repeat_interleave(indptr.diff())
    masked[rows, indices] = -torch.inf
    return masked.topk(k)


def numpy_partition(scores, k, exclude):
    values = scores.numpy()
    best = np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(values, best, 1), axis=1)
    best = torch.from_numpy(np.take_along_axis(best, order, 1))
    return scores.gather(1, best), best


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Ours has torch's scores, of the indices it names; what masks nothing has at least as good ones."""
    scores = args[0]
    ours, masked = outputs[OURS], outputs.get("torch copy + mask + topk")
    assert torch.equal(scores.gather(1, ours.indices), ours.scores)
    if masked is not None:
        assert torch.equal(ours.scores, masked.values)
    for name, output in outputs.items():
        if name != READ:
            assert (output[0] >= ours.scores).all(), f"{name}: wrong scores"


def work(shape: Shape) -> Work:
    return Work(bytes=4.0 * shape["B"] * shape["N"])


def verdict(results: list[dict]) -> list[str]:
    lines = ["| shape | against | floor | target | reached | |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for result in results:
        times = {r["variant"]: r["times_first"] for r in result["variants"]}
        K, name = result["sizes"]["K"], f"{result['shape']}, K={result['sizes']['K']}"
        if READ in times:
            floor, target = MOST_READS[K]
            reads = 1 / times[READ]
            word = "target" if reads <= target else "floor" if reads <= floor else "below floor"
            lines.append(f"| {name} | times of amax | at most {floor} | {target} | {reads:.2f} | {word} |")
        if UNMASKED in times:
            word = "floor" if times[UNMASKED] >= LEAST_GAIN else "below floor"
            lines.append(
                f"| {name} | gain over torch.topk | {LEAST_GAIN} | | {times[UNMASKED]:.2f} | {word} |"
            )
    return ["\n".join(lines)]


def main(options: Options) -> None:
    variants = {
        OURS: masked_topk,
        READ: lambda scores, k, exclude: scores.amax(1),
        UNMASKED: lambda scores, k, exclude: scores.topk(k),
        "torch copy + mask + topk": torch_masked,
        "numpy argpartition + sort, unmasked": Missing("only on the processor")
        if options.device != "cpu"
        else numpy_partition,
    }
    with threads(options):
        limits = ceilings(options)
        results = measure(SHAPES, prepare, variants, gate, work, options)
    report("masked_topk", results, limits, options, verdict(results))
