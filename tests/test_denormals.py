"""Denormal numbers are 0 in all of torch's threads while an epoch is trained, and nowhere else."""

from __future__ import annotations

import platform

import pytest
import torch

from rankdistill import MatrixFactorization, flushed_denormals, inner_product_topk
from rankdistill.config import TrainingConfig
from rankdistill.data import generate
from rankdistill.denormals import flushes
from rankdistill.ops.native import _native
from rankdistill.trainer import Trainer

SMALL = torch.full((1 << 20,), 1e-40)


@pytest.fixture(autouse=True)
def able():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    torch.set_flush_denormal(False)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def left() -> int:
    """Numbers that are not 0, of many, which all threads divide."""
    return int((SMALL * 1.0).count_nonzero())


@pytest.mark.skipif(_native is None, reason="no compiled CPU module, which reaches the other threads")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="only on x86 are other threads reached")
@pytest.mark.skipif(not torch.backends.openmp.is_available(), reason="torch has no OpenMP")
def test_all_threads_flush_and_then_no_more(two_threads):
    assert left() == len(SMALL)  # the team is there before
    with flushed_denormals():
        assert left() == 0
    assert left() == len(SMALL)


def test_an_error_puts_it_back():
    with pytest.raises(KeyError), flushed_denormals():
        raise KeyError
    assert not flushes()


def test_it_stays_where_the_caller_has_set_it():
    torch.set_flush_denormal(True)
    try:
        with flushed_denormals():
            assert flushes()
        assert flushes()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.skipif(_native is None, reason="no compiled CPU module, whose kernels set their own arithmetic")
def test_ops_have_an_arithmetic_of_their_own():
    users, items = torch.ones(3, 4), torch.linspace(1, 2, 200).view(50, 4) * 1e-42
    expected = inner_product_topk(users, items, 20)
    with flushed_denormals():
        found = inner_product_topk(users, items, 20)
    assert torch.equal(found.indices, expected.indices)
    assert (found.scores.view(torch.int32) != 0).all()


def test_a_trainer_flushes_in_its_epochs():
    data, seen = generate(40, 30, mean_interactions=8, min_interactions=4), []

    class Watching(MatrixFactorization):
        def loss(self, batch):
            seen.append(flushes())
            return super().loss(batch)

    Trainer(Watching(40, 30, width=4), data, TrainingConfig(epochs=2, evaluate_every=1)).fit()
    assert len(seen) >= 2
    assert all(seen)
    assert not flushes()
