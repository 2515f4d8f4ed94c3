"""Full topology distillation, forward and backward, against matrices of pairs; and over a whole table, which has none."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from benchmarks.harness import Options, Shape, Work, compiled, run
from rankdistill import relation_distance

SHAPES = [
    Shape("FTD on CiteULike", {"B": 2900, "D_t": 200, "D_s": 20}),
    Shape("FTD, large batch", {"B": 8192, "D_t": 256, "D_s": 32}),
]
TABLES = [Shape("FTD over a table of 1M", {"B": 1_000_000, "D_t": 256, "D_s": 32})]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(shape["B"], shape["D_t"], generator=generator)
    return teacher, torch.randn(shape["B"], shape["D_s"], generator=generator).requires_grad_()


def forward_backward(loss):
    def call(teacher, student):
        value = loss(teacher, student)
        return value.detach(), *torch.autograd.grad(value, student)

    return call


def pairwise(teacher, student):
    """As a user would write it."""
    teacher, student = normalize(teacher), normalize(student)
    return (teacher @ teacher.t() - student @ student.t()).square().sum()


def released_similarity(x):
    lengths = x.square().sum(1).sqrt()
    return (x @ x.t()) / (lengths[:, None] * lengths[None, :])


def released(teacher, student):
    """The released code's steps: products and lengths of all pairs, a quotient, a difference, a square."""
    return (
        (released_similarity(teacher).reshape(-1) - released_similarity(student).reshape(-1)).pow(2.0).sum()
    )


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    if shape["B"] > 10_000:  # too many pairs to look at: the gradient of the first rows' loss
        args = tuple(a.detach()[:5000] for a in args)
        args[1].requires_grad_()
        outputs = {"rankdistill": forward_backward(relation_distance)(*args)}
    wide = [a.detach().double().requires_grad_(a.requires_grad) for a in args]
    value, grad = forward_backward(pairwise)(*wide)
    for name, (found, found_grad) in outputs.items():
        if "without" not in name:
            torch.testing.assert_close(
                found.double(),
                value,
                rtol=1e-5 if name.startswith("rankdistill") else 1e-3,
                atol=0,
                msg=f"{name}: value",
            )
        if name.startswith("rankdistill"):
            torch.testing.assert_close(
                found_grad.double(), grad, rtol=1e-4, atol=1e-4, msg=f"{name}: gradient"
            )
        else:  # fp32 matrices of pairs lose digits
            assert (found_grad - grad).norm() <= 1e-3 * grad.norm(), f"{name}: gradient"


def work(shape: Shape) -> Work:
    B, D_t, D_s = (shape[k] for k in ("B", "D_t", "D_s"))
    # One triangle of the teacher's Gram matrix; cross and own Gram matrices and both products of the gradient.
    return Work(flops=2.0 * B * (D_t * D_t / 2 + 2 * D_t * D_s + 2 * D_s * D_s))


def main(options: Options) -> None:
    ours = {
        "rankdistill": forward_backward(relation_distance),
        "rankdistill, without the teacher's term": forward_backward(
            lambda teacher, student: relation_distance(teacher, student, teacher_term=False)
        ),
    }
    baselines = {
        "torch, matrices of pairs": forward_backward(pairwise),
        "torch.compile of them": compiled(forward_backward, pairwise),
        "as released": forward_backward(released),
    }
    run("relation_distance", SHAPES, prepare, {**ours, **baselines}, gate, work, options)
    run("relation_distance_table", TABLES, prepare, ours, gate, work, options)
