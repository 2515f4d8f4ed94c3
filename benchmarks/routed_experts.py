"""Distillation experts, forward and backward, mixed and one-hot, against the released form."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from benchmarks.harness import Options, Shape, Work, run
from rankdistill import functional
from rankdistill.experts import Experts

SHAPES = [Shape("DE on CiteULike", {"B": 2900, "M": 30, "D_t": 200, "D_s": 20})]
COLD = 1e-10


def prepare(shape: Shape) -> tuple:
    B, M, D_t, D_s = (shape[k] for k in ("B", "M", "D_t", "D_s"))
    generator = torch.Generator().manual_seed(0)
    teacher, student, logits = (torch.randn(B, width, generator=generator) for width in (D_t, D_s, M))
    experts = Experts(M, D_s, D_t)
    parts = (p.detach().requires_grad_() for p in experts.parts())
    return teacher, student.requires_grad_(), logits.requires_grad_(), *parts


def forward_backward(loss, temperature):
    def call(teacher, student, logits, *parts):
        routing = functional.expert_routing(logits, None, temperature)
        value = loss(teacher, student, routing, parts)
        return value.detach(), *torch.autograd.grad(value, (student, logits, *parts), materialize_grads=True)

    return call


def released(teacher, student, routing, parts):
    """The released code's steps: the routing repeated to [B, D_t, M], every expert, a stack, a product, a sum."""
    weight_in, bias_in, weight_out, bias_out = (p.unbind() for p in parts)
    repeated = routing.unsqueeze(1).repeat(1, teacher.shape[1], 1)
    made = [
        linear(linear(student, w, b).relu(), v, c).unsqueeze(-1)
        for w, b, v, c in zip(weight_in, bias_in, weight_out, bias_out)
    ]
    predicted = (torch.cat(made, -1) * repeated).sum(2)
    return ((teacher - predicted) ** 2).sum(-1).sum()


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    wide = tuple(a.detach().double().requires_grad_(a.requires_grad) for a in args)
    for temperature, names in ((1.0, ("mixed", "released, mixed")), (COLD, ("one-hot", "released, one-hot"))):
        expected = forward_backward(released, temperature)(*wide)
        for name in names:
            for found, wanted in zip(outputs[name], expected, strict=True):
                largest = wanted.abs().max().item()
                torch.testing.assert_close(
                    found.double(), wanted, rtol=1e-4, atol=1e-5 * largest + 1e-6, msg=f"{name}: wrong"
                )


def work(shape: Shape) -> Work:
    B, M, D_t, D_s = (shape[k] for k in ("B", "M", "D_t", "D_s"))
    return Work(flops=3 * 2.0 * B * M * ((D_t + D_s) // 2) * (D_t + D_s))  # of the mixed form


def main(options: Options) -> None:
    variants = {
        "mixed": forward_backward(functional.distillation_experts, 1.0),
        "released, mixed": forward_backward(released, 1.0),
        "one-hot": forward_backward(functional.distillation_experts, COLD),
        "released, one-hot": forward_backward(released, COLD),
    }
    run("routed_experts", SHAPES, prepare, variants, gate, work, options)
