"""Ids and tables that are not where a model is: they are brought to it, and methods made on the CPU teach it there."""

from __future__ import annotations

import pytest
import torch

from rankdistill import Batch, Rankings, as_teacher
from rankdistill.losses.head_balance import HeadBalance
from rankdistill.losses.list_scores import teacher_scores
from rankdistill.metrics import evaluate, evaluate_candidates
from rankdistill.models.factors import Factors
from rankdistill.models.teachers import ScoreTeacher
from rankdistill.vector_scores import device_of
from tests.case import randn
from tests.elsewhere import DEVICE, Elsewhere, WithElsewhere, moved
from tests.losses.every_method import N, U, make, make_batch, world
from tests.losses.test_students import OfScores, Student

LOOKS = [
    *((name, {}, model) for name in ("dcd", "bd", "rce_kd") for model in (Student, OfScores)),
    *(("cd", {"guide": "student"}, model) for model in (Student, OfScores)),
    ("dcd", {"among": "catalogue"}, Student),
    ("hetcomp", {}, Student),
    ("rrd", {}, Student),
]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    with monkeypatch.context() as patched, WithElsewhere():
        # What stands for the device knows no autocast.
        patched.setattr(torch, "is_autocast_enabled", lambda *device: False)
        yield


class OfBuffers(OfScores):
    """A frozen model that has no parameters."""

    def __init__(self) -> None:
        super().__init__()
        for layer in (self.users, self.items):
            table = layer.weight.detach()
            del layer.weight
            layer.register_buffer("weight", table)


def test_numbers_elsewhere_refuse_others():
    here = torch.arange(3)
    there = here.to(DEVICE)
    assert isinstance(there, Elsewhere)
    assert torch.equal((there + there).cpu(), here + here)
    with pytest.raises(RuntimeError, match="one device"):
        there + here
    with pytest.raises(RuntimeError, match="one device"):
        here[there]


@pytest.mark.parametrize(("name", "options", "model"), LOOKS)
def test_a_method_on_the_cpu_begins_an_epoch_with_a_student_elsewhere(name, options, model):
    """What it keeps is what it keeps of the same student on the CPU, and so is the loss."""
    found = []
    for place in (lambda model: model, moved):
        method, student = make(name, **options), place(model())
        method.begin_epoch(0, student)
        state = {key: value for key, value in method.state_dict().items() if isinstance(value, torch.Tensor)}
        batch = make_batch(method, 0)
        if method.trained_teacher is not None:  # trains with the student, where the student is
            place(method.trained_teacher)
        batch = Batch(*(part.to(device_of(student)) for part in batch[:3]))
        state["loss"] = method(student, batch).detach().cpu()
        found.append(state)
    torch.testing.assert_close(found[1], found[0], equal_nan=True)


@pytest.mark.parametrize("model", [OfScores, Student, OfBuffers])
def test_a_model_elsewhere_is_evaluated_as_it_is_here(model):
    metrics = ["recall", "ndcg", "auc"]
    parts = world().valid.csr(), world().train.csr()
    users, held_out, candidates = torch.arange(4), torch.arange(4)[:, None], torch.arange(20).view(4, 5)
    here, there = model(), moved(model())
    assert evaluate(there, *parts, [5], metrics) == evaluate(here, *parts, [5], metrics)
    (wanted,), (found,) = (evaluate_candidates(each, users, held_out, candidates) for each in (here, there))
    assert all(torch.equal(found[name].cpu(), wanted[name]) for name in wanted)


@pytest.mark.parametrize("model", [OfScores, Student, OfBuffers])
def test_a_teacher_elsewhere_ranks_and_scores_ids_of_here(model):
    train, users, items = world().train.csr(), torch.arange(4), torch.arange(12).view(4, 3)
    here, there = as_teacher(model()), as_teacher(moved(model()))
    for exclude in (None, train):
        wanted, found = (teacher.rankings(5, exclude) for teacher in (here, there))
        assert torch.equal(found.indices, wanted.indices)
        assert torch.equal(found.scores, wanted.scores)
    assert torch.allclose(there.score(users, items).cpu(), here.score(users, items), atol=1e-5)
    assert torch.equal(teacher_scores(moved(model()), users, items), teacher_scores(model(), users, items))


def test_scores_elsewhere_make_rankings_with_train_items_of_here():
    table, train = randn(U, N, seed=3), world().train.csr()
    wanted = Rankings.from_scores(table, 5, train)
    for found in (
        Rankings.from_scores(table.to(DEVICE), 5, train),
        ScoreTeacher(lambda users: table.to(DEVICE)[users], U, N).rankings(5, train),
    ):
        assert torch.equal(found.indices, wanted.indices)


def test_factors_elsewhere_add_their_biases_to_the_scores_of_here():
    factors = Factors(*(randn(*shape, seed=at) for at, shape in enumerate([(U, 4), (N, 4), (N,), (U,)])))
    wanted, found = (each.rankings(5) for each in (factors, factors.to(DEVICE)))
    assert torch.equal(found.scores, wanted.scores)


def test_heads_elsewhere_are_balanced_here():
    found = []
    for device in ("cpu", DEVICE):
        balance = HeadBalance(3, 0.01, 0.15, 10)
        for epoch in range(2):
            balance.step(epoch, *(randn(3, seed=epoch + at).abs().to(device) for at in range(3)))
        found.append(balance.weights)
    assert torch.equal(*found)


def test_where_a_model_is():
    assert device_of(Student()) == torch.device("cpu") != device_of(moved(Student()))
    assert device_of(moved(OfBuffers())) == DEVICE
    assert device_of(object()) == torch.device("cpu")
