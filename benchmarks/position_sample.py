"""Positions of ranked lists for every user, as an epoch draws them, against torch and against a loop over users."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import Options, Shape, Work, compiled, run
from benchmarks.sampling_laws import expect_subsets, race
from rankdistill import position_sample
from rankdistill.functional import position_weights
from rankdistill.reference.position_sample import position_sample as reference

SHAPES = [
    Shape("RRD on CiteULike", {"R": 5_219, "length": 500, "K": 40}),
    Shape("RRD on Gowalla", {"R": 29_858, "length": 500, "K": 40}),
    Shape("PCKD on Gowalla", {"R": 29_858, "length": 100, "K": 5}),
]
TEMPERATURE = 10.0


def prepare(shape: Shape) -> tuple:
    R, length = shape["R"], shape["length"]
    weights = position_weights(length, TEMPERATURE).expand(R, length)
    return torch.arange(R), torch.full((R,), length), weights, shape["K"]


def ours(users, lengths, weights, K):
    return position_sample(users, lengths, K, TEMPERATURE, seed=1)


def same_draws(users, lengths, weights, K):
    return reference(users, lengths, K, TEMPERATURE, 1, 0, 0)


def multinomial(users, lengths, weights, K):
    return torch.multinomial(weights, K)


def numpy_rows(users, lengths, weights, K):
    generator = np.random.default_rng(1)
    shares = position_weights(weights.shape[1], TEMPERATURE, torch.float64).numpy()
    return torch.stack(
        [torch.from_numpy(generator.choice(len(shares), K, replace=False, p=shares)) for _ in users]
    )


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    rows = slice(0, 5_000)
    for name, drawn in outputs.items():
        assert drawn.shape == (shape["R"], shape["K"]), name
        expect_subsets(name, drawn[rows], args[2][rows])
    assert torch.equal(outputs["rankdistill"], outputs["the same draws in torch"])


def work(shape: Shape) -> Work:
    return Work(bytes=8.0 * shape["R"] * (2 + shape["K"]))


def main(options: Options) -> None:
    variants = {
        "rankdistill": ours,
        "the same draws in torch": same_draws,
        "torch.multinomial": multinomial,
        "torch, an exponential race": lambda users, lengths, weights, K: race(weights, K),
        "torch.compile of it": compiled(
            lambda drawn: lambda users, lengths, weights, K: drawn(weights, K), race
        ),
        "numpy, user by user": numpy_rows,
    }
    run("position_sample", SHAPES, prepare, variants, gate, work, options)
