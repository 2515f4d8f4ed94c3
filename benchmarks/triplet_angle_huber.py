"""The angle term of relational knowledge distillation, forward and backward, against tensors of all triples."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize, smooth_l1_loss

from benchmarks.harness import Options, Shape, Work, compiled, run
from benchmarks.relation_distance import forward_backward, prepare
from rankdistill import triplet_angle_huber

SHAPES = [
    Shape("RKD on CiteULike, its 128 entities", {"B": 128, "D_t": 200, "D_s": 20}),
    Shape("RKD, 256 entities", {"B": 256, "D_t": 256, "D_s": 32}),
]


def cosines(rows):
    """[B, B, B]: of the angles at the first index."""
    directions = normalize(rows[None] - rows[:, None], dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def composed(teacher, student):
    """As its authors' code: differences to every anchor, normalised, and their products."""
    with torch.no_grad():
        wanted = cosines(teacher)
    return smooth_l1_loss(cosines(student), wanted, reduction="sum")


def by_anchor(teacher, student):
    """The same with one anchor's pairs at a time, and its gradient at once."""
    total, gradient = 0.0, torch.zeros_like(student)
    for anchor in range(len(teacher)):
        with torch.no_grad():
            directions = normalize(teacher - teacher[anchor])
            wanted = directions @ directions.t()
        directions = normalize(student - student[anchor])
        loss = smooth_l1_loss(directions @ directions.t(), wanted, reduction="sum")
        gradient += torch.autograd.grad(loss, student)[0]
        total += loss.detach()
    return total, gradient


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    wide = args[0].double(), args[1].detach().double().requires_grad_()
    value, grad = by_anchor(*wide)
    for name, (found, found_grad) in outputs.items():
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=0, msg=f"{name}: value")
        largest = 1e-5 * grad.abs().max().item()
        torch.testing.assert_close(
            found_grad.double(), grad, rtol=1e-4, atol=largest, msg=f"{name}: gradient"
        )


def work(shape: Shape) -> Work:
    B, D_t, D_s = (shape[k] for k in ("B", "D_t", "D_s"))
    # Half of every anchor's cosines, and what its gradient is made of.
    return Work(flops=2.0 * B**3 * ((D_t + D_s) / 2 + D_s))


def main(options: Options) -> None:
    variants = {
        "rankdistill": forward_backward(triplet_angle_huber),
        "torch, all triples": forward_backward(composed),
        "torch.compile of them": compiled(forward_backward, composed),
        "torch, anchor by anchor": by_anchor,
    }
    run("triplet_angle_huber", SHAPES, prepare, variants, gate, work, options)
