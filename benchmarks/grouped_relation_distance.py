"""The topology term of hierarchical topology distillation, released filter, against the released form."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, run
from benchmarks.relation_distance import released_similarity
from rankdistill import functional, grouped_relation_distance

SHAPES = [Shape("HTD on CiteULike", {"B": 2900, "G": 60, "D_t": 200, "D_s": 20})]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(shape["B"], shape["D_t"], generator=generator)
    student = torch.randn(shape["B"], shape["D_s"], generator=generator).requires_grad_()
    return teacher, student, torch.randint(shape["G"], (shape["B"],), generator=generator)


def forward_backward(loss):
    def call(teacher, student, groups):
        value = loss(teacher, student, groups)
        return value.detach(), *torch.autograd.grad(value, student)

    return call


def similarity(x, y):
    return (x @ y.t()) / (x.square().sum(1).sqrt()[:, None] * y.square().sum(1).sqrt()[None, :])


def released(teacher, student, groups):
    """The released code's steps: a mask of pairs from one-hot groups, all pairs' cosines, a selection by it."""
    one_hot = torch.nn.functional.one_hot(groups).to(teacher.dtype)
    mask = one_hot @ one_hot.t()
    with torch.no_grad():
        averaging = one_hot / (one_hot.sum(0) + 1e-10)
        means = averaging.t() @ teacher, averaging.t() @ student
    wanted, found = released_similarity(teacher) * mask, released_similarity(student) * mask
    kept = wanted > 0.0
    within = (wanted[kept] - found[kept]).pow(2.0).sum()
    across = similarity(means[0], teacher).reshape(-1) - similarity(means[1], student).reshape(-1)
    return within + across.pow(2.0).sum()


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    teacher, student, groups = args
    wide = teacher.double(), student.detach().double().requires_grad_(), groups
    value, grad = forward_backward(released)(*wide)
    for name, (found, found_grad) in outputs.items():
        if "within" not in name:
            torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=0, msg=f"{name}: value")
            torch.testing.assert_close(
                found_grad.double(), grad, rtol=1e-4, atol=1e-4, msg=f"{name}: gradient"
            )


def work(shape: Shape) -> Work:
    B, G, D_t, D_s = (shape[k] for k in ("B", "G", "D_t", "D_s"))
    return Work(flops=2.0 * B * (B / G) * (D_t + 2 * D_s) + 2.0 * B * G * (D_t + 2 * D_s))


def main(options: Options) -> None:
    variants = {
        "rankdistill": forward_backward(functional.hierarchical_topology_distillation),
        "rankdistill, pairs within groups alone": forward_backward(
            lambda teacher, student, groups: grouped_relation_distance(teacher, student, groups, True)
        ),
        "as released": forward_backward(released),
    }
    run("grouped_relation_distance", SHAPES, prepare, variants, gate, work, options)
