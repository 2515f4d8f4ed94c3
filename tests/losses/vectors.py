"""A small world for methods that teach vectors: two tables of a teacher, a student, a batch with repeats."""

from __future__ import annotations

import torch

from rankdistill import Batch, MatrixFactorization
from tests.case import randint, randn

U, N, D_T, D_S = 20, 30, 12, 4


def teacher_tables():
    return randn(U, D_T, seed=1), randn(N, D_T, seed=2)


def make_student(seed: int = 3):
    return MatrixFactorization(U, N, D_S, seed=seed, init_std=1.0)


def make_batch():
    users, positives, negatives = (randint(0, high, (25,), seed=at) for high, at in ((U, 4), (N, 5), (N, 6)))
    negatives[3] = -1
    return Batch(users, positives, negatives)


def golden_tensors(numbers: dict) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(array)
        for name, array in numbers.items()
        if array.ndim or array.dtype.kind == "f"
    }


def assert_golden(loss, wanted, leaves: dict, numbers: dict) -> None:
    """The tolerances of the golden index: the loss relative, gradients relative to their largest entry."""
    double = loss.dtype == torch.float64
    loss.backward()
    assert abs(loss.item() - float(wanted)) <= (1e-10 if double else 3e-5) * abs(float(wanted))
    for name, leaf in leaves.items():
        expected = torch.as_tensor(numbers[name])
        error = (leaf.grad - expected).abs().max()
        assert error <= (1e-9 if double else 3e-4) * expected.abs().max(), name
