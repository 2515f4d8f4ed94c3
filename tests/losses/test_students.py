"""Students that are no model of the package: whatever shape they have, every method trains what they score."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rankdistill import plackett_luce
from rankdistill.methods import METHODS
from tests.case import randn
from tests.losses.every_method import N, U, begin, gradients, make, objective

WIDTH = 6
USERS, ITEMS = randn(U, WIDTH, seed=31), randn(N, WIDTH, seed=32)
BIASES = {"user_bias": randn(U, seed=33), "item_bias": randn(N, seed=34)}
OF_SCORES = [name for name in METHODS if name != "concf"]  # which has a model of its own


class Student(nn.Module):
    """Two tables, with or without biases."""

    def __init__(self, *biases: str, says_so: bool = False) -> None:
        super().__init__()
        self.users, self.items = (
            nn.Embedding.from_pretrained(USERS, False),
            nn.Embedding.from_pretrained(ITEMS, False),
        )
        for name in biases:
            setattr(self, name, nn.Parameter(BIASES[name].clone()))
        self.biases, self.scores_are_inner_products = biases, says_so

    def user_vectors(self, ids=None):
        return self.users.weight if ids is None else self.users(ids)

    def item_vectors(self, ids=None):
        return self.items.weight if ids is None else self.items(ids)

    def score(self, users, items):
        scores = (self.users(users)[:, None] * self.items(items)).sum(-1)
        if "user_bias" in self.biases:
            scores = scores + self.user_bias[users][:, None]
        return scores + self.item_bias[items] if "item_bias" in self.biases else scores


def taught(name: str, student: nn.Module, **options) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch after some epochs, and the student's gradients."""
    method = make(name, **options)
    loss = objective(method, student, begin(method, student, 3))
    return loss.detach(), gradients(loss, student)


def assert_taught_alike(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for key, grad in expected[1].items():
        torch.testing.assert_close(found[1][key], grad, rtol=1e-4, atol=1e-5 * (1 + float(grad.abs().max())))


@pytest.mark.parametrize("biases", [("item_bias",), ("user_bias",)])
@pytest.mark.parametrize("name", OF_SCORES)
def test_a_bias_is_learned_whatever_the_student_says_of_its_scores(name, biases):
    assert_taught_alike(taught(name, Student(*biases, says_so=True)), taught(name, Student(*biases)))


def test_a_list_above_the_whole_catalogue_learns_item_biases():
    student, method = Student("item_bias", says_so=True), make("rrd", n_uninteresting=None)
    users = torch.unique(begin(method, student, 0).users)
    loss = method(student, users)
    items, lengths = method.drawn(users)
    scores = student.score(users, torch.arange(N).repeat(len(users), 1))
    listed = scores.gather(1, items.clamp_min(0)).masked_fill(items < 0, -torch.inf)
    tail = scores.masked_fill(method.known(users).to_dense(), -torch.inf)
    expected = plackett_luce(listed, tail, lengths).sum()
    assert_taught_alike(
        (loss.detach(), gradients(loss, student)), (expected.detach(), gradients(expected, student))
    )
    with pytest.raises(
        TypeError, match=r"inner products, .+ says so \(scores_are_inner_products\); got Student"
    ):
        method(Student("item_bias"), users)
