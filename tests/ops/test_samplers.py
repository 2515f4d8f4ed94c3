"""The samplers: known answers, exact laws, the released sampler's frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankdistill import complement_sample, position_sample
from rankdistill.data import CSR
from rankdistill.ops import checks
from rankdistill.reference import philox
from tests.case import generator
from tests.conftest import GOLDEN


@pytest.mark.parametrize(
    ("counter", "seed", "answer"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, seed, answer):
    assert tuple(int(w) for w in philox.philox4x32_10(tuple(map(torch.tensor, counter)), seed)) == answer


def test_stated_log_is_the_logarithm():
    x = torch.cat(
        [torch.rand(10_000, dtype=torch.float64), torch.tensor([2.0**-33, 1 - 2.0**-33, 1.0, 22.9, 1e300])]
    )
    assert ((philox.stated_log(x) - x.log()).abs() <= 1e-15 * x.log().abs() + 1e-300).all()


def test_bounded_draws_are_exact():
    words = torch.cat([torch.arange(2000), 2**32 - 1 - torch.arange(2000)])
    for bound in (1, 3, 1000, 2**31 - 1):
        expected = [-1 if (w * bound) % 2**32 < 2**32 % bound else (w * bound) >> 32 for w in words.tolist()]
        assert philox.bounded(words, bound).tolist() == expected


@pytest.mark.parametrize("name", ["sampler_ir", "sampler_urrd"])
def test_position_frequencies_are_the_released_samplers(name):
    golden = np.load(GOLDEN / f"{name}.npz")
    rows, K, T = 60_000, int(golden["K"]), float(golden["T"])
    n = int(golden["n_positions"])
    weights = np.exp(-(np.arange(n) + 1) / T)
    assert np.allclose(
        golden["weights"] / golden["weights"].sum(), weights / weights.sum(), rtol=1e-5, atol=1e-30
    )
    drawn = position_sample(torch.arange(rows), torch.full((rows,), n), K, T, seed=11)
    frequency = np.bincount(drawn.flatten().numpy(), minlength=n) / rows
    error = np.sqrt(
        frequency * (1 - frequency) / rows + golden["inclusion_freq"] * (1 - golden["inclusion_freq"]) / rows
    )
    assert (np.abs(frequency - golden["inclusion_freq"]) <= 5 * error + 2 / rows).all()
    if "exact_inclusion_first180" in golden:
        exact = golden["exact_inclusion_first180"]
        assert (np.abs(frequency[:180] - exact) <= 5 * np.sqrt(exact * (1 - exact) / rows) + 2 / rows).all()
    assert np.allclose(
        drawn.double().mean(0).numpy(), golden["mean_rank_of_kth"], atol=0.05 * T / 10 + 0.02 * n / 50
    )


def test_positions_ascend_without_repeats():
    lengths = torch.randint(0, 120, (500,), generator=torch.Generator().manual_seed(0))
    drawn = position_sample(torch.arange(500), lengths, 30, 7.0, seed=5)
    for row, length in zip(drawn.tolist(), lengths.tolist()):
        kept = [p for p in row if p >= 0]
        assert kept == sorted(set(kept))
        assert len(kept) == min(length, 30)
        assert row[len(kept) :] == [-1] * (30 - len(kept))
        assert all(p < length for p in kept)


@pytest.mark.parametrize("temperature", [1e-3, 0.5, 1e6])
def test_temperature_goes_from_the_top_to_uniform(temperature):
    drawn = position_sample(torch.arange(4000), torch.full((4000,), 50), 5, temperature, seed=1)
    if temperature == 1e-3:
        assert (drawn == torch.arange(5)).all()
    if temperature == 1e6:
        frequency = torch.bincount(drawn.flatten(), minlength=50) / 4000
        assert ((frequency - 0.1).abs() < 5 * math.sqrt(0.09 / 4000)).all()


def test_draws_depend_on_their_counter_alone():
    lengths = torch.full((64,), 200)
    users = torch.arange(64)
    whole = position_sample(users, lengths, 10, 10.0, seed=3, epoch=4, stream=5)
    assert torch.equal(
        whole[40:50], position_sample(users[40:50], lengths[:10], 10, 10.0, seed=3, epoch=4, stream=5)
    )
    for changed in ({"seed": 4}, {"epoch": 5}, {"stream": 6}):
        other = position_sample(users, lengths, 10, 10.0, **{"seed": 3, "epoch": 4, "stream": 5, **changed})
        assert (other != whole).any(1).float().mean() > 0.9
    draws = complement_sample(users, 10**8, 6, seed=3)
    assert torch.equal(draws[7:9], complement_sample(users[7:9], 10**8, 6, seed=3))
    assert torch.equal(
        draws[:, 2:], complement_sample(users, 10**8, 4, positions=torch.full((64,), 2), seed=3)
    )


def test_complement_is_uniform_over_what_is_left():
    rows, n_items = 40_000, 12
    indptr, indices = torch.arange(0, 3 * rows + 1, 3), torch.tensor([0, 5, 11]).repeat(rows)
    listed = torch.tensor([[7, -1, 2]], dtype=torch.int32).expand(rows, 3)
    drawn = complement_sample(torch.arange(rows), n_items, 3, (indptr, indices), listed, seed=2)
    left = [1, 3, 4, 6, 8, 9, 10]
    for column in (drawn[:, 0], drawn[:, 2], drawn.flatten()):
        share = torch.bincount(column, minlength=n_items).double() / len(column)
        assert share[[0, 5, 11, 7, 2]].sum() == 0
        assert ((share[left] - 1 / 7).abs() < 5 * math.sqrt(6 / 49 / len(column))).all()
    assert (drawn.sort(1).values.diff(dim=1) > 0).all(), "an item twice in a row"


def test_enumeration_is_uniform_too():
    # 1 of 3000 items is left for each of two draws' worth: rejection gives up and what is left is enumerated.
    rows, n_items = 600, 3000
    keep = torch.tensor([17, 1044, 2999])
    excluded = torch.tensor([i for i in range(n_items) if i not in keep.tolist()])
    exclude = (torch.arange(0, rows * len(excluded) + 1, len(excluded)), excluded.repeat(rows))
    drawn = complement_sample(torch.arange(rows), n_items, 2, exclude, seed=4)
    counts = torch.stack([(drawn[:, 0] == item).sum() for item in keep])
    assert counts.sum() == rows
    assert ((counts / rows - 1 / 3).abs() < 5 * math.sqrt(2 / 9 / rows)).all()
    assert (drawn[:, 0] != drawn[:, 1]).all()


def test_what_is_not_there_is_not_drawn():
    exclude = (torch.tensor([0, 2, 2]), torch.tensor([0, 2]))
    drawn = complement_sample(torch.tensor([0, 1]), 3, 4, exclude, seed=0)
    assert drawn[0].tolist() == [1, -1, -1, -1]
    assert sorted(drawn[1].tolist()) == [-1, 0, 1, 2]
    assert complement_sample(torch.tensor([0]), 0, 2, seed=0).tolist() == [[-1, -1]]
    assert position_sample(torch.tensor([0]), torch.tensor([0]), 2, 1.0, seed=0).tolist() == [[-1, -1]]


def test_of_the_excluded_only_rows_that_are_read_are_checked(monkeypatch):
    """A batch of few users costs their rows, not the matrix; what is malformed there is told all the same."""
    exclude = CSR.from_any(torch.rand(50, 40, generator=generator(1)) < 0.5)
    users, looked_at = torch.tensor([3, 17, 3]), []
    check = checks.check_csr
    monkeypatch.setattr(checks, "check_csr", lambda *of: (looked_at.append(len(of[3])), check(*of)))
    drawn = complement_sample(users, 40, 5, exclude, seed=1)
    assert looked_at == [int(exclude.counts[users].sum())]
    assert not exclude.contains(users.repeat_interleave(5), drawn.flatten()).any()
    for at, value, told in ((0, 40, "in \\[0, 40\\); got 40"), (1, 0, "ascending")):
        indices = exclude.indices.clone()
        indices[exclude.indptr[17] + at] = value
        with pytest.raises((IndexError, ValueError), match=told):
            complement_sample(users, 40, 5, (exclude.indptr, indices), seed=1)
    indptr = exclude.indptr.clone()
    indptr[18] = indptr[17] - 1
    with pytest.raises(ValueError, match="indptr that never falls"):
        complement_sample(users, 40, 5, (indptr, exclude.indices), seed=1)
