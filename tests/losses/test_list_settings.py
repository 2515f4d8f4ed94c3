"""What each setting of the methods that learn lists does, by definitions where there is one."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from rankdistill import (
    Batch,
    CollaborativeDistillation,
    CollaborativeMetricLearning,
    DualCorrection,
    ItemSideRankingRegularization,
    ListwiseDistillation,
    RankingDistillation,
    Rankings,
    RejuvenatedCrossEntropyDistillation,
    UnbiasedDistillation,
    functional,
)
from rankdistill.data import CSR
from rankdistill.losses import whole_catalogue
from tests.case import generator, randint, randn
from tests.losses.test_list_methods import ByScores, N, Tables, U

TEACHER = randn(U, 8, seed=4), randn(N, 8, seed=5)


@cache
def train() -> CSR:
    rows = torch.arange(U).repeat_interleave(6)
    return CSR.from_pairs(rows, randint(0, N, rows.shape, seed=3), U, N)


@cache
def lists() -> Rankings:
    return Rankings.from_vectors(*TEACHER, 50, train())


@cache
def item_lists() -> Rankings:
    return Rankings.from_vectors(*TEACHER[::-1], 12, train().transposed())


def short_lists() -> Rankings:
    """User 0 has three items that are not train items."""
    dense = train().to_dense()
    dense[0, 3:] = True
    return Rankings.from_vectors(*TEACHER, 50, CSR.from_any(dense))


def make_student() -> Tables:
    return Tables(randn(U, 4, seed=1), randn(N, 4, seed=2))


def test_collaborative_distillation_draws_nearly_evenly():
    method = CollaborativeDistillation(lists(), train())
    assert method.temperature == 20 * 50, "as released: 20 times the list's length"


def test_dual_correction_weighs_its_item_side():
    student, found = make_student(), []
    for weight in (0.0, 1.0, 3.0):
        method = DualCorrection(lists(), item_lists(), 5, 0.05, item_weight=weight)
        method.begin_epoch(0, student)
        found.append(method(student, Batch(torch.arange(9), torch.arange(9))).item())
    assert found[1] != found[0]
    assert found[2] - found[0] == pytest.approx(3 * (found[1] - found[0]), rel=1e-4)


def test_dual_correction_ends_with_the_list_and_has_a_floor():
    method, student = (
        DualCorrection(short_lists(), n_samples=5, among="catalogue", floor=0.01),
        make_student(),
    )
    method.begin_epoch(0, student)
    assert (method.user_side.signed_weights[0, 3:] == 0).all()
    for weights in method.user_side.weights(torch.tensor([0])):
        assert (weights[0, 3:] == 0).all(), "nothing is drawn past the end of a list"
        assert (weights[0, :3] > 0).all()
    method = DualCorrection(lists(), item_lists(), floor=0.01)
    for side in (method.user_side, method.item_side):
        for weights in side.weights(torch.arange(9)):
            assert (weights == 0.01).all(), "nothing is measured yet: the floor"


def test_ranks_in_the_catalogue_count_biases():
    """Of items and, on the item side, of users."""
    student = CollaborativeMetricLearning(U, N, 4, seed=1, init_std=1.0)
    method = DualCorrection(lists(), item_lists(), 5, 0.01, among="catalogue")
    method.begin_epoch(0, student)
    scores = student.score(torch.arange(U), torch.arange(N).expand(U, -1)).detach()
    for side, table in ((method.user_side, scores), (method.item_side, scores.T)):
        columns = side.rankings.indices.long()
        ranks = (table[:, None] > table.gather(1, columns)[:, :, None]).sum(2)
        wanted = (0.01 * (ranks - torch.arange(columns.shape[1]))).tanh()
        assert (side.signed_weights - wanted).abs().median() < 1e-6


def test_interactions_of_users_without_a_list_count_in_no_mean():
    short, student = short_lists(), make_student()
    short.indices[0], short.lengths[0] = -1, 0
    method = ListwiseDistillation(short, 9, reduction="mean")
    alone = method(student, torch.tensor([7])).item()
    assert method(student, torch.tensor([0, 7, 0])).item() == pytest.approx(alone)


def test_the_temperature_of_list_mle():
    student = make_student()
    given = student.item_table[lists().indices[7, :9].long()] @ student.user_table[7] / 2
    expected = sum(given[k:].logsumexp(0) - given[k] for k in range(9))
    method = ListwiseDistillation(lists(), 9, "list_mle", temperature=2.0)
    assert method(student, torch.tensor([7])).item() == pytest.approx(expected.item(), rel=1e-5)


def test_ranking_distillation_keeps_its_temperature_and_first_rank():
    student, weights = make_student(), []
    method = RankingDistillation(lists(), 5, temperature=3.0)
    method.begin_epoch(0, student)
    given = (student.item_table[lists().indices[7, :5].long()] @ student.user_table[7]).detach()
    expected = -(functional.position_weights(5, 3.0) * given.sigmoid().log()).sum()
    assert method(student, torch.tensor([7])).item() == pytest.approx(expected.item(), rel=1e-5)
    every = (student.user_table[:1] @ student.item_table.T).detach()
    for first_rank in (0, 1):
        method = RankingDistillation(lists(), start_epoch=0, first_rank=first_rank, sharpness=0.01)
        method.begin_epoch(0, student)
        scores = every.gather(1, lists().indices[:1, :10].long())
        weights.append(method.weights(student, torch.tensor([0]), scores))
    assert (weights[1] >= weights[0]).all()
    assert not torch.equal(*weights)


def test_rejuvenated_cross_entropy_by_its_definition():
    """Of one user at a time, of a student whose list and sample share items with the teacher's."""
    options = {"temperature": 2.0, "sharpness": 1.5}
    method = RejuvenatedCrossEntropyDistillation(lists(), Tables(*TEACHER), 9, 7, 40, **options)
    student = Tables(*(table + randn(*table.shape, seed=9) for table in TEACHER))
    method.begin_epoch(0, student)
    scores = [(u @ i.T).detach() for u, i in (TEACHER, (student.user_table, student.item_table))]
    shared = [0, 0]
    for user in range(U):
        best, own, drawn = (t[user].tolist() for t in (lists().indices[:, :9], method._own, method._sampled))
        shared[0] += len(set(best) & set(drawn))
        shared[1] += len(set(best) & set(own) - set(drawn))
        terms = []
        for ids in (own, drawn + [i for i in best if i not in drawn and i not in own]):
            wanted, given = (s[user, ids] / 2 for s in scores)
            terms.append(-(wanted.softmax(0) * given.log_softmax(0)).sum().item())
        weight = math.exp(-1.5 * len(set(best) & set(drawn)) / 9)
        expected = (1 - weight) * terms[0] + weight * terms[1]
        assert method(student, torch.tensor([user])).item() == pytest.approx(expected, rel=1e-5)
    assert min(shared) > 0


def test_rejuvenated_cross_entropy_draws_by_its_position_temperature():
    drawn = []
    for temperature in (0.01, 1e9):
        method = RejuvenatedCrossEntropyDistillation(
            lists(), Tables(*TEACHER), 9, 7, 40, position_temperature=temperature
        )
        method.begin_epoch(0, make_student())
        drawn.append(method._sampled)
    assert not torch.equal(*drawn)


def test_unbiased_distillation_keeps_its_exponent_and_temperature():
    popular = torch.arange(N) ** 2 / N**2 * 0.4
    skewed = CSR.from_any(torch.rand(U, N, generator=generator(8)) < popular)
    method = UnbiasedDistillation(lists(), skewed, 30, n_groups=3, exponent=2.0, temperature=1e-3)
    assert method.n_pairs == method.groups.pairs(30, 2.0) != method.groups.pairs(30)
    method.begin_epoch(0)
    for user in (3, 9):
        listed = lists().indices[user].tolist()
        for group, pairs in enumerate(method._pairs[user].split(method.n_pairs)):
            best = [i for i in listed if method.groups.group_of_item[i] == group][:2]
            assert all(pair in (best, [-1, -1]) for pair in pairs.tolist()), "the first two of its group"


def test_unbiased_distillation_is_a_mean_over_the_pairs_that_a_user_has():
    student = make_student()
    counts = CSR.from_any(torch.arange(U)[:, None] < torch.arange(N) % 40)
    method = UnbiasedDistillation(short_lists(), counts, 30, n_groups=3)
    method.begin_epoch(0)
    pairs = method._pairs[0]
    real = pairs[:, 0] >= 0
    assert 0 < real.sum() < len(real), "a short list has no pair of some groups"
    better, worse = student.item_table[pairs[real].T] @ student.user_table[0]
    expected = torch.nn.functional.softplus(worse - better).mean()
    assert method(student, torch.tensor([0])).item() == pytest.approx(expected.item(), rel=1e-5)


def test_both_sides_have_the_temperature():
    method = ItemSideRankingRegularization(lists(), item_lists(), train(), 0.5, 6, 7, 4, 5, temperature=1e-3)
    method.begin_epoch(0)
    for side, ranked in ((method.user_side, lists()), (method.item_side, item_lists())):
        K = side.n_interesting
        assert torch.equal(side._items[:, :K], ranked.indices[:, :K]), "the very first of every list"


def test_scores_in_pieces_leave_out_the_same(monkeypatch):
    student, users = ByScores(make_student()), torch.tensor([4, 9, 0, 7, 2])

    def ranked():
        return whole_catalogue.catalogue_ranker(student, 6, N)(users, train().rows(users)).indices

    expected = ranked()
    monkeypatch.setattr(whole_catalogue, "SCORES", 2 * N)  # two users at a time
    assert torch.equal(ranked(), expected)
