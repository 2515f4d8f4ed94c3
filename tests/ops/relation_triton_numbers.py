"""Run with TRITON_INTERPRET=1: the Triton forms of the ops over pairs on CPU tensors, against their float64 oracles."""

from __future__ import annotations

import importlib
import sys

import torch

from tests.case import randn, widened
from tests.cases import CASES

OPS = ("grouped_relation_distance", "pair_distance_huber", "triplet_angle_huber")
SKIPPED = ("many rows", "one group", "groups of one", "float32 products")  # too slow under the interpreter


def moved(args, device):
    return tuple(a.to(device) if isinstance(a, torch.Tensor) else a for a in args)


def check(op: str, dtype: torch.dtype, sample, device: str) -> None:
    case, module = CASES[op], importlib.import_module(f"rankdistill.ops.{op}")
    args = sample.args
    if op == "grouped_relation_distance" and len(args) == 3:
        args = (*args, False)
    loss, slopes = module.TRITON["forward"](*moved(args, device), True)
    wide = [widened(a) for a in args]
    wide[1].requires_grad_()
    (expected,) = case.expected_with_grad(wide, {})
    (budget,) = case.budget(dtype, (expected.detach(),), *args)
    error = (loss.cpu().double() - expected.detach()).abs()
    assert error <= budget, f"{op}, {sample.name}: loss {loss.item()} for {expected.item()}"
    (grad,) = torch.autograd.grad(expected, wide[1])
    error = (slopes.cpu().double() - grad).abs()
    assert (error <= case.grad_budget(dtype, grad)).all(), (
        f"{op}, {sample.name}: slopes off by {error.max():.3g}"
    )
    value, none = module.TRITON["forward"](*moved(args, device), False)
    assert none.shape == (0, args[1].shape[1])
    assert torch.equal(value, loss)
    print("checked", op, dtype, sample.name)


def check_what_is_not_finite(device: str) -> None:
    teacher, student = randn(6, 4, seed=1), randn(6, 3, seed=2)
    for where in (0, 1):
        for bad in (torch.nan, torch.inf):
            args = [teacher.clone(), student.clone()]
            args[where][2, 1] = bad
            for op in OPS:
                module = importlib.import_module(f"rankdistill.ops.{op}")
                more = {
                    "grouped_relation_distance": (torch.tensor([0, 0, 1, 1, 2, 2]), True),
                    "triplet_angle_huber": (None,),
                }
                given = moved((*args, *more.get(op, ())), device)
                assert module.TRITON["forward"](*given, True)[0].isnan(), op
    module = importlib.import_module("rankdistill.ops.triplet_angle_huber")
    for anchor in (6, -1):
        given = moved((teacher, student, torch.tensor([0, anchor])), device)
        assert module.TRITON["forward"](*given, True)[0].isnan()
    print("checked what is not finite")


def check_angles_of_any_size(device: str) -> None:
    """Angles do not depend on the length of rows, whose squares may overflow or vanish."""
    module = importlib.import_module("rankdistill.ops.triplet_angle_huber")
    teacher, student = (randn(9, width, seed=width, dtype=torch.float64) for width in (4, 3))
    wanted = module.TRITON["forward"](*moved((teacher, student, None), device), True)
    for size in (1e-165, 1e160):
        found = module.TRITON["forward"](*moved((teacher, size * student, None), device), True)
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-11, atol=0)
        torch.testing.assert_close(size * found[1], wanted[1], rtol=1e-9, atol=1e-12)
    print("checked angles of any size")


def main(device: str) -> None:
    for op in OPS:
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for sample in CASES[op].samples(dtype):
                few = dtype == torch.float32 or sample.name == "plain"
                if few and not sample.name.startswith(SKIPPED):
                    check(op, dtype, sample, device)
    check_what_is_not_finite(device)
    check_angles_of_any_size(device)


if __name__ == "__main__":
    main(sys.argv[1])
