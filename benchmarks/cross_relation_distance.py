"""The group term of hierarchical topology distillation, forward and backward, against matrices of cosines in torch."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from benchmarks.grouped_relation_distance import similarity
from benchmarks.harness import Options, Shape, Work, compiled, run
from rankdistill import cross_relation_distance

SHAPES = [
    Shape("HTD on CiteULike", {"B": 2650, "G": 60, "D_t": 200, "D_s": 20}),
    Shape("HTD, large batch", {"B": 8192, "G": 60, "D_t": 256, "D_s": 32}),
    Shape("HTD over a table of 100k", {"B": 100_000, "G": 60, "D_t": 256, "D_s": 32}),
]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    sizes = [(shape[rows], shape[width]) for width in ("D_t", "D_s") for rows in "BG"]
    *teacher, rows, columns = (torch.randn(size, generator=generator) for size in sizes)
    return *teacher, rows.requires_grad_(), columns.requires_grad_()


def forward_backward(loss):
    def call(*tables):
        value = loss(*tables)
        return value.detach(), *torch.autograd.grad(value, tables[2:])

    return call


def composed(teacher_rows, teacher_columns, rows, columns):
    wanted = normalize(teacher_rows) @ normalize(teacher_columns).t()
    return (normalize(rows) @ normalize(columns).t() - wanted).square().sum()


def released(teacher_rows, teacher_columns, rows, columns):
    """The released code's steps: products and lengths of all pairs, a quotient, a difference, a square."""
    return (similarity(teacher_rows, teacher_columns) - similarity(rows, columns)).pow(2.0).sum()


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Ours entry by entry; fp32 sums of as many rows lose digits."""
    wide = [a.detach().double().requires_grad_(a.requires_grad) for a in args]
    expected = forward_backward(composed)(*wide)
    for name, output in outputs.items():
        for found, wanted in zip(output, expected, strict=True):
            if name == "rankdistill":
                atol = 1e-6 * wanted.abs().max().item()
                torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=atol, msg=f"{name}: wrong")
            assert (found - wanted).norm() <= 1e-3 * wanted.norm(), f"{name}: wrong"


def work(shape: Shape) -> Work:
    B, G, D_t, D_s = (shape[k] for k in ("B", "G", "D_t", "D_s"))
    # Cosines, and both gradients of a student; tables read, the rows' gradient written.
    return Work(flops=2.0 * B * G * (D_t + 3 * D_s), bytes=4.0 * B * (D_t + 2 * D_s))


def main(options: Options) -> None:
    variants = {
        "rankdistill": forward_backward(cross_relation_distance),
        "torch": forward_backward(composed),
        "torch.compile of it": compiled(forward_backward, composed),
        "as released": forward_backward(released),
    }
    run("cross_relation_distance", SHAPES, prepare, variants, gate, work, options)
