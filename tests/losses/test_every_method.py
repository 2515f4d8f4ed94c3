"""What every method that the command line offers keeps: a new one is tested by being listed in METHODS."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from rankdistill import Batch, Term, Trainer
from rankdistill.checkpoint import load_checkpoint, save_checkpoint
from rankdistill.config import TrainingConfig
from rankdistill.methods import METHODS
from tests.losses.every_method import (
    NAMES,
    begin,
    given_in,
    gradients,
    make,
    make_batch,
    make_student,
    objective,
    world,
)

every_method = pytest.mark.parametrize("name", NAMES)
WHOLE_LOSS = {torch.float32: 5e-6, torch.bfloat16: 1.5e-2}  # relative, as kernels/README.md has it
CONFIG = TrainingConfig(
    epochs=6, batch_size=128, learning_rate=0.02, evaluate_every=1, metric="recall@20", keep_best=False
)


@pytest.fixture(autouse=True)
def one_thread():
    """The world is tiny: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(name, config, folder, dataset=None):
    dataset = dataset or world()
    method = make(name, given_in(dataset))
    return Trainer(
        make_student(name, scale=1.0), dataset, config, [Term(METHODS[name].default_weight, method)],
        base_weight=METHODS[name].default_base_weight, folder=folder,
    )  # fmt: skip


@every_method
def test_a_resumed_run_goes_on_bit_for_bit(name, tmp_path):
    whole = trainer(name, CONFIG, tmp_path / "whole")
    before = copy.deepcopy(whole.model.state_dict())
    whole.fit()
    trainer(name, replace(CONFIG, epochs=3), tmp_path / "parts").fit()
    trainer(name, CONFIG, tmp_path / "parts").fit()
    expected, found = (
        load_checkpoint(tmp_path / part / "checkpoint.safetensors")[0] for part in ("whole", "parts")
    )
    assert {g: t.keys() for g, t in expected.items()} == {g: t.keys() for g, t in found.items()}
    different = [
        f"{g}/{k}" for g, named in expected.items() for k in named if not torch.equal(named[k], found[g][k])
    ]
    assert not different
    assert any(not torch.equal(tensor, before[key]) for key, tensor in expected["model"].items()), (
        "it learned"
    )


@every_method
def test_state_dict_holds_all_that_a_method_knows(name, tmp_path):
    """A method made anew, with other values everywhere, is the same one once it has the state."""
    student = make_student(name)
    method, other = make(name), make(name)
    objective(method, student, begin(method, student, 5))
    state = {"method": method.state_dict()}
    save_checkpoint(tmp_path / "state.safetensors", state, {})
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.fill_(1)
    read = load_checkpoint(tmp_path / "state.safetensors")[0].get("method", {})
    assert read.keys() == state["method"].keys()
    other.load_state_dict(read)
    for key, tensor in method.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key
    found = []
    for each in (method, other):
        each.begin_epoch(6, student)
        loss = objective(each, student, make_batch(each, 6))
        found.append((loss, gradients(loss, student, each)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys()
    assert all(torch.equal(grad, found[1][1][key]) for key, grad in found[0][1].items())


@every_method
def test_a_compiled_loss_is_the_eager_one(name):
    """Traced by torch.compile, with graph breaks where a batch's unique users are counted."""
    found = []
    for compiled in (False, True):
        student, method = make_student(name), make(name)
        batch = begin(method, student, 3)
        step = lambda *batch, student=student, method=method: objective(method, student, Batch(*batch))
        torch._dynamo.reset()
        loss = (torch.compile(step, backend="aot_eager") if compiled else step)(*batch)
        found.append((loss.detach(), gradients(loss, student, method)))
    (eager, expected), (loss, grads) = found
    torch.testing.assert_close(loss, eager, rtol=WHOLE_LOSS[torch.float32], atol=0)
    assert grads.keys() == expected.keys()
    for key, grad in grads.items():
        largest = expected[key].abs().max()
        assert (grad - expected[key]).abs().max() <= 1e-5 * (1 + largest), key


@every_method
def test_autocast_keeps_the_budget(name):
    found = []
    for enabled in (False, True):
        student, method = make_student(name), make(name)
        batch = begin(method, student, 3)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = objective(method, student, batch)
        assert loss.dtype == torch.float32
        found.append((loss.detach(), gradients(loss, student, method)))
    (expected, _), (loss, grads) = found
    torch.testing.assert_close(loss, expected, rtol=WHOLE_LOSS[torch.bfloat16], atol=0)
    assert all(grad.isfinite().all() for grad in grads.values())


@every_method
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0, 1e4])
def test_losses_and_gradients_are_finite(name, scale):
    """Vectors of zeros, new ones, trained ones, and scores of about 1e5."""
    student, method = make_student(name, scale=scale), make(name)
    loss = objective(method, student, begin(method, student, 3))
    grads = gradients(loss, student, method)
    assert loss.shape == ()
    assert loss.isfinite()
    assert any(key.startswith("0.") for key in grads), "the student learns"
    assert not [key for key, grad in grads.items() if not grad.isfinite().all()]


@every_method
def test_a_call_without_gradients_changes_nothing(name):
    student, method = make_student(name), make(name)
    batch = begin(method, student, 3)
    states = [copy.deepcopy(module.state_dict()) for module in (student, method)]
    inputs, random = [None if part is None else part.clone() for part in batch], torch.get_rng_state()
    with torch.no_grad():
        loss = method(student, batch)
    assert not loss.requires_grad
    for module, state in zip((student, method), states):
        assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert all(a is b or torch.equal(a, b) for a, b in zip(batch, inputs))
    assert torch.equal(torch.get_rng_state(), random)
    method.begin_epoch(3, student)
    assert torch.equal(method(student, batch).detach(), loss), "the same draws, the same loss"
