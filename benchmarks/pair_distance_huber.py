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


def composed(teacher, student):
    """As its authors' code, with torch.cdist for its distances."""
    with torch.no_grad():
        wanted = torch.cdist(teacher, teacher)
        wanted = wanted / wanted[wanted > 0].mean()
    distances = torch.cdist(student, student)
    distances = distances / distances[distances > 0].mean()
    return torch.nn.functional.smooth_l1_loss(distances, wanted, reduction="sum")


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    rows = slice(0, 3000)
    few = args[0][rows], args[1].detach()[rows].requires_grad_()
    wide = few[0].double(), few[1].detach().double().requires_grad_()
    outputs = {"few rows": forward_backward(pair_distance_huber)(*few)} | (
        outputs if shape["B"] <= 3000 else {}
    )
    value, grad = forward_backward(composed)(*wide)
    for name, (found, found_grad) in outputs.items():
        torch.testing.assert_close(found.double(), value, rtol=1e-4, atol=0, msg=f"{name}: value")
        torch.testing.assert_close(found_grad.double(), grad, rtol=1e-2, atol=1e-2, msg=f"{name}: gradient")


def work(shape: Shape) -> Work:
    B, D_t, D_s = (shape[k] for k in ("B", "D_t", "D_s"))
    return Work(flops=2.0 * B * B * (1.5 * (D_t + D_s) + 2 * D_s))


def main(options: Options) -> None:
    variants = {
        "rankdistill": forward_backward(pair_distance_huber),
        "torch.cdist": forward_backward(composed),
    }
    run("pair_distance_huber", SHAPES, prepare, variants, gate, work, options)
