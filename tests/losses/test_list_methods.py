"""Methods that teach lists, in a user's loop: released numbers, definitions, draws, repeated users."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankdistill import (
    Batch,
    CollaborativeDistillation,
    DualCorrection,
    ItemSideRankingRegularization,
    ListwiseDistillation,
    MatrixFactorization,
    RankingDistillation,
    Rankings,
    RejuvenatedCrossEntropyDistillation,
    RelaxedRankingDistillation,
    UnbiasedDistillation,
    functional,
)
from rankdistill.data import CSR, popularity_groups
from rankdistill.losses.list_scores import list_scores
from tests.case import generator, randint, randn
from tests.losses.vectors import assert_golden, golden_tensors

U, N = 30, 200


class Tables(MatrixFactorization):
    """A student with given tables."""

    def __init__(self, users, items):
        super().__init__(*map(len, (users, items)), users.shape[1])
        self.user_table, self.item_table = map(torch.nn.Parameter, (users.clone(), items.clone()))


class ByScores(torch.nn.Module):
    """The same student seen through `score` alone."""

    def __init__(self, student):
        super().__init__()
        self.student, self.n_items = student, len(student.item_table)

    def score(self, users, items):
        return (self.student.user_table[users][:, None, :] * self.student.item_table[items]).sum(2)


POPULAR = CSR.from_any(torch.rand(U, N, generator=generator(3)) < torch.linspace(0.02, 0.5, N))


@pytest.fixture(scope="module")
def train():
    rows = torch.arange(U).repeat_interleave(6)
    return CSR.from_pairs(rows, torch.randint(0, N, rows.shape, generator=generator(3)), U, N)


@pytest.fixture(scope="module")
def teacher():
    return randn(U, 8, seed=4), randn(N, 8, seed=5)


@pytest.fixture(scope="module")
def rankings(train, teacher):
    return Rankings.from_vectors(*teacher, 50, train)


@pytest.fixture(scope="module")
def item_rankings(train, teacher):
    return Rankings.from_vectors(*teacher[::-1], 12, train.transposed())


@pytest.fixture(scope="module")
def methods(train, rankings, item_rankings, teacher):
    return {
        "rrd": lambda **o: RelaxedRankingDistillation(rankings, train, 6, 7, **o),
        "ir-rrd": lambda **o: ItemSideRankingRegularization(
            rankings, item_rankings, train, 0.5, 6, 7, 4, 5, **o
        ),
        "rd": lambda **o: RankingDistillation(rankings, n_sampled=20, start_epoch=1, **o),
        "cd": lambda **o: CollaborativeDistillation(rankings, train, 9, **o),
        "dcd": lambda **o: DualCorrection(rankings, item_rankings, 5, 0.05, **o),
        "list_net": lambda **o: ListwiseDistillation(rankings, 9, **o),
        "list_net_2": lambda **o: ListwiseDistillation(rankings, 9, "list_net_2", **o),
        "list_mle": lambda **o: ListwiseDistillation(rankings, 9, "list_mle", **o),
        "rce-kd": lambda **o: RejuvenatedCrossEntropyDistillation(rankings, Tables(*teacher), 9, 7, 40, **o),
        "unkd": lambda **o: UnbiasedDistillation(rankings, train, 8, **o),
    }


DRAWN = ("rrd", "ir-rrd", "rd", "cd", "dcd", "rce-kd", "unkd")  # what draws, and so asks for an epoch
METHODS = (*DRAWN, "list_net", "list_net_2", "list_mle")


@pytest.mark.parametrize("name", METHODS)
def test_a_student_of_tables_and_one_of_scores_learn_alike(methods, name):
    student = Tables(randn(U, 4, seed=1), randn(N, 4, seed=2))
    users = torch.tensor([4, 9, 4, 0])
    found = []
    for form in (student, ByScores(student)):
        method = methods[name](**({"seed": 3} if name in DRAWN else {}))
        for epoch in (0, 1):
            method.begin_epoch(epoch, form)
        batch = Batch(users, randint(0, N, (4,), seed=6))
        loss = method(form, batch)
        method.begin_epoch(1, form)
        assert loss.item() == pytest.approx(method(form, batch).item())
        student.zero_grad()
        loss.backward()
        found.append((loss.item(), *(p.grad.clone() for p in student.tables())))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for of_tables, of_scores in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.allclose(of_tables, of_scores, atol=1e-5)
        assert of_tables.abs().max() > 0


@pytest.mark.parametrize("name", DRAWN)
def test_draws_belong_to_seed_and_epoch(methods, name):
    student = Tables(randn(U, 4, seed=1), randn(N, 4, seed=2))
    losses = {}
    for seed, epoch in ((1, 6), (1, 9), (2, 6), (1, 6)):
        method = methods[name](seed=seed)
        method.begin_epoch(epoch, student)
        loss = method(student, torch.arange(U)).item()
        assert losses.setdefault((seed, epoch), loss) == loss
    assert len(set(losses.values())) == 3


@pytest.mark.parametrize("name", DRAWN)
def test_it_asks_for_an_epoch_first(methods, name):
    method = methods[name]()
    message = f"^{type(method).__name__}: expected begin_epoch before the first batch; got none"
    with pytest.raises(RuntimeError, match=message):
        method(Tables(randn(U, 4), randn(N, 4)), torch.tensor([0]))


@pytest.mark.parametrize("name", ["irrrd_small_f64", "irrrd_k1_f64"])
def test_released_both_sides(name, golden):
    numbers = golden(name)
    t = golden_tensors(numbers)
    student = Tables(t["user_emb"], t["item_emb"])
    U, N = len(t["user_emb"]), len(t["item_emb"])
    sizes = [
        t[f"{kind}_{side}"].shape[1]
        for side in ("items", "users")
        for kind in ("interesting", "uninteresting")
    ]
    lists = Rankings.from_scores(torch.rand(U, N), sizes[0])
    item_lists = Rankings.from_scores(torch.rand(N, U), min(sizes[2], U))
    weight = float(numbers["lambda_IR"]) / float(numbers["lambda_URRD"])
    method = ItemSideRankingRegularization(lists, item_lists, CSR.empty(U, N), weight, *sizes)
    for side, what in ((method.user_side, "items"), (method.item_side, "users")):
        side._epoch = 0
        side._items = torch.cat([t[f"interesting_{what}"], t[f"uninteresting_{what}"]], 1)
        side._lengths = torch.full((len(side._items),), side.n_interesting)
    loss = float(numbers["lambda_URRD"]) * method(student, t["batch_user"])
    wanted = numbers["loss"] - numbers["bpr_loss"]
    leaves = {"user": student.user_table, "item": student.item_table}
    gradients = {
        side: t[f"grad_{side}_total"] - t[f"grad_{side}_bpr"] if f"grad_{side}_bpr" in t else None
        for side in leaves
    }
    assert_golden(loss, wanted, leaves, gradients)


def test_a_repeated_user_counts_as_often_as_it_occurs(methods):
    student = Tables(randn(U, 4, seed=1), randn(N, 4, seed=2))
    for name in ("rd", "cd", "unkd", "rce-kd", "list_net", "list_mle"):
        method = methods[name](reduction="mean")
        method.begin_epoch(0, student)
        one, other = (method(student, torch.tensor([user])).item() for user in (3, 8))
        assert method(student, torch.tensor([3, 8, 3])).item() == pytest.approx((2 * one + other) / 3)
        summed = methods[name]()
        summed.begin_epoch(0, student)
        assert summed(student, torch.tensor([3, 8, 3])).item() == pytest.approx(
            (2 * one + other) * (9 if name == "cd" else 1)
        )


def test_ranking_distillation_by_its_definition(rankings):
    student = Tables(randn(U, 4, seed=1), randn(N, 4, seed=2))
    method = RankingDistillation(rankings, 5, start_epoch=2, n_sampled=N, sharpness=0.01, normalized=True)
    method.begin_epoch(1, student)
    static = functional.position_weights(5).tolist()
    scores = (student.user_table @ student.item_table.T).detach()
    listed = scores[7, rankings.indices[7, :5].long()].tolist()
    log_sigmoid = lambda s: -math.log1p(math.exp(-s))
    expected = -sum(w * log_sigmoid(s) for w, s in zip(static, listed, strict=True))
    assert method(student, torch.tensor([7])).item() == pytest.approx(expected, rel=1e-5)
    method.begin_epoch(2, student)  # its sample is the whole catalogue: ranks are exact
    ranks = [int((scores[7] > s).sum()) for s in listed]
    weights = [
        w * max(math.tanh(0.01 * ((N - 1) * r // N - k)), 0)
        for k, (w, r) in enumerate(zip(static, ranks, strict=True))
    ]
    expected = -sum(w * log_sigmoid(s) for w, s in zip(weights, listed, strict=True)) / sum(weights)
    assert method(student, torch.tensor([7])).item() == pytest.approx(expected, rel=1e-5)


def test_ranking_distillation_of_lists_that_end_early():
    """What stands past a list's end takes no share of scaled weights, and a small catalogue is sampled whole."""
    scores = torch.full((2, 6), -torch.inf)
    scores[:, :2] = torch.tensor([2.0, 1.0])
    rankings = Rankings.from_scores(scores, 4)
    student = Tables(randn(2, 3, seed=1), randn(6, 3, seed=2))
    method = RankingDistillation(rankings, 4, start_epoch=5, normalized=True)
    method.begin_epoch(0, student)
    weights = functional.position_weights(4)[:2].tolist()
    given = (student.item_table[:2] @ student.user_table[0]).tolist()
    expected = sum(w * math.log1p(math.exp(-s)) for w, s in zip(weights, given, strict=True)) / sum(weights)
    loss = method(student, torch.tensor([0]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(table.grad.isfinite().all() for table in student.tables())
    method = RankingDistillation(rankings, 4, start_epoch=0)  # 100 samples of 6 items
    method.begin_epoch(0, student)
    users = torch.tensor([0, 1])
    # An item stands above itself where two ways of scoring it round differently: one way for both.
    listed = list_scores(student, users, rankings.indices.long())
    whole = list_scores(student, users, torch.arange(6).expand(2, 6))
    exact = functional.discrepancy_weights(listed, whole, 6) * functional.position_weights(4)
    assert torch.allclose(method.weights(student, users, listed)[:, :2], exact[:, :2])


def test_pairs_stay_in_their_group_and_in_the_teachers_order(train, rankings):
    method = UnbiasedDistillation(rankings, train, 30, n_groups=3)
    groups = method.groups
    assert method.n_pairs == [10, 10, 10]
    method.begin_epoch(4)
    for user, pairs in enumerate(method._pairs.tolist()):
        listed = rankings.indices[user].tolist()
        for better, worse in pairs:
            if better >= 0:
                assert groups.group_of_item[better] == groups.group_of_item[worse] >= 0
                assert listed.index(better) < listed.index(worse)
    assert (method._pairs >= 0).float().mean() > 0.9


def test_released_popularity_groups(golden):
    numbers = golden("unkd_groups_a")
    items, n_items = numbers["items"], int(numbers["n_items"])
    # The released order of equal counts is that of first occurrence: ids are given in it.
    _, first = np.unique(items, return_index=True)
    seen = items[np.sort(first)]
    order = np.concatenate([seen, np.setdiff1d(np.arange(n_items), seen)])
    counts = torch.from_numpy(np.bincount(items, minlength=n_items)[order])
    found = popularity_groups(counts, int(numbers["requested_groups"]))
    assert found.group_of_item.tolist() == numbers["group_of_item"][order].tolist()
    assert found.shares.tolist() == pytest.approx(numbers["group_ratio"].tolist())
    assert (
        torch.bincount(found.group_of_item + 1)[1:].tolist()[: len(found.shares)]
        == numbers["group_sizes"].tolist()
    )
    assert found.pairs(30) == [10, 10, 10]
    assert sum(found.pairs(100, exponent=1.0)) == pytest.approx(100, abs=2)


def test_groups_of_no_interactions():
    for counts in (torch.zeros(4, dtype=torch.int64), torch.empty(0, dtype=torch.int64)):
        with pytest.raises(
            ValueError, match=f"expected an item with interactions; got none among {len(counts)}"
        ):
            popularity_groups(counts, 2)
    with pytest.raises(ValueError, match="expected n_groups of 1 or more; got 0"):
        popularity_groups(torch.ones(3, dtype=torch.int64), 0)
    with pytest.raises(ValueError, match=r"expected counts \[N\] of integers"):
        popularity_groups(torch.ones(3), 2)


def test_collaborative_distillation_by_its_definition(rankings, train, teacher):
    student = Tables(randn(U, 4, seed=1), randn(N, 4, seed=2))
    method = CollaborativeDistillation(rankings, train, 9, softness=3.0, shift=0.5, reduction="mean")
    method.begin_epoch(2)
    items = method._items[7]
    wanted = ((teacher[1][items] @ teacher[0][7] + 0.5) / 3).sigmoid()
    given = (student.item_table[items] @ student.user_table[7]).sigmoid()
    expected = -(wanted * given.log() + (1 - wanted) * (1 - given).log()).mean()
    assert method(student, torch.tensor([7])).item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(items.tolist()) <= set(rankings.indices[7].tolist())


def test_collaborative_distillation_guided_by_the_student(rankings, train, teacher):
    student = Tables(randn(U, 4, seed=1), randn(N, 4, seed=2))
    with pytest.raises(ValueError, match="expected a teacher with score"):
        CollaborativeDistillation(rankings, train, guide="student")
    method = CollaborativeDistillation(rankings, train, 9, "student", Tables(*teacher), temperature=2.0)
    assert not list(method.parameters()), "the teacher is not trained"
    with pytest.raises(RuntimeError, match=r"expected begin_epoch\(epoch, student\), as it guides"):
        method.begin_epoch(0)
    method.begin_epoch(0, student)
    scores = (student.user_table @ student.item_table.T).detach()
    scores[train.to_dense()] = -torch.inf
    best = scores.topk(50).indices
    for user in range(U):
        drawn = method._items[user].tolist()
        assert set(drawn) <= set(best[user].tolist())
        assert sum(best[user].tolist().index(item) for item in drawn) / 9 < 5, (
            "mostly the student's very best"
        )
    assert torch.allclose(method._scores[3], teacher[1][method._items[3]] @ teacher[0][3], atol=1e-5)


def test_released_weights_by_ranks_in_the_catalogue(golden):
    numbers = golden("dcd_kds_small")
    t = golden_tensors(numbers)
    student = Tables(t["student_user"], t["student_item"])
    (U, K), N = t["T_topk"].shape, len(t["student_item"])
    rankings = Rankings.from_vectors(t["teacher_user"], t["teacher_item"], K)
    rankings.indices.copy_(t["T_topk"])
    method = DualCorrection(rankings, sharpness=1 / float(numbers["T"]), among="catalogue", floor=1e-5)
    method.begin_epoch(0, student)
    assert N > K
    for found, name in zip(method.user_side.weights(torch.arange(U)), ("under_weights", "over_weights")):
        assert torch.allclose(found, t[name], rtol=1e-5)


def test_listwise_distillation_by_its_definition(rankings):
    student = Tables(randn(U, 4, seed=1), randn(N, 4, seed=2))
    items, wanted = rankings.indices[7, :9].long(), rankings.scores[7, :9]
    given = student.item_table[items] @ student.user_table[7]
    expected = -((wanted / 2).softmax(0) * (given / 2).log_softmax(0)).sum()
    found = ListwiseDistillation(rankings, 9, temperature=2.0)(student, torch.tensor([7, 7]))
    assert found.item() == pytest.approx(2 * expected.item(), rel=1e-5)
    once = ListwiseDistillation(rankings, 9, temperature=2.0, unique=True)(student, torch.tensor([7, 7]))
    assert once.item() == pytest.approx(expected.item(), rel=1e-5)
    expected = sum(given[k:].logsumexp(0) - given[k] for k in range(9))
    found = ListwiseDistillation(rankings, 9, "list_mle")(student, torch.tensor([7]))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_rejuvenated_cross_entropy_looks_where_the_student_does(rankings, teacher):
    student = Tables(randn(U, 4, seed=1), randn(N, 4, seed=2))
    method = RejuvenatedCrossEntropyDistillation(rankings, Tables(*teacher), 9, 7, 40)
    assert not list(method.parameters()), "the teacher is not trained"
    method.begin_epoch(0, student)
    best = (student.user_table @ student.item_table.T).topk(40).indices
    assert torch.equal(method._own, best[:, :9])
    for user in range(U):
        drawn = method._sampled[user].tolist()
        assert len(set(drawn)) == 7
        assert set(drawn) <= set(best[user].tolist())


def test_rejuvenated_cross_entropy_of_one_item_and_of_short_lists(teacher):
    """K = L = 1: the student's own list is certain; the teacher's best counts beside the drawn item, if it is neither."""
    student, scorer = Tables(randn(U, 4, seed=1), randn(N, 4, seed=2)), Tables(*teacher)
    lists = Rankings.from_vectors(*teacher, 1)
    lists.indices[5] = -1  # a user of whom the teacher ranks nothing
    method = RejuvenatedCrossEntropyDistillation(lists, scorer, 1, 1, 3)
    method.begin_epoch(0, student)
    scores = [(m.user_table @ m.item_table.T).detach() for m in (scorer, student)]
    for user in (0, 5, 9, 21):
        best, drawn = int(lists.indices[user, 0]), int(method._sampled[user, 0])
        own = int(scores[1][user].argmax())
        ids = [drawn] + ([best] if best not in (-1, drawn, own) else [])
        wanted, given = (s[user, ids] for s in scores)
        wider = -(wanted.softmax(0) * given.log_softmax(0)).sum().item()
        expected = math.exp(-3.0 * (best == drawn)) * wider
        assert method(student, torch.tensor([user])).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert method(student, torch.arange(0)).item() == 0


def test_dual_correction_draws_what_is_ranked_wrongly(rankings, item_rankings, teacher):
    right = Tables(*teacher)
    method = DualCorrection(rankings, item_rankings, 5)
    method.begin_epoch(0, right)
    assert method(right, Batch(torch.arange(U), torch.arange(N))).item() == 0, "ranked as by the teacher"
    wrong = Tables(teacher[0], -teacher[1])
    method.begin_epoch(1, wrong)
    assert method(wrong, torch.arange(U)).item() == 0, "compared every third epoch"
    resumed = DualCorrection(rankings, item_rankings, 5)
    method.begin_epoch(3, wrong)
    resumed.load_state_dict(method.state_dict())
    for m in (method, resumed):
        m.begin_epoch(4, wrong)
    losses = [[m(wrong, torch.arange(U)).item() for _ in range(2)] for m in (method, resumed)]
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1], "drawn anew for every batch"
    # Reversed, the teacher's first is the student's last: the first half is under-estimated, the rest over.
    wanted = torch.tanh(method.user_side.sharpness * (torch.arange(50).flip(0) - torch.arange(50)).float())
    assert torch.equal(method.user_side.signed_weights, wanted.expand(U, 50))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: RankingDistillation(r, 51), r"n_listed in \[1, 50\], as rankings; got 51"),
        (lambda r: ListwiseDistillation(r, 5, "mine"), "form as one of list_net, list_net_2, list_mle"),
        (lambda r: ListwiseDistillation(r, 0), r"n_listed in \[1, 50\], as rankings; got 0"),
        (lambda r: RejuvenatedCrossEntropyDistillation(r, None, 9, 7, 8), r"n_ranked in \[9, 200\]; got 8"),
        (
            lambda r: RejuvenatedCrossEntropyDistillation(r, None, 9, 41, 40),
            r"n_sampled in \[1, 40\]; got 41",
        ),
        (lambda r: RankingDistillation(r, 5, n_sampled=0), "n_sampled of 1 or more; got 0"),
        (lambda r: RankingDistillation(r, reduction="none"), "reduction as one of sum, mean; got 'none'"),
        (lambda r: UnbiasedDistillation(r, CSR.empty(U, 3)), "exclude of 200 items, as rankings; got 3"),
        (lambda r: UnbiasedDistillation(r, CSR.empty(U, N), 0), "n_pairs of 1 or more; got 0"),
        (lambda r: UnbiasedDistillation(r, POPULAR, 1, 4), "a pair of some of . groups; got 1, none of each"),
        (lambda r: UnbiasedDistillation(r, CSR.empty(U, N), form="both"), "form as one of paper, released"),
    ],
)
def test_bad_settings(rankings, make, message):
    with pytest.raises(ValueError, match=message):
        make(rankings)


@pytest.mark.parametrize("first", [1, 10])
def test_ranks_are_compared_in_a_first_epoch_that_is_no_multiple_of_the_period(rankings, first):
    """In a loop that counts from 1, or where the method is switched on later; from then on every `period` epochs."""
    method, student = (
        DualCorrection(rankings, n_samples=5, period=3),
        Tables(randn(U, 4, seed=1), randn(N, 4, seed=2)),
    )
    method.begin_epoch(first, student)
    assert method(student, torch.arange(3)) > 0
    measured = method.user_side.signed_weights.clone()
    with torch.no_grad():
        student.user_table.neg_()
    method.begin_epoch(first + 1, student)
    assert torch.equal(method.user_side.signed_weights, measured)
    method.begin_epoch(12, student)
    assert not torch.equal(method.user_side.signed_weights, measured)
