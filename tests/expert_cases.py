"""The case of routed experts."""

from __future__ import annotations

import torch

from rankdistill.ops.routed_experts import forward_fused
from tests.case import BadSample, Case, Sample, randint, randn, storage_rounding, unit


def experts(M, H, D, O, seed, dtype):
    shapes = (M, H, D), (M, H), (M, O, H), (M, O)
    return tuple(randn(*shape, seed=seed + at, dtype=dtype) for at, shape in enumerate(shapes))


def routed_samples(dtype):
    for name, (B, M, H, D, O) in {
        "plain": (7, 3, 5, 4, 6),
        "one expert": (4, 1, 3, 2, 5),
        "more experts than rows": (3, 9, 2, 4, 3),
        "whole vectors and a rest": (9, 4, 37, 5, 6),
        "B = 0": (0, 3, 2, 4, 3),
        "B = 1": (1, 2, 3, 1, 1),
    }.items():
        x, parts = randn(B, D, seed=1, dtype=dtype), experts(M, H, D, O, 2, dtype)
        yield Sample(f"{name}, mixed", (x, randn(B, M, seed=6, dtype=dtype).softmax(1), *parts))
        yield Sample(f"{name}, chosen", (x, randint(0, M, (B,), seed=7), *parts))


def routed_bad_samples():
    x, routing, parts = randn(3, 4), torch.ones(3, 2), experts(2, 5, 4, 6, 1, torch.float32)
    yield BadSample(
        "widths differ", (randn(3, 5), routing, *parts), ValueError, r"weight_in of shape \[2, 5, 5\]"
    )
    yield BadSample("shares of others", (x, routing[:2], *parts), ValueError, r"routing of shape \[3, 2\]")
    ids = torch.tensor([0, 2, 1])
    yield BadSample(
        "expert of M", (x, ids, *parts), IndexError, r"routing in \[0, 2\); got 2 at position \[1\]"
    )
    yield BadSample("expert of -1", (x, ids - 1, *parts), IndexError, "got -1")
    yield BadSample(
        "routing of a list", (x, [0, 1, 1], *parts), TypeError, "routing as a int64 tensor; got list"
    )
    yield BadSample("ids of int32", (x, ids.int(), *parts), TypeError, "routing as a int64")
    yield BadSample(
        "two dimensions", (x, routing, parts[0][0], *parts[1:]), ValueError, "weight_in with 3 dim"
    )


def routed_oracle(x, routing, weight_in, bias_in, weight_out, bias_out):
    hidden = (torch.einsum("bd,mhd->bmh", x, weight_in) + bias_in).relu()
    out = torch.einsum("bmh,moh->bmo", hidden, weight_out) + bias_out
    if not routing.is_floating_point():
        return out[torch.arange(len(x)), routing]
    return (out * routing[:, :, None]).sum(1)


def routed_budget(dtype, expected, x, routing, *parts):
    # Of what is added up, each product as large as it may be.
    size = routed_oracle(x.double().abs(), routing, *(p.double().abs() for p in parts))
    return (unit(dtype, 2e-6, 1e-14) * (1 + size),)


def routed_calls(args, kwargs):
    yield "routed_experts_forward", args
    args = tuple(a.detach() for a in args)
    hidden = forward_fused(*args)[1]
    yield "routed_experts_backward", (randn(len(args[0]), args[4].shape[1], seed=8), *args, hidden)


ROUTED_EXPERTS = Case(
    op="routed_experts",
    samples=routed_samples,
    bad_samples=routed_bad_samples,
    oracle=routed_oracle,
    budget=routed_budget,
    overload_calls=routed_calls,
    differentiable=(0, 1, 2, 3, 4, 5),
    grad_budget=lambda dtype, grad: (unit(dtype, 1e-4, 1e-11) + storage_rounding(dtype)) * (1 + grad.abs()),
    backends=("FUSED", "REFERENCE"),
)
