"""Plackett–Luce forward and backward against the compositions that a user would write in torch."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, compiled, run
from rankdistill import plackett_luce

SHAPES = [
    Shape("RRD on CiteULike", {"B": 900, "K": 40, "L": 40}),
    Shape("KDs' defaults", {"B": 1024, "K": 50, "L": 50}),
    Shape("long tail", {"B": 4096, "K": 100, "L": 1000}),
]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    sizes = (shape["B"], shape["K"]), (shape["B"], shape["L"])
    return tuple(torch.randn(*size, generator=generator).requires_grad_() for size in sizes)


def forward_backward(losses):
    def call(scores, tail):
        loss = losses(scores, tail)
        return (loss.detach(), *torch.autograd.grad(loss.sum(), (scores, tail)))

    return call


def shifted_cumsum(scores, tail):
    """Right while a row's scores spread less than 80."""
    top = torch.maximum(scores.amax(1), tail.amax(1))[:, None].detach()
    below = (scores - top).exp().flip(1).cumsum(1).flip(1) + (tail - top).exp().sum(1, keepdim=True)
    return (below.log() + top - scores).sum(1)


def log_cumsum_exp(scores, tail):
    below = torch.cat([tail.logsumexp(1, keepdim=True), scores.flip(1)], 1).logcumsumexp(1)[:, 1:].flip(1)
    return (below - scores).sum(1)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    wide = [a.detach().double().requires_grad_() for a in args]
    expected = forward_backward(log_cumsum_exp)(*wide)
    for name, output in outputs.items():
        for found, wanted in zip(output, expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5, msg=f"{name}: wrong")


def work(shape: Shape) -> Work:
    # Scores read twice, gradients written once.
    return Work(bytes=3 * 4.0 * shape["B"] * (shape["K"] + shape["L"]))


def main(options: Options) -> None:
    variants = {
        "rankdistill": forward_backward(plackett_luce),
        "torch, max shift and cumsum": forward_backward(shifted_cumsum),
        "torch.compile of it": compiled(forward_backward, shifted_cumsum),
        "torch, logcumsumexp": forward_backward(log_cumsum_exp),
    }
    run("plackett_luce", SHAPES, prepare, variants, gate, work, options)
