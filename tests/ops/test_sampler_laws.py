"""Samplers against the laws that they state: chi-square with fixed seeds, and the released samplers' frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankdistill import complement_sample, pair_sample, weighted_sample
from rankdistill.data import CSR
from rankdistill.sampling import (
    PAIR_FORMS,
    rank_discrepancy_weights,
    ranks_among_themselves,
    sample_candidates,
    sample_negatives,
    sample_with_replacement,
    shared_position_weights,
    tournament_positions,
    within_group_pairs,
    within_row_positions,
)
from tests.case import randint, randn
from tests.conftest import GOLDEN


def assert_law(counts, law, what=""):
    """Pearson's statistic within five of its standard deviations; cells expected below 10 count as one."""
    counts, law = torch.as_tensor(counts).double().flatten(), torch.as_tensor(law).double().flatten()
    total = counts.sum()
    assert (counts[law == 0] == 0).all(), f"{what}: drawn against the law"
    expected = law / law.sum() * total
    small = expected < 10
    if bool(small.any()):
        counts = torch.cat([counts[~small], counts[small].sum()[None]])
        expected = torch.cat([expected[~small], expected[small].sum()[None]])
    kept = expected > 0
    statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = int(kept.sum()) - 1
    assert freedom > 0, "expected more than one cell"
    assert statistic < freedom + 5 * math.sqrt(2 * freedom), f"{what}: {statistic:.1f} of {freedom}"


def position_weights(length, temperature):
    return torch.exp(-(torch.arange(length) + 1).double() / temperature)


def pair_law(length, temperature):
    weights = position_weights(length, temperature)
    return (weights[:, None] * weights).triu(1)


def tournament_law(length, temperature):
    p = position_weights(length, temperature)
    p = p / p.sum()
    return 2 * p * (p.sum() - p.cumsum(0)) + p * p


SHAPES = [(2, 0.3), (2, 1.9), (2, 50.0), (3, 2.9), (9, 3.0), (9, 8.9), (9, 9.0), (60, 20.0), (7, 1e6)]


@pytest.mark.parametrize(("length", "temperature"), SHAPES)
def test_pairs_have_their_law(length, temperature):
    rows, K = 20_000, 4
    drawn = pair_sample(torch.arange(rows), torch.full((rows,), length), K, temperature, seed=3)
    for part in (drawn[:, 0], drawn[:, K - 1], drawn.flatten(0, 1)):
        counts = torch.bincount(part[:, 0] * length + part[:, 1], minlength=length**2)
        if length > 2:
            assert_law(counts, pair_law(length, temperature))
        else:
            assert counts.tolist() == [0, len(part), 0, 0]


def test_steep_weights_still_give_different_positions():
    drawn = pair_sample(torch.arange(500), torch.full((500,), 30), 3, 1e-4, seed=3)
    assert torch.equal(drawn, torch.tensor([0, 1]).expand(500, 3, 2))


@pytest.mark.parametrize(("length", "temperature"), [(1, 1.0), *SHAPES])
def test_a_tournament_has_its_law(length, temperature):
    rows = 80_000
    drawn = tournament_positions(torch.arange(rows), torch.full((rows,), length), 1, temperature, seed=4)
    if length == 1:
        assert (drawn == 0).all()
    else:
        assert_law(torch.bincount(drawn[:, 0], minlength=length), tournament_law(length, temperature))
    both = pair_sample(torch.arange(rows), torch.full((rows,), length), 1, temperature, False, seed=4)[:, 0]
    single = position_weights(length, temperature)
    if length > 1:
        assert_law(torch.bincount(both.flatten(), minlength=length), single, "of both")


def test_pairs_are_the_intended_law_of_the_released_sampler():
    golden = np.load(GOLDEN / "unkd_pair_sampler.npz")
    n, rows = int(golden["n_items_in_group"]), 6400
    ranked, group = torch.arange(n).expand(rows, n), torch.zeros(n, dtype=torch.int64)
    drawn = within_group_pairs(torch.arange(rows), ranked, group, [30], seed=1).flatten(0, 1)
    counts = torch.bincount(drawn[:, 0] * n + drawn[:, 1], minlength=n * n)
    intended = torch.from_numpy(golden["intended_law"])
    assert_law(counts, intended)
    torch.testing.assert_close(pair_law(n, 20.0) / pair_law(n, 20.0).sum(), intended, rtol=1e-6, atol=1e-12)


def test_pairs_in_the_released_form_have_the_released_law():
    golden = np.load(GOLDEN / "unkd_pair_sampler.npz")
    n, rows = int(golden["n_items_in_group"]), 6400
    ranked, group = torch.arange(n).expand(rows, n), torch.zeros(n, dtype=torch.int64)
    pairs = [within_group_pairs(torch.arange(rows), ranked, group, [30], form=f, seed=1) for f in PAIR_FORMS]
    better, worse = pairs[1].flatten(0, 1).unbind(1)
    assert_law(torch.bincount(better * n + worse, minlength=n * n), torch.from_numpy(golden["author_law"]))
    swapped = better == worse
    assert torch.equal(pairs[1].flatten(0, 1)[~swapped], pairs[0].flatten(0, 1)[~swapped])
    with pytest.raises(ValueError, match="form as one of paper, released; got 'mine'"):
        within_group_pairs(torch.arange(rows), ranked, group, [30], form="mine", seed=1)


def test_a_tournament_is_the_released_one():
    golden = np.load(GOLDEN / "cd_sampler.npz")
    n, rows = int(golden["sample_num"]), 60_000
    temperature = n / float(golden["lamda"])
    drawn = tournament_positions(torch.arange(rows), torch.full((rows,), n), 50, temperature, seed=1)
    frequency = torch.bincount(drawn.flatten(), minlength=n).double() / drawn.numel()
    assert_law(torch.bincount(drawn.flatten(), minlength=n), golden["exact_rank_prob"])
    error = np.sqrt(golden["rank_freq"] * (1 - golden["rank_freq"]) / int(golden["n_draws"]))
    assert (np.abs(frequency.numpy() - golden["rank_freq"]) < 5 * error).all()
    distinct = torch.tensor([len(row.unique()) for row in drawn[:2000]]).double().mean() / 50
    assert abs(float(distinct) - float(golden["distinct_fraction"])) < 0.005


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weighted_columns_have_the_law_of_successive_draws(dtype):
    """Of 2 columns of 5: P({i, j}) = p_i p_j/(1 − p_i) + p_j p_i/(1 − p_j)."""
    weights = torch.tensor([0.5, 0.0, 3.0, 1.0, 8.0], dtype=dtype)
    rows = 60_000
    drawn = weighted_sample(torch.arange(rows), weights.expand(rows, 5), 2, seed=6)
    assert (drawn[:, 0] < drawn[:, 1]).all()
    p = weights.double() / weights.double().sum()
    both = p[:, None] * p / (1 - p)[:, None]
    assert_law(torch.bincount(drawn[:, 0] * 5 + drawn[:, 1], minlength=25), (both + both.T).triu(1))
    one = weighted_sample(torch.arange(rows), weights.expand(rows, 5), 1, seed=7)
    assert_law(torch.bincount(one[:, 0], minlength=5), weights)


def test_weights_count_relative_to_each_other_at_any_scale():
    weights = randn(50, 30, seed=1, dtype=torch.float64).abs()
    users = torch.arange(50)
    drawn = weighted_sample(users, weights, 7, seed=1)
    for exponent in (-900, 40, 900):
        assert torch.equal(drawn, weighted_sample(users, weights * 2.0**exponent, 7, seed=1))


def test_too_few_weights_are_said_so():
    """Where torch.multinomial gives columns of weight 0 without a word."""
    weights = torch.zeros(3, 6)
    weights[1, 4] = weights[2, 5] = weights[2, 0] = 1.0
    drawn = weighted_sample(torch.arange(3), weights, 3, seed=0)
    assert drawn.tolist() == [[-1, -1, -1], [4, -1, -1], [0, 5, -1]]


@pytest.mark.parametrize("side", ["user", "item"])
def test_discrepancy_weights_are_the_released_ones(side):
    golden = np.load(GOLDEN / "dcd_small.npz")
    users, items = (torch.from_numpy(golden[f"{name}_emb"]) for name in ("user", "item"))
    queries, keys = (users, items) if side == "user" else (items, users)
    listed = torch.from_numpy(golden[f"teacher_{side}_topk"])
    ranks = ranks_among_themselves((queries[:, None, :] * keys[listed]).sum(-1))
    found = rank_discrepancy_weights(ranks, float(golden["ep"]))
    for weights, name in zip(found, ("under", "over"), strict=True):
        torch.testing.assert_close(weights, torch.from_numpy(golden[f"{side}_{name}"]), rtol=1e-6, atol=1e-7)


def test_shared_position_weights_are_the_released_ones():
    golden = np.load(GOLDEN / "rcekd_sampler.npz")
    listed, top = torch.from_numpy(golden["S_topk"]), torch.from_numpy(golden["T_topk"])
    shared = (listed[:, :, None] == top[:, None, :]).any(-1)
    weights = shared_position_weights(shared, float(golden["T"]))
    released = torch.from_numpy(golden["weights"])
    torch.testing.assert_close(
        weights / weights.sum(1, keepdim=True),
        (released / released.sum(1, keepdim=True)).double(),
        rtol=1e-5,
        atol=0,
    )
    L = int(golden["L"])
    drawn = weighted_sample(torch.arange(30), weights, L, seed=0)
    assert (drawn >= 0).all()
    assert ((drawn.diff(dim=1)) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_with_replacement_have_their_law(dtype):
    weights = randn(3, 37, seed=2, dtype=dtype).abs()
    weights[:, 5:20] = 0
    weights[1] *= 1e-30
    n = 60_000
    rows, users = randint(0, 3, (n,), seed=3), randint(0, 2**32, (n,), seed=4)
    positions = torch.arange(n)
    draw = {"seed": 5, "epoch": 6, "stream": 7}
    drawn = sample_with_replacement(rows, weights, users, positions, **draw)
    for row in range(3):
        assert_law(torch.bincount(drawn[rows == row], minlength=37), weights[row])
    part = sample_with_replacement(rows[70:90], weights, users[70:90], positions[70:90], **draw)
    assert torch.equal(part, drawn[70:90])
    weights[1] = 0
    none = sample_with_replacement(rows, weights, users, positions, **draw)
    assert (none[rows == 1] == -1).all()
    assert torch.equal(none[rows != 1], drawn[rows != 1])
    assert (sample_with_replacement(rows, weights[:, :0], users, positions, **draw) == -1).all()
    assert sample_with_replacement(rows, weights[:, :1], users, positions, **draw).max() == 0


def test_within_group_pairs_by_eye():
    """Users 0 and 1 rank items 0 to 6; groups {0, 2, 4}, {1, 3}, none {5} and {6} alone."""
    group = torch.tensor([0, 1, 0, 1, 0, -1, 2])
    ranked = torch.tensor([[4, 1, 5, 0, 6, 3, 2], [6, -1, 3, -1, 1, -1, -1]], dtype=torch.int32)
    drawn = within_group_pairs(torch.tensor([0, 1]), ranked, group, [5, 2, 1], temperature=1e-3, seed=0)
    assert drawn[0].tolist() == [[4, 0]] * 5 + [[1, 3]] * 2 + [[-1, -1]]
    assert drawn[1].tolist() == [[-1, -1]] * 5 + [[3, 1]] * 2 + [[-1, -1]]
    flat = within_group_pairs(torch.arange(4000), ranked[:1].expand(4000, 7), group, [5, 2, 1], 1e9, seed=0)
    seen = torch.bincount(flat[:, :5].flatten(0, 1)[:, 0] * 7 + flat[:, :5].flatten(0, 1)[:, 1], minlength=49)
    assert_law(seen, torch.zeros(49).index_fill_(0, torch.tensor([4 * 7 + 0, 4 * 7 + 2, 0 * 7 + 2]), 1.0))
    assert within_group_pairs(torch.tensor([0]), ranked[:1, :0], group, [2], seed=0).tolist() == [
        [[-1, -1]] * 2
    ]
    assert within_group_pairs(torch.tensor([0]), ranked[:1], group, [], seed=0).shape == (1, 0, 2)


def test_draws_depend_on_user_and_place_alone():
    lengths, users = randint(0, 90, (200,), seed=1), randint(0, 2**32, (200,), seed=2)
    draw = {"seed": 8, "epoch": 9, "stream": 10}
    pairs = pair_sample(users, lengths, 6, 12.0, **draw)
    rows = torch.tensor([150, 3, 77])
    assert torch.equal(pair_sample(users[rows], lengths[rows], 6, 12.0, **draw), pairs[rows])
    places = torch.full((3,), 2)
    assert torch.equal(
        pair_sample(users[rows], lengths[rows], 4, 12.0, True, places, **draw), pairs[rows, 2:]
    )
    weights = randn(200, 50, seed=3).abs()
    columns = weighted_sample(users, weights, 9, **draw)
    assert torch.equal(weighted_sample(users[rows], weights[rows], 9, **draw), columns[rows])
    for changed in ({"seed": 1}, {"epoch": 1}, {"stream": 1}):
        other = {**draw, **changed}
        assert (pair_sample(users, lengths, 6, 12.0, **other) != pairs).any()
        assert (weighted_sample(users, weights, 9, **other) != columns).any(1).float().mean() > 0.9


def test_negatives_are_uniform_over_what_a_user_has_not():
    """Bayesian personalised ranking: for each interaction, by its place among the user's."""
    n_items, users = 9, torch.arange(3).repeat_interleave(torch.tensor([2, 8, 9]))
    items = torch.cat([torch.tensor([1, 4]), torch.arange(8), torch.arange(9)])
    train = CSR.from_pairs(users, items, n_rows=3, n_columns=n_items)
    positions = within_row_positions(users)
    drawn = torch.stack(
        [sample_negatives(users, positions, train, 3, seed=1, epoch=epoch) for epoch in range(3000)]
    )
    first = drawn[:, :2].flatten(0, 1)  # of user 0
    left = torch.tensor([0, 2, 3, 5, 6, 7, 8])
    law = torch.zeros(n_items).index_fill_(0, left, 1.0)
    for column in range(3):
        assert_law(torch.bincount(first[:, column], minlength=n_items), law)
    assert (first.sort(1).values.diff(dim=1) > 0).all(), "without replacement within an interaction"
    assert (drawn[:, 2:10] == torch.tensor([8, -1, -1])).all(), "one item is left"
    assert (drawn[:, 10:] == -1).all(), "none is"
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))
    shuffled = sample_negatives(users[order], positions[order], train, 3, seed=1, epoch=0)
    assert torch.equal(shuffled, drawn[0][order])


def test_complement_draws_pass_chi_square():
    rows, n_items = 30_000, 40
    excluded = torch.tensor([0, 7, 8, 21, 39])
    exclude = torch.arange(0, 5 * rows + 1, 5), excluded.repeat(rows)
    drawn = complement_sample(torch.arange(rows), n_items, 20, exclude, seed=12)
    law = torch.ones(n_items).index_fill_(0, excluded, 0.0)
    for column in (0, 1, 15, 16, 19):
        assert_law(torch.bincount(drawn[:, column], minlength=n_items), law, f"column {column}")
    pairs = drawn[:, 15] * n_items + drawn[:, 16]
    assert_law(torch.bincount(pairs, minlength=n_items**2), (law[:, None] * law).fill_diagonal_(0))


def test_interactions_groups_and_seeds_draw_for_themselves():
    places = torch.arange(500)
    drawn = sample_negatives(torch.zeros_like(places), places, CSR.empty(1, 20_000), 4, seed=1, epoch=0)
    assert len(drawn.unique()) > 1850, "of 2000 draws among 20,000 items some 97 come again"
    ranked = torch.arange(60).expand(1, 60).int()
    pairs = within_group_pairs(torch.tensor([0]), ranked, torch.arange(60) // 30, [40, 40], seed=0)[0]
    assert not torch.equal(pairs[:40], pairs[40:] - 30)
    drawn = [sample_candidates(CSR.empty(5, 999), torch.arange(5), 9, seed=seed) for seed in (0, 1)]
    assert not torch.equal(*drawn)
