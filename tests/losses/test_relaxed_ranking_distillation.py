"""Relaxed ranking distillation: the released code's numbers, the draws, the module in a user's loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankdistill import Batch, ItemSideRankingRegularization, Rankings, RelaxedRankingDistillation
from rankdistill.data import CSR
from rankdistill.functional import bayesian_personalized_ranking, relaxed_ranking_distillation
from rankdistill.models import MatrixFactorization, NeuralMatrixFactorization
from tests.case import generator, randn
from tests.conftest import GOLDEN

U, N = 30, 200


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("rrd_*.npz")), ids=lambda p: p.stem)
def test_released_numbers(path):
    golden = dict(np.load(path))
    stable = (
        "ref_loss_stable"
        if "ref_loss_stable" in golden
        else "ref_loss_f64"
        if "ref_loss_f64" in golden
        else "loss"
    )
    suffix = stable.removeprefix("ref_loss").removeprefix("loss")
    double = golden["S1"].dtype == np.float64
    tables = [torch.from_numpy(golden[name]).requires_grad_() for name in ("S1", "S2")]
    loss = relaxed_ranking_distillation(*tables)
    loss.backward()
    assert loss.item() == pytest.approx(float(golden[stable]), rel=1e-10 if double else 3e-5)
    for name, table in zip(("S1", "S2"), tables):
        wanted = golden[f"ref_grad_{name}{suffix}" if suffix else f"grad_{name}"]
        error = np.abs(table.grad.numpy() - wanted).max()
        assert error <= (1e-9 if double else 3e-4) * np.abs(wanted).max(), name


def test_released_bpr_numbers(golden):
    numbers = golden("bprloss_f32")
    difference = torch.from_numpy(numbers["diff"]).requires_grad_()
    losses = bayesian_personalized_ranking(difference, torch.zeros_like(difference), "none")
    losses.sum().backward()
    finite = np.isfinite(numbers["per_pair_loss"])
    assert not finite.all(), "the released code overflows somewhere"
    np.testing.assert_allclose(
        losses.detach().numpy()[finite], numbers["per_pair_loss"][finite], rtol=3e-5, atol=1e-7
    )
    np.testing.assert_allclose(difference.grad.numpy()[finite], numbers["grad"][finite], rtol=3e-4, atol=1e-7)
    np.testing.assert_allclose(losses.detach().numpy()[~finite], -numbers["diff"][~finite], rtol=1e-6)
    assert (difference.grad[torch.from_numpy(~finite)] == -1).all()


def test_reductions():
    scores, tail, lengths = randn(5, 4, seed=1), randn(5, 3, seed=2), torch.tensor([4, 0, 2, 1, 0])
    rows = relaxed_ranking_distillation(scores, tail, lengths, "none")
    assert relaxed_ranking_distillation(scores, tail, lengths).item() == pytest.approx(rows.sum().item())
    mean = relaxed_ranking_distillation(scores, tail, lengths, "mean")
    assert mean.item() == pytest.approx(rows.sum().item() / 3)
    assert relaxed_ranking_distillation(scores, tail, torch.zeros(5, dtype=torch.int64), "mean") == 0
    with pytest.raises(ValueError, match="expected reduction as one of sum, mean, none; got 'max'"):
        relaxed_ranking_distillation(scores, tail, lengths, "max")


@pytest.fixture(scope="module")
def train():
    rows = torch.arange(U).repeat_interleave(6)
    return CSR.from_pairs(rows, torch.randint(0, N, rows.shape, generator=generator(3)), U, N)


@pytest.fixture(scope="module")
def rankings(train):
    return Rankings.from_vectors(randn(U, 8, seed=4), randn(N, 8, seed=5), 50, train)


def test_draws_are_the_teachers_best_in_order_and_the_rest(rankings, train):
    method = RelaxedRankingDistillation(rankings, train, 10, 20, temperature=5.0)
    method.begin_epoch(0)
    drawn, lists = method._items.tolist(), rankings.indices.tolist()
    for user in range(U):
        interesting, uninteresting = drawn[user][:10], drawn[user][10:]
        places = [lists[user].index(item) for item in interesting]
        assert places == sorted(set(places)), "in the teacher's order, none twice"
        seen = set(train.rows(torch.tensor([user])).indices.tolist())
        assert len(set(uninteresting)) == 20
        assert not set(uninteresting) & (seen | set(lists[user]))


def test_an_epoch_is_redrawn_alike_and_the_next_one_anew(rankings, train):
    draws = []
    for epoch in (3, 4, 3):
        method = RelaxedRankingDistillation(rankings, train, 10, 20, seed=9)
        method.begin_epoch(epoch)
        draws.append(method._items.clone())
    assert torch.equal(draws[0], draws[2])
    assert (draws[0] != draws[1]).any(1).all()


def test_the_loss_is_its_definition_over_unique_users(rankings, train):
    student = MatrixFactorization(U, N, 4, seed=1, init_std=1.0)
    method = RelaxedRankingDistillation(rankings, train, 6, 7)
    method.begin_epoch(0, student)
    users = torch.tensor([4, 9, 4, 0])
    loss = method(student, users)
    assert loss.item() == pytest.approx(method(student, Batch(users)).item())
    expected = 0.0
    for user in (0, 4, 9):
        scores = (student.item_table[method._items[user].long()] @ student.user_table[user]).double().tolist()
        for k in range(6):
            expected += math.log(sum(map(math.exp, scores[k:]))) - scores[k]
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    touched = student.user_table.grad.abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == [0, 4, 9]


def test_short_lists_and_exhausted_catalogues():
    # User 0 has an empty list; user 1 three items; user 2 has nothing left to be uninteresting.
    indices = torch.tensor([[-1, -1, -1], [4, 2, 0], [0, 1, 2]], dtype=torch.int32)
    lists = Rankings(indices, torch.zeros(3, 3), torch.tensor([0, 3, 3], dtype=torch.int32), 5)
    exclude = CSR.from_pairs(torch.tensor([0, 2, 2]), torch.tensor([1, 3, 4]), 3, 5)
    method = RelaxedRankingDistillation(lists, exclude, 4, 3)
    student = MatrixFactorization(3, 5, 2, init_std=1.0)
    method.begin_epoch(0, student)
    losses = [method(student, torch.tensor([user])).item() for user in range(3)]
    assert losses[0] == 0
    scores = student.score(torch.tensor([2]), torch.tensor([[0, 1, 2]]))[0].double()
    expected = sum(scores[k:].logsumexp(0) - scores[k] for k in range(3))
    assert losses[2] == pytest.approx(expected.item(), rel=1e-5)
    tail = student.score(torch.tensor([1]), torch.tensor([[1, 3]]))[0].double()
    head = student.score(torch.tensor([1]), torch.tensor([[4, 2, 0]]))[0].double()
    expected = sum(torch.cat([head[k:], tail]).logsumexp(0) - head[k] for k in range(3))
    assert losses[1] == pytest.approx(expected.item(), rel=1e-5)


def test_any_student_with_a_score_will_do(rankings, train):
    class Student:
        def score(self, users, items):
            assert int(items.min()) >= 0
            return (items % 7).float() + users[:, None]

    method = RelaxedRankingDistillation(rankings, train)
    method.begin_epoch(0)
    assert math.isfinite(method(Student(), torch.arange(5)).item())


def test_bad_input(rankings, train):
    with pytest.raises(
        ValueError, match=f"expected exclude of {U} users × {N} items, as rankings; got 3 × {N}"
    ):
        RelaxedRankingDistillation(rankings, CSR.empty(3, N))
    with pytest.raises(ValueError, match="expected n_interesting of 0 or more; got -1"):
        RelaxedRankingDistillation(rankings, train, n_interesting=-1)
    with pytest.raises(RuntimeError, match="expected begin_epoch before the first batch"):
        RelaxedRankingDistillation(rankings, train)(MatrixFactorization(U, N, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="temperature above 0"):
        RelaxedRankingDistillation(rankings, train, temperature=0.0).begin_epoch(0)
    method = RelaxedRankingDistillation(rankings, train)
    method.begin_epoch(0)
    with pytest.raises(IndexError):
        method(MatrixFactorization(U, N, 2), torch.tensor([U]))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_whole_catalogue_as_tail_is_every_uninteresting_item(reduction):
    """None draws none: what it sums over is what a draw of all items that are neither known nor listed has."""
    exclude = CSR.from_any(torch.rand(U, N, generator=generator(3)) < 0.1)
    rankings = Rankings.from_scores(randn(U, N, seed=4), 20, exclude)
    users, found = torch.tensor([4, 0, 4, 17]), []
    for n_uninteresting in (None, N):
        student = MatrixFactorization(U, N, 8, seed=5, init_std=0.5)
        method = RelaxedRankingDistillation(
            rankings, exclude, n_interesting=6, n_uninteresting=n_uninteresting, reduction=reduction
        )
        method.begin_epoch(0, student)
        loss = method(student, users)
        loss.backward()
        found.append((loss.detach(), student.user_table.grad, student.item_table.grad))
    for of_catalogue, of_draw in zip(*found, strict=True):
        torch.testing.assert_close(of_catalogue, of_draw, rtol=1e-5, atol=1e-6)


def test_the_whole_catalogue_needs_inner_products():
    exclude = CSR.empty(U, N)
    rankings = Rankings.from_scores(randn(U, N, seed=4), 20)
    student = NeuralMatrixFactorization(U, N, 8)
    method = RelaxedRankingDistillation(rankings, exclude, n_uninteresting=None)
    method.begin_epoch(0, student)
    expected = (
        "RelaxedRankingDistillation: expected a student whose scores are inner products, .*; got NeuralMatrix"
    )
    with pytest.raises(TypeError, match=expected):
        method(student, torch.tensor([0]))
    with pytest.raises(TypeError, match="expected n_uninteresting as a whole number; got None"):
        ItemSideRankingRegularization(rankings, rankings, exclude, n_uninteresting=None)
