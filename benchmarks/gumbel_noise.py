"""Gumbel variates that depend on ids alone, against generators whose draws depend on what was drawn before."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import Options, Shape, Work, compiled, run
from benchmarks.sampling_laws import expect_uniform
from rankdistill import gumbel_noise
from rankdistill.reference.gumbel_noise import gumbel_noise as reference

SHAPES = [
    Shape("HTD on CiteULike, a batch's items", {"B": 1_750, "count": 30}),
    Shape("UnKD on Gowalla, an epoch's swaps", {"B": 29_858, "count": 60}),
]
UNIFORM = "torch.rand alone"


def prepare(shape: Shape) -> tuple:
    return torch.randperm(shape["B"], generator=torch.Generator().manual_seed(0)), shape["count"]


def ours(ids, count):
    return gumbel_noise(ids, count, seed=1)


def uniform(ids, count):
    return torch.rand(len(ids), count, dtype=torch.float64, device=ids.device)


def two_logarithms(ids, count):
    return uniform(ids, count).log_().neg_().log_().neg_()


def composed(ids, count):
    return -(-uniform(ids, count).log()).log()


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    for name, noise in outputs.items():
        assert noise.shape == (shape["B"], shape["count"]), name
        expect_uniform(name, noise if name == UNIFORM else (-(-noise).exp()).exp())
    assert torch.equal(outputs["rankdistill"], outputs["the same draws in torch"])


def work(shape: Shape) -> Work:
    return Work(bytes=8.0 * shape["B"] * (1 + shape["count"]))


def main(options: Options) -> None:
    variants = {
        "rankdistill": ours,
        "the same draws in torch": lambda ids, count: reference(ids, None, count, 1, 0, 0, 0),
        "torch, two logarithms in place": two_logarithms,
        "torch.compile of them": compiled(lambda draw: draw, composed),
        "numpy, Generator.gumbel": lambda ids, count: torch.from_numpy(
            np.random.default_rng(1).gumbel(size=(len(ids), count))
        ),
        UNIFORM: uniform,
    }
    run("gumbel_noise", SHAPES, prepare, variants, gate, work, options)
