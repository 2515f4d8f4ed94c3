"""Splits: what they must keep, on drawn interactions, and literal small ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.data import (
    SPLITS,
    Interactions,
    leave_one_out,
    random_split,
    split_interactions,
    temporal_split,
)


def make(rows: list[tuple[int, int, int]], n_users: int = 6, n_items: int = 12) -> Interactions:
    users, items, times = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T
    return Interactions(users, items, n_users, n_items, times)


def pairs(part: Interactions) -> list[tuple[int, int]]:
    return list(zip(part.users.tolist(), part.items.tolist()))


rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 11), st.integers(0, 6)), max_size=60)


@given(rows, st.sampled_from(SPLITS), st.integers(0, 5), st.randoms(use_true_random=False))
def test_parts_are_the_pairs_once_for_any_order_of_the_rows(rows, split, seed, random):
    parts = split_interactions(make(rows), split, (0.6, 0.2, 0.2), seed)
    together = [pair for part in parts for pair in pairs(part)]
    assert sorted(together) == sorted({(u, i) for u, i, _ in rows})
    assert all(len(part.timestamps) == len(part) for part in parts)
    random.shuffle(rows)
    again = split_interactions(make(rows), split, (0.6, 0.2, 0.2), seed)
    assert [pairs(part) for part in again] == [pairs(part) for part in parts]


@given(rows, st.sampled_from(["random", "time"]))
def test_leave_one_out_counts(rows, by):
    whole = make(rows)
    train, valid, test = leave_one_out(whole, by)
    count = whole.csr().counts
    expected = (count >= 3).long()
    assert torch.equal(valid.csr().counts, expected)
    assert torch.equal(test.csr().counts, expected)
    assert torch.equal(train.csr().counts, count - 2 * expected)


@given(rows)
def test_time_runs_forward_within_each_user(rows):
    for train, valid, test in (
        leave_one_out(make(rows), "time"),
        temporal_split(make(rows), (0.5, 0.25, 0.25)),
    ):
        for user in range(6):
            times = [part.timestamps[part.users == user] for part in (train, valid, test)]
            for earlier in range(3):
                for later in range(earlier + 1, 3):
                    if len(times[earlier]) and len(times[later]):
                        assert times[earlier].max() <= times[later].min()


@given(rows)
def test_global_time_is_strict(rows):
    train, valid, test = temporal_split(make(rows), (0.5, 0.25, 0.25), per="global")
    for earlier, later in ((train, valid), (train, test), (valid, test)):
        if len(earlier) and len(later):
            assert earlier.timestamps.max() < later.timestamps.min()


@given(rows, st.sampled_from([(0.8, 0.1, 0.1), (0.1, 0.45, 0.45), (1.0, 0.0, 0.0), (0.5, 0.0, 0.5)]))
def test_ratios_per_user_and_train_never_empty(rows, ratios):
    whole = make(rows)
    train, valid, test = random_split(whole, ratios)
    for user, count in enumerate(whole.csr().counts.tolist()):
        n_test = min(int(count * ratios[2] + 0.5), max(count - 1, 0))
        n_valid = min(int(count * ratios[1] + 0.5), max(count - 1 - n_test, 0))
        found = [int(part.csr().counts[user]) for part in (train, valid, test)]
        assert found == [count - n_valid - n_test, n_valid, n_test]


def test_latest_items_of_a_small_table():
    whole = make([(0, 4, 30), (0, 2, 10), (0, 9, 20), (0, 1, 5), (1, 3, 1), (1, 2, 2), (0, 4, 7)])
    train, valid, test = leave_one_out(whole, "time")
    assert pairs(test) == [(0, 9)]  # item 4 was first chosen at 7
    assert pairs(valid) == [(0, 2)]
    assert pairs(train) == [(0, 1), (0, 4), (1, 2), (1, 3)]


def test_global_cut_of_a_small_table():
    parts = temporal_split(make([(0, i, i) for i in range(10)]), (0.8, 0.1, 0.1), per="global")
    assert [part.items.tolist() for part in parts] == [list(range(8)), [8], [9]]


@pytest.mark.parametrize("split", ["random", "leave_one_out", "leave_last_out"])
def test_draws_depend_on_the_seed_only_and_are_even(split):
    # All timestamps are equal, so "leave_last_out" must draw too, and not follow item ids.
    whole = make([(0, item, 0) for item in range(10)])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    tests = [split_interactions(whole, split, seed=seed)[2].items.tolist() for seed in range(400)]
    assert torch.equal(torch.get_rng_state(), state)
    assert tests == [split_interactions(whole, split, seed=seed)[2].items.tolist() for seed in range(400)]
    counts = torch.bincount(torch.tensor(tests).flatten(), minlength=10)
    assert ((counts - 40).square() / 40).sum() < 33.7  # chi-squared, 9 degrees of freedom, p = 1e-4


@pytest.mark.parametrize("ratios", [(0.8, 0.2), (0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (0, 0.5, 0.5)])
def test_bad_ratios(ratios):
    with pytest.raises(ValueError, match="expected three ratios"):
        random_split(make([]), ratios)


def test_wrong_arguments():
    plain = Interactions(torch.tensor([0]), torch.tensor([0]), 1, 1)
    for split in ("leave_last_out", "temporal", "temporal_global"):
        with pytest.raises(ValueError, match="expected interactions with timestamps; got none"):
            split_interactions(plain, split)
    with pytest.raises(ValueError, match=r"expected split as one of random, .*; got 'half'"):
        split_interactions(plain, "half")
    with pytest.raises(ValueError, match="expected per as 'user' or 'global'; got 'item'"):
        temporal_split(make([]), per="item")
    with pytest.raises(ValueError, match="expected by as 'random' or 'time'; got 'luck'"):
        leave_one_out(plain, "luck")
