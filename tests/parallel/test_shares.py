"""Shares of a batch add up to it: every method's losses and gradients, whatever the number of processes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from rankdistill import Batch, Share
from rankdistill.losses import settings
from rankdistill.methods import METHODS, settings_of
from tests.losses.every_method import NAMES, begin, gradients, make, make_student, objective

SIZES = (2, 3, 40)  # 40: more processes than rows


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def forms(name: str) -> list[dict]:
    """A method's settings, and its means where it has them."""
    means = [{"reduction": "mean"}] * ("reduction" in settings_of(name))
    return [
        {},
        *means,
        *{"phr": [{"form": "paper"}], "listwise": [{"form": "list_mle", "unique": True}]}.get(name, []),
    ]


CASES = [
    pytest.param(name, options, id=" ".join((name, *map(str, options.values()))))
    for name in NAMES
    for options in forms(name)
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_shares_add_up_to_the_batch(name, options):
    student, method = make_student(name), make(name, **options)
    batch = begin(method, student, 3)
    alike = copy.deepcopy(method)
    whole = objective(method, student, batch)
    expected, state = gradients(whole, student, method), method.state_dict()
    budget = 5e-6 * (1 + whole.detach().abs())
    for size in SIZES:
        total, sums = 0.0, {}
        for rank in range(size):
            one = copy.deepcopy(alike)
            loss = objective(one, student, batch._replace(share=Share(rank, size)))
            total += loss.detach().double()
            for key, grad in gradients(loss, student, one).items() if loss.requires_grad else ():
                sums[key] = sums.get(key, 0) + grad.double()
            assert all(torch.equal(tensor, state[key]) for key, tensor in one.state_dict().items()), (
                "one state"
            )
        assert (total - whole.detach()).abs() <= budget, size
        assert sums.keys() == expected.keys()
        for key, grad in expected.items():
            assert (sums[key] - grad).abs().max() <= 1e-5 * (1 + grad.abs().max()), (size, key)


@pytest.mark.parametrize("name", NAMES)
def test_a_share_is_less_than_the_batch(name):
    """It is the work that is divided: no process learns for all, where the method says so."""
    student, method = make_student(name), make(name)
    batch = begin(method, student, 3)
    touched = []
    for share in (None, Share(0, 4)):
        grads = gradients(objective(copy.deepcopy(method), student, batch._replace(share=share)), student)
        touched.append(int((grads["0.user_table"] != 0).any(1).sum()))
    assert METHODS[name].divides in ("users", "interactions", "entities", "gradients", "nothing")
    # An item-side method may touch many users.
    if METHODS[name].divides != "nothing" and name not in ("ir-rrd", "dcd", "freqd"):
        assert 0 < touched[1] <= touched[0] / 2
    else:
        assert 0 < touched[1] <= touched[0]


@pytest.mark.parametrize("name", ["rrd", "ir-rrd", "unkd", "cd"])
def test_lists_drawn_batch_by_batch_are_the_epochs(name, monkeypatch):
    found = []
    for most in (settings.ROWS_AT_HAND, 0):
        monkeypatch.setattr(settings, "ROWS_AT_HAND", most)
        student, method = make_student(name), make(name)
        loss = objective(method, student, begin(method, student, 2))
        found.append((loss.detach(), gradients(loss, student)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(grad, found[1][1][key]) for key, grad in found[0][1].items())


def test_the_page_says_what_is_divided():
    text = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text().split("<!-- methods -->")[1]
    rows = [line.strip("| ").split(" | ") for line in text.split("\n\n")[0].splitlines() if line][2:]
    told = {name: kind for names, kind in rows for name in names.split(", ")}
    assert told == {name: method.divides for name, method in METHODS.items()}


def test_parts_by_position():
    batch = Batch(torch.arange(5), torch.arange(5) + 10, torch.arange(10).view(5, 2), Share(1, 2))
    assert batch.own().users.tolist() == [2, 3, 4]
    assert batch.own().negatives.tolist() == [[4, 5], [6, 7], [8, 9]]
    assert batch.own().share is None
