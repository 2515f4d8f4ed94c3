"""Columns drawn in proportion to each row's own weights, against torch and against a loop over rows."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import Options, Shape, Work, compiled, run
from benchmarks.sampling_laws import expect_subsets, race
from rankdistill import weighted_sample
from rankdistill.reference.weighted_sample import weighted_sample as reference
from rankdistill.sampling import rank_discrepancy_weights, shared_position_weights

CORRECTION = "DCD on CiteULike, a batch"
SHAPES = [
    Shape(CORRECTION, {"R": 900, "M": 500, "K": 40}),
    Shape("RCE-KD on Gowalla", {"R": 29_858, "M": 200, "K": 50}),
]


def prepare(shape: Shape) -> tuple:
    R, M = shape["R"], shape["M"]
    numbers = torch.rand(R, M, generator=torch.Generator().manual_seed(0))
    if shape.name == CORRECTION:
        weights = rank_discrepancy_weights(numbers.argsort(1), 0.01)[0]
    else:
        weights = shared_position_weights(numbers < 0.2, 10.0)
    return torch.arange(R), weights, shape["K"]


def ours(users, weights, K):
    return weighted_sample(users, weights, K, seed=1)


def same_draws(users, weights, K):
    return reference(users, weights, K, 1, 0, 0)


def numpy_rows(users, weights, K):
    generator, drawn = np.random.default_rng(1), []
    for row in weights.double().cpu().numpy():
        drawn.append(generator.choice(len(row), K, replace=False, p=row / row.sum()))
    return torch.from_numpy(np.stack(drawn))


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    for name, drawn in outputs.items():
        assert drawn.shape == (shape["R"], shape["K"]), name
        expect_subsets(name, drawn, args[1])
    assert torch.equal(outputs["rankdistill"], outputs["the same draws in torch"])


def work(shape: Shape) -> Work:
    width = 4.0 if shape.name == CORRECTION else 8.0
    return Work(bytes=shape["R"] * (width * shape["M"] + 8 * (1 + shape["K"])))


def main(options: Options) -> None:
    variants = {
        "rankdistill": ours,
        "the same draws in torch": same_draws,
        "torch.multinomial": lambda users, weights, K: torch.multinomial(weights, K),
        "torch, an exponential race": lambda users, weights, K: race(weights, K),
        "torch.compile of it": compiled(lambda drawn: lambda users, weights, K: drawn(weights, K), race),
        "numpy, user by user": numpy_rows,
    }
    run("weighted_sample", SHAPES, prepare, variants, gate, work, options)
