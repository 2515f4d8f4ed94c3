"""Training on two processes: the weights, metrics and errors of one, for every method."""

from __future__ import annotations

import pytest
import torch

from tests.losses.every_method import NAMES
from tests.parallel import training_ranks
from tests.process import expect_ended, start_ranks

SIZE = 2
RUNS = [
    *NAMES,
    *training_ranks.MODELS,
    *(f"rd under {name}" for name in training_ranks.OPTIMIZERS),
    "loop with rrd",
    "loop with hint",
    "loop with ftd",
    "resumed",
    "whole",
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(of one process, of each of two)"""
    folder = tmp_path_factory.mktemp("training")
    processes = start_ranks("tests.parallel.training_ranks", SIZE, folder)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    one = training_ranks.alone_or_together(folder / "alone")
    torch.set_num_threads(before)
    expect_ended(processes)
    return one, [torch.load(folder / f"answers-{rank}") for rank in range(SIZE)]


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_train_as_one(answers, run):
    one, two = answers
    (expected, history), (found, told) = one[run], two[0][run]
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(
            found[key],
            tensor,
            rtol=1e-4,
            atol=1e-5,
            equal_nan=True,
            msg=lambda text, key=key: f"{key}: {text}",
        )
    for record, other in zip(told, history, strict=True):
        assert record["loss"] == pytest.approx(other["loss"], rel=1e-5), record["epoch"]
        assert record["valid/recall@20"] == pytest.approx(other["valid/recall@20"], abs=0.02)
    copy = two[1][run][0]
    assert all(torch.equal(tensor.nan_to_num(), copy[key].nan_to_num()) for key, tensor in found.items())


@pytest.mark.parametrize("name", training_ranks.SHAPES)
def test_gradients_are_added_up(answers, name):
    expected = answers[0]["sums"][name]
    for found in (two["sums"][name] for two in answers[1]):
        if expected is None:
            assert found is None
            continue
        assert found.is_sparse == expected.is_sparse
        if found.is_sparse:
            assert found.is_coalesced()
            assert torch.equal(found.indices(), expected.coalesce().indices())
            found, wanted = found.values(), expected.coalesce().values()
        else:
            wanted = expected
        torch.testing.assert_close(found, wanted, rtol=2e-7, atol=2e-7)


def test_a_resumed_run_goes_on_bit_for_bit(answers):
    _, two = answers
    for found in two:
        assert all(torch.equal(tensor, found["whole"][0][key]) for key, tensor in found["resumed"][0].items())


def test_what_cannot_be_divided_or_disagrees_is_an_error_on_all(answers):
    for found in answers[1]:
        assert "whose batches are users: train it on one" in found["batches of users"]
        assert found["undivided"].startswith("ValueError: Undivided: expected `divides`")
        settings = "ValueError: Trainer: expected the same training.learning_rate on all processes; got 0.1 on rank 0, 0.5 on"
        assert found["settings"].startswith(settings)
        assert found["model"].startswith(
            "ValueError: Trainer: expected the same shape of model.user_table on all processes; got "
        )
        assert found["method"].startswith("ValueError: Trainer: expected the same ")
