"""The distance term of relational knowledge distillation against torch.cdist, forward and backward."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, run
from benchmarks.relation_distance import forward_backward, prepare
from rankdistill import pair_distance_huber

SHAPES = [
    Shape("RKD on CiteULike", {"B": 2900, "D_t": 200, "D_s": 20}),
    Shape("RKD, large batch", {"B": 8192, "D_t": 256, "D_s": 32}),
]


def composed(teacher, student, mode="use_mm_for_euclid_dist_if_necessary"):
    """As its authors' code, with torch.cdist for its distances."""
    with torch.no_grad():
        wanted = torch.cdist(teacher, teacher, compute_mode=mode)
        wanted = wanted / wanted[wanted > 0].mean()
    distances = torch.cdist(student, student, compute_mode=mode)
    distances = distances / distances[distances > 0].mean()
    return torch.nn.functional.smooth_l1_loss(distances, wanted, reduction="sum")


def exact(teacher, student):
    return composed(teacher, student, "donot_use_mm_for_euclid_dist")


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    few = args[0][:2900], args[1].detach()[:2900].requires_grad_()
    wide = few[0].double(), few[1].detach().double().requires_grad_()
    value, grad = forward_backward(exact)(*wide)
    found, found_grad = forward_backward(pair_distance_huber)(*few)
    torch.testing.assert_close(found.double(), value, rtol=5e-6, atol=0, msg="value")
    torch.testing.assert_close(found_grad.double(), grad, rtol=1e-5, atol=1e-5, msg="gradient")
    # torch.cdist by products finds distances above 0 between a row and itself, which moves its means.
    values = [value for value, _ in outputs.values()]
    torch.testing.assert_close(values[0], values[1], rtol=1e-2, atol=0, msg="torch.cdist: value")


def work(shape: Shape) -> Work:
    B, D_t, D_s = (shape[k] for k in ("B", "D_t", "D_s"))
    return Work(flops=2.0 * B * B * (1.5 * (D_t + D_s) + 2 * D_s))


def main(options: Options) -> None:
    variants = {
        "rankdistill": forward_backward(pair_distance_huber),
        "torch.cdist": forward_backward(composed),
    }
    run("pair_distance_huber", SHAPES, prepare, variants, gate, work, options)
