"""Dropout that depends on ids alone, against generators whose draws depend on what was drawn before."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, compiled, run
from benchmarks.sampling_laws import SPREADS, expect_independent
from rankdistill import dropout_mask
from rankdistill.ops.dropout_mask import DRAWS
from rankdistill.reference.dropout_mask import dropout_mask as reference

SHAPES = [
    Shape("FreqD on CiteULike, users' hidden layers", {"B": 4_000, "M": 5, "W": 200}),
    Shape("FreqD on CiteULike, items' hidden layers", {"B": 16_300, "M": 5, "W": 200}),
    Shape("FreqD on CiteULike, items' vectors", {"B": 16_300, "M": 5, "W": 20}),
]
SHARE = 0.2


def prepare(shape: Shape) -> tuple:
    ids = torch.randperm(shape["B"], generator=torch.Generator().manual_seed(0))
    return ids, shape["M"], shape["W"]


def ours(ids, M, W):
    return dropout_mask(ids, M, W, SHARE, seed=1)


def same_draws(ids, M, W):
    return reference(ids, M, W, round(SHARE * DRAWS), 1, 0, 0, 0)


def composed(ids, M, W):
    return torch.rand(M, len(ids), W, device=ids.device) >= SHARE


def bernoulli(ids, M, W):
    return torch.empty(M, len(ids), W, dtype=torch.bool, device=ids.device).bernoulli_(1 - SHARE)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    spread = (SHARE * (1 - SHARE)) ** 0.5
    for name, kept in outputs.items():
        assert kept.shape == (shape["M"], shape["B"], shape["W"]), name
        standardised = (kept.float() - (1 - SHARE)) / spread
        # 1e-4: shares are multiples of 2^-16.
        off = standardised.double().mean().abs()
        assert off < SPREADS / kept.numel() ** 0.5 + 1e-4, f"{name}: another share"
        expect_independent(name, standardised)
        expect_independent(name, standardised.transpose(0, 1))
    assert torch.equal(outputs["rankdistill"], outputs["the same draws in torch"])


def work(shape: Shape) -> Work:
    return Work(bytes=8.0 * shape["B"] + shape["M"] * shape["B"] * shape["W"])


def main(options: Options) -> None:
    variants = {
        "rankdistill": ours,
        "the same draws in torch": same_draws,
        "torch.rand, compared": composed,
        "torch.compile of it": compiled(lambda draw: draw, composed),
        "torch, bernoulli_": bernoulli,
    }
    run("dropout_mask", SHAPES, prepare, variants, gate, work, options)
