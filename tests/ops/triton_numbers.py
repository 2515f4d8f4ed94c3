"""Run with TRITON_INTERPRET=1: the Triton launchers on CPU tensors against the float64 reference."""

from __future__ import annotations

import sys

import torch
from rankdistill.kernels.triton import plackett_luce as kernels

from rankdistill.reference import plackett_luce as reference
from tests.case import randint, randn


def cases(device):
    yield "plain", randn(5, 7, seed=1), randn(5, 9, seed=2), randint(0, 8, (5,), seed=3)
    yield "no lengths", randn(4, 40, seed=4), randn(4, 40, seed=5), None
    yield "no tail", randn(3, 5, seed=6), randn(3, 0), None
    yield "K = 1", randn(3, 1, seed=7), randn(3, 1, seed=8), None
    yield "K = 130", randn(2, 130, seed=9), randn(2, 3, seed=10), torch.tensor([130, 77])
    yield "tail in two blocks", randn(2, 3, seed=11), randn(2, 1500, seed=12), None
    yield "B = 0", randn(0, 4), randn(0, 3), None
    yield "empty tails", randn(2, 3, seed=13), torch.full((2, 4), -torch.inf), torch.tensor([3, 0])
    yield (
        "doubles",
        randn(3, 6, seed=14, dtype=torch.float64),
        randn(3, 8, seed=15, dtype=torch.float64),
        None,
    )
    yield (
        "bfloat16",
        randn(3, 6, seed=16, dtype=torch.bfloat16),
        randn(3, 8, seed=17, dtype=torch.bfloat16),
        None,
    )
    for scale in (10.0, 100.0, 1e3, 1e4):
        yield f"scale {scale:g}", randn(4, 12, seed=18, scale=scale), randn(4, 9, seed=19, scale=scale), None
    yield "needs the pairs", torch.tensor([[0.0, -50.0, -120.0]]), randn(1, 0), None
    yield "a strided view", randn(3, 20, seed=20)[:, 2:7], randn(3, 20, seed=21)[:, 9:15], None


def check(name, scores, tail, lengths, device):
    moved = [None if t is None else t.to(device) for t in (scores, tail, lengths)]
    grad = randn(scores.shape[0], seed=30, dtype=torch.float64).to(scores.dtype)
    wide = scores.double(), tail.double(), lengths
    K = scores.shape[1]
    double = scores.dtype == torch.float64
    losses = kernels.plackett_luce_forward(*moved).cpu()
    expected = reference.plackett_luce_forward(*wide)
    budget = (1e-12 if double else 2e-6) * expected.abs() + (1e-13 if double else 1e-7) * K
    assert losses.dtype == (torch.float64 if double else torch.float32)
    assert ((losses.double() - expected).abs() <= budget).all(), f"{name}: losses {losses} for {expected}"
    grads = kernels.plackett_luce_backward(grad.to(device), *moved)
    for found, wanted in zip(grads, reference.plackett_luce_backward(grad.double(), *wide), strict=True):
        bound = 1e-11 if double else 2e-6 if K <= 128 else 1e-5
        bound += torch.finfo(scores.dtype).eps / 2 if scores.dtype == torch.bfloat16 else 0
        # The gradient is the upstream one times a slope: its budget is the slope's, scaled.
        slope = (wanted / grad.double()[:, None]).abs()
        error = (found.cpu().double() - wanted).abs() / grad.double().abs()[:, None]
        assert (error <= bound * (1 + slope)).all(), f"{name}: gradient off by {error.max():.3g}"
    # One launch gives the bits of two.
    slopes = tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in moved[:2])
    ones = torch.ones(len(losses), dtype=losses.dtype, device=device)
    together = kernels.plackett_luce_slopes(*moved, slopes)
    for one, other in zip(
        (together, *slopes), (losses, *kernels.plackett_luce_backward(ones, *moved)), strict=True
    ):
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0).to(device)), name
    print("checked", name)


def check_bad_rows(device):
    scores, tail = randn(6, 4, seed=22), randn(6, 3, seed=23)
    clean = kernels.plackett_luce_forward(scores.to(device), tail.to(device), None).cpu()
    lengths = torch.tensor([4, 4, 5, -1, 4, 2])
    scores[0, 1] = torch.nan
    tail[1, 2] = torch.inf
    scores[5, 2:] = torch.nan
    moved = scores.to(device), tail.to(device), lengths.to(device)
    losses = kernels.plackett_luce_forward(*moved).cpu()
    assert losses.isnan().tolist() == [True, True, True, True, False, False]
    assert losses[4] == clean[4]
    grads = [g.cpu() for g in kernels.plackett_luce_backward(torch.ones(6, device=device), *moved)]
    for grad in grads:
        assert grad[:4].isnan().all()
        assert grad[4:].isfinite().all()
    assert (grads[0][5, 2:] == 0).all()
    nothing = torch.full((1, 0), 0.0)
    lists = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    tails = nothing.expand(2, 0)
    assert kernels.plackett_luce_forward(lists.to(device), tails.to(device), None).cpu().isnan().tolist() == [
        True,
        False,
    ]
    grad, _ = kernels.plackett_luce_backward(
        torch.ones(2, device=device), lists.to(device), tails.to(device), None
    )
    assert grad.cpu().isnan().tolist() == [[True, True], [False, False]]
    print("checked bad rows")


def main(device: str) -> None:
    for case in cases(device):
        check(*case, device)
    check_bad_rows(device)
    try:
        kernels.plackett_luce_forward(
            torch.zeros(1, 5000, device=device), torch.zeros(1, 0, device=device), None
        )
    except ValueError as error:
        assert "expected lists of at most 4096 on CUDA; got 5000" in str(error)
        print("checked the largest list")


if __name__ == "__main__":
    main(sys.argv[1])
