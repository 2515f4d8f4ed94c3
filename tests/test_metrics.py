"""Metrics against the released code's numbers, brute force, and the tie rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankdistill import Factors
from rankdistill.data import CSR
from rankdistill.metrics import (
    candidate_metrics,
    evaluate,
    evaluate_candidates,
    evaluate_users,
    hits_of,
    ranking_metrics,
)
from rankdistill.rankings import Rankings
from tests.case import generator, randn


class Vectors:
    """A model that is two tables."""

    def __init__(self, users, items):
        self.users, self.items = torch.as_tensor(users), torch.as_tensor(items)

    def user_vectors(self, ids):
        return self.users[ids]

    def item_vectors(self, ids):
        return self.items[ids]


class Scores:
    """A model that only scores."""

    def __init__(self, table):
        self.table = table

    def score(self, users, items):
        return self.table[users[:, None], items]


@pytest.mark.parametrize("part", ["test", "valid"])
def test_full_ranking_numbers_of_the_released_code(golden, part):
    numbers = golden("metrics_full")
    parts = {
        name: CSR.from_any(torch.from_numpy(numbers[name]).bool()) for name in ("train", "valid", "test")
    }
    other = parts["valid" if part == "test" else "test"]
    model = Vectors(numbers["user_emb"], numbers["item_emb"])
    names = {"P": "capped_recall", "R": "recall", "N": "ndcg"}
    values = evaluate(model, parts[part], parts["train"].union(other), (10, 20, 50), tuple(names.values()))
    for short, name in names.items():
        for cutoff in (10, 20, 50):
            assert round(values[f"{name}@{cutoff}"], 4) == pytest.approx(
                float(numbers[f"{part}_{short}{cutoff}"]), abs=1e-9
            )


@pytest.mark.parametrize("part", ["test", "valid"])
def test_leave_one_out_numbers_of_the_released_code(golden, part):
    numbers = golden("metrics_loo")
    users, items = torch.from_numpy(numbers["user_emb"]), torch.from_numpy(numbers["item_emb"])
    scores = users @ items.T
    held_out = torch.from_numpy(numbers[f"{part}_item"])[:, None]
    candidates = torch.from_numpy(numbers["candidates"])
    candidate_scores = scores.gather(1, candidates).masked_fill(candidates == held_out, -torch.inf)
    values = candidate_metrics(scores.gather(1, held_out)[:, 0], candidate_scores)
    for short, name in {"H": "hit_rate", "N": "ndcg", "M": "mrr"}.items():
        for cutoff in (5, 10, 20):
            wanted = numbers[f"{part}_{short}{cutoff}"]
            assert round(values[f"{name}@{cutoff}"].mean().item(), 4) == pytest.approx(
                float(wanted), abs=1e-9
            ), name
    model = Vectors(users, items)
    model.score = lambda ids, listed: (
        scores[ids].gather(1, listed.clamp_min(0)).masked_fill(listed < 0, -torch.inf)
    )
    both = torch.from_numpy(np.stack([numbers["valid_item"], numbers["test_item"]], axis=1))
    found = evaluate_candidates(model, torch.arange(len(users)), both, candidates)[part == "test"]
    for name, value in values.items():
        assert torch.equal(found[name], value), name


def test_metrics_by_hand():
    # Positions 2 and 4 of user 0 are relevant, of 3 relevant items; user 1 finds nothing.
    truth = CSR.from_pairs(torch.tensor([0, 0, 0, 1]), torch.tensor([5, 7, 9, 1]), 2, 10)
    indices = torch.tensor([[3, 5, 4, 7], [0, 2, 3, -1]])
    values = {k: v.tolist() for k, v in ranking_metrics(indices, truth, [2, 4]).items()}
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert values["recall@4"] == pytest.approx([2 / 3, 0])
    assert values["recall@2"] == pytest.approx([1 / 3, 0])
    assert values["precision@4"] == pytest.approx([0.5, 0])
    assert values["capped_recall@2"] == pytest.approx([0.5, 0])
    assert values["hit_rate@2"] == [1, 0]
    assert values["mrr@4"] == [0.5, 0]
    assert values["ndcg@4"] == pytest.approx([(1 / math.log2(3) + 1 / math.log2(5)) / ideal, 0])


def test_metrics_are_brute_forces():
    rng = np.random.default_rng(0)
    U, N, K = 40, 60, 20
    truth_matrix = torch.from_numpy(rng.random((U, N)) < 0.1)
    truth_matrix[:, 0] |= ~truth_matrix.any(1)
    indices = torch.from_numpy(np.stack([rng.permutation(N)[:K] for _ in range(U)]))
    values = ranking_metrics(indices, CSR.from_any(truth_matrix), [1, 7, 20])
    for user in range(U):
        relevant = set(truth_matrix[user].nonzero().flatten().tolist())
        for cutoff in (1, 7, 20):
            hits = [int(i in relevant) for i in indices[user, :cutoff].tolist()]
            gains = sum(h / math.log2(p + 2) for p, h in enumerate(hits))
            ideal = sum(1 / math.log2(p + 2) for p in range(min(cutoff, len(relevant))))
            assert values[f"recall@{cutoff}"][user].item() == pytest.approx(sum(hits) / len(relevant))
            assert values[f"ndcg@{cutoff}"][user].item() == pytest.approx(gains / ideal)
            first = hits.index(1) + 1 if any(hits) else math.inf
            assert values[f"mrr@{cutoff}"][user].item() == pytest.approx(1 / first)


def test_vectors_and_scores_agree_and_batches_do_not_matter():
    users, items = randn(50, 6, seed=1), randn(80, 6, seed=2)
    truth = CSR.from_any(torch.rand(50, 80, generator=generator(3)) < 0.05)
    exclude = CSR.from_any((torch.rand(50, 80, generator=generator(4)) < 0.1) & ~truth.to_dense())
    expected = evaluate(Vectors(users, items), truth, exclude)
    assert evaluate(Scores(users @ items.T), truth, exclude) == pytest.approx(expected)
    assert evaluate(Vectors(users, items), truth, exclude, batch_size=7) == pytest.approx(expected)


def test_metrics_of_ranks_are_brute_forces():
    U, N = 30, 50
    users, items = randn(U, 4, seed=1).round(), randn(N, 4, seed=2).round()
    truth = torch.rand(U, N, generator=generator(3)) < 0.1
    truth[:, 0] |= ~truth.any(1)
    truth[5] = True  # no pair of a relevant item and another
    excluded = torch.rand(U, N, generator=generator(4)) < 0.2
    excluded[6] = truth[6]  # what is relevant cannot be found
    excluded[7, :25] = True
    items[40] = float("nan")
    names = ("auc", "mean_position", "reciprocal_rank")
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0)).tolist()
    scores, totals = users @ items.T, dict.fromkeys(names, 0.0)
    for user in range(U):
        rankable = [i for i in order if not excluded[user, i] and scores[user, i] == scores[user, i]]
        best = sorted(rankable, key=lambda i: -scores[user, i].item())  # stable: equal ones as in `order`
        candidates = N - int((excluded[user] & ~truth[user]).sum())
        relevant = truth[user].nonzero().flatten().tolist()
        positions = [best.index(i) + 1 if i in best else candidates for i in relevant]
        totals["mean_position"] += sum(positions) / len(relevant)
        totals["reciprocal_rank"] += max(1 / (best.index(i) + 1) if i in best else 0.0 for i in relevant)
        others = [i for i in order if not excluded[user, i] and not truth[user, i]]
        behind = lambda i: best.index(i) if i in best else N  # noqa: B023
        right = sum(i in best and behind(i) < behind(j) for i in relevant for j in others)
        totals["auc"] += right / (len(relevant) * len(others)) if others else 1.0
    arguments = (CSR.from_any(truth), CSR.from_any(excluded), [5], names)
    values = evaluate(Vectors(users, items), *arguments)
    assert values == pytest.approx({name: total / U for name, total in totals.items()})
    assert evaluate(Scores(scores), *arguments, batch_size=4) == pytest.approx(values)
    both = evaluate(Scores(scores), *arguments[:2], [5, N], ["mrr", "reciprocal_rank", "recall"])
    assert both[f"mrr@{N}"] == pytest.approx(both["reciprocal_rank"])
    assert list(both) == ["mrr@5", "recall@5", f"mrr@{N}", f"recall@{N}", "reciprocal_rank"]


def test_a_model_that_scores_is_asked_for_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr("rankdistill.metrics.SCORES", 240)
    asked = []

    class Counting(Scores):
        def score(self, users, items):
            asked.append(len(users))
            return super().score(users, items)

    truth = CSR.from_any(torch.rand(50, 80, generator=generator(3)) < 0.5)
    evaluate(Counting(randn(50, 80, seed=1)), truth, CSR.empty(50, 80), [5], ["recall", "auc"])
    assert asked == [3] * 16 + [2], "one matrix for both kinds of metrics"


@pytest.mark.parametrize("kind", ["scipy", "bool", "torch sparse"])
def test_matrices_of_any_kind_are_taken_as_they_are(kind):
    """In metrics and in what is left out of rankings, tables as arrays too."""
    dense = [torch.rand(30, 40, generator=generator(seed)) < 0.1 for seed in (1, 2)]
    dense[1] &= ~dense[0]
    own = [CSR.from_any(matrix) for matrix in dense]
    made = {
        "scipy": lambda matrix: pytest.importorskip("scipy.sparse").coo_matrix(matrix.numpy()),
        "bool": lambda matrix: matrix,
        "torch sparse": lambda matrix: matrix.float().to_sparse(),
    }[kind]
    train, test = map(made, dense)
    users, items = randn(30, 4, seed=3), randn(40, 4, seed=4)
    model = Vectors(users, items)
    assert evaluate(model, test, train, (5,)) == evaluate(model, own[1], own[0], (5,))
    assert torch.equal(
        evaluate_users(model, test, train, (5,))[0], evaluate_users(model, own[1], own[0], (5,))[0]
    )
    expected = Rankings.from_vectors(users, items, 6, own[0])
    scores = users @ items.T
    for found in (
        Rankings.from_vectors(
            users.numpy(), items.numpy(), 6, train, item_bias=np.zeros(40, users.numpy().dtype)
        ),
        Rankings.from_scores(scores.numpy(), 6, train),
        Rankings.from_score_function(lambda ids: scores[ids], 30, 40, 6, train),
    ):
        assert torch.equal(found.indices, expected.indices)
    with pytest.raises(ValueError, match="evaluate: expected exclude of 30 rows, as truth; got 29"):
        evaluate(model, test, dense[0][:29])
    with pytest.raises(ValueError, match="Rankings: expected exclude of 30 users × 40 items; got 29 × 40"):
        Rankings.from_scores(scores, 6, dense[0][:29])


def test_ties_do_not_favour_low_ids():
    # All scores equal: each of 400 items is among the first 40 with probability 0.1, wherever it stands.
    for relevant in (0, 399):
        truth = CSR.from_pairs(torch.tensor([0]), torch.tensor([relevant]), 1, 400)
        found = [
            evaluate(
                Vectors(torch.ones(1, 2), torch.ones(400, 2)),
                truth,
                CSR.empty(1, 400),
                [40],
                ["recall"],
                seed=s,
            )
            for s in range(300)
        ]
        share = sum(f["recall@40"] for f in found) / 300
        assert abs(share - 0.1) < 5 * math.sqrt(0.09 / 300)
    half = candidate_metrics(torch.tensor([1.0]), torch.tensor([[1.0, 1.0, 0.0, 2.0]]), [2, 3])
    assert half["hit_rate@2"].item() == 0, "position 1 + 1 better + half of 2 ties = 3"
    assert half["mrr@3"].item() == pytest.approx(1 / 3)


def test_a_model_of_nan_alone_finds_nothing():
    nan = torch.full((1, 4), torch.nan)
    found = candidate_metrics(nan[:, 0], nan, cutoffs=[1, 4])
    assert {name: value.item() for name, value in found.items() if name.endswith("@4")} == {
        "hit_rate@4": 0, "ndcg@4": 0, "mrr@4": 0,
    }  # fmt: skip
    lone = candidate_metrics(nan[:, 0], torch.full((1, 4), -torch.inf), cutoffs=[1])
    assert lone["hit_rate@1"].item() == 1, "no candidate is there to be better"


def test_precision_is_in_float64():
    indices = torch.tensor([[3, 5, 7, 8, 9]])
    truth = CSR.from_pairs(torch.tensor([0]), torch.tensor([5]), n_rows=1, n_columns=10)
    assert ranking_metrics(indices, truth, cutoffs=[5], metrics=["precision"])["precision@5"].item() == 0.2


def test_a_nan_score_ranks_last():
    truth = CSR.from_pairs(torch.tensor([0]), torch.tensor([1]), 1, 3)
    scores = torch.tensor([[0.0, float("nan"), -1.0]])
    assert evaluate(Scores(scores), truth, CSR.empty(1, 3), [3], ["recall"])["recall@3"] == 0
    assert (
        candidate_metrics(torch.tensor([float("nan")]), torch.tensor([[0.0, 1.0]]), [2])["hit_rate@2"].item()
        == 0
    )


def test_bad_input():
    truth = CSR.from_pairs(torch.tensor([0]), torch.tensor([1]), 1, 3)
    with pytest.raises(ValueError, match="expected metrics of recall, .*; got 'recal'"):
        ranking_metrics(torch.tensor([[0]]), truth, [1], ["recal"])
    with pytest.raises(ValueError, match="evaluate: expected metrics of recall, .*auc.*; got 'ndgc'"):
        evaluate(Scores(torch.zeros(1, 3)), truth, CSR.empty(1, 3), [1], ["ndgc"])
    with pytest.raises(ValueError, match="expected cutoffs above 0; got 0"):
        ranking_metrics(torch.tensor([[0]]), truth, [0])
    with pytest.raises(ValueError, match="expected users with relevant items; got none"):
        evaluate(Scores(torch.zeros(1, 3)), CSR.empty(1, 3), CSR.empty(1, 3))
    with pytest.raises(ValueError, match="expected 2 rows of truth"):
        ranking_metrics(torch.tensor([[0], [1]]), truth, [1])
    with pytest.raises(
        ValueError, match=r"^candidate_metrics: expected relevant \[B\] .*; got \[2\] and \[1, 3\]"
    ):
        candidate_metrics(torch.zeros(2), torch.zeros(1, 3))
    ids = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"^evaluate_candidates: expected users \[n\], .*; got \[1\], \[2\] and"
    ):
        evaluate_candidates(Scores(torch.zeros(1, 3)), torch.tensor([0]), ids[0], ids)


def test_an_id_that_is_no_items_is_not_the_next_rows():
    truth = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([0, 5]), n_rows=2, n_columns=9)
    assert not hits_of(torch.tensor([[14], [-9]]), truth).any()
    for bad in (14, 9, -2):
        with pytest.raises(
            IndexError, match=rf"expected indices in \[-1, 9\); got {bad} at position \[1, 0\]"
        ):
            ranking_metrics(torch.tensor([[-1], [bad]]), truth, [1])


def test_no_candidate_takes_no_place():
    none = torch.full((1, 4), -torch.inf)
    found = candidate_metrics(none[:, 0], none, cutoffs=[1])
    assert found["hit_rate@1"].item() == found["mrr@1"].item() == 1


def test_metrics_count_each_items_own_bias():
    """Whatever the permutation that breaks ties."""
    users, items, bias = randn(12, 6, seed=1), randn(90, 6, seed=2), 3 * randn(90, seed=3)
    truth = CSR.from_any(torch.rand(12, 90, generator=generator(4)) < 0.1)
    arguments = truth, CSR.empty(12, 90), [5], ["recall", "auc"]
    expected = evaluate(Scores(users @ items.T + bias), *arguments)
    assert evaluate(Factors(users, items, bias), *arguments) == pytest.approx(expected)


def test_nothing_held_out_is_no_hit():
    class Padded(Scores):
        def score(self, users, items):
            return super().score(users, items.clamp_min(0)).masked_fill(items < 0, -torch.inf)

    held_out, candidates = torch.tensor([[1, 2], [3, -1], [-1, 4]]), torch.full((3, 2), -1)
    found = evaluate_candidates(Padded(randn(3, 9, seed=1)), torch.arange(3), held_out, candidates, [5])
    assert [hits["hit_rate@5"].tolist() for hits in found] == [[1, 1, 0], [1, 0, 1]]


def test_no_cutoff_is_refused():
    truth = CSR.from_pairs(torch.tensor([0]), torch.tensor([5]), 1, 9)
    model = Factors(randn(1, 4, seed=1), randn(9, 4, seed=2))
    for cutoffs, got in (([], "none"), ([10, 0], "0")):
        with pytest.raises(ValueError, match=f"expected cutoffs above 0; got {got}"):
            evaluate(model, truth, CSR.empty(1, 9), cutoffs)
        with pytest.raises(ValueError, match=f"expected cutoffs above 0; got {got}"):
            ranking_metrics(torch.tensor([[3, 5]]), truth, cutoffs)
    assert evaluate(model, truth, CSR.empty(1, 9), [], ["auc"]).keys() == {"auc"}
