"""Paired comparisons against scipy's own pairs of samples, numbers to check by eye, and intervals that cover."""

from __future__ import annotations

import sys

import pytest
import torch

from rankdistill.significance import compare_paired
from tests.case import generator


def test_p_values_are_scipys():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed: nothing to compare with")
    first = torch.rand(200, generator=generator(1)).double()
    second = (first + 0.05 * torch.randn(200, generator=generator(2))).clamp(0, 1)
    second[:30] = first[:30]  # users that nothing changes for
    found = compare_paired(first, second)
    assert found.t_test == pytest.approx(stats.ttest_rel(first.numpy(), second.numpy()).pvalue)
    expected = stats.wilcoxon(first.numpy(), second.numpy(), zero_method="wilcox").pvalue
    assert found.wilcoxon == pytest.approx(expected)
    turned = compare_paired(second, first)
    assert turned.difference == -found.difference
    assert turned.wilcoxon == pytest.approx(found.wilcoxon)


def test_numbers_that_a_human_can_check():
    pytest.importorskip("scipy", reason="scipy is not installed: no p-values")
    # Student's t with 4 degrees of freedom: differences 1 … 5, mean 3, s = √2.5, t = 3 / √(2.5/5) = 4.2426, p = 0.01324.
    # Wilcoxon, all five positive: 2 · 2⁻⁵ = 0.0625.
    found = compare_paired(torch.tensor([1.0, 2, 3, 4, 5]), torch.zeros(5))
    assert (found.n, found.difference) == (5, 3.0)
    assert found.t_test == pytest.approx(0.01324, abs=1e-5)
    assert found.wilcoxon == pytest.approx(0.0625)
    assert 1 < found.low < 3 < found.high < 5


def test_means_over_seeds_that_are_equal_are_ties():
    pytest.importorskip("scipy", reason="scipy is not installed: no p-values")
    # 3/3 − 2/3 and 0/3 − 1/3 are a third but for a rounding: fifteen users better by as much as fifteen are worse.
    first = torch.tensor([[1, 1, 1]] * 15 + [[0, 0, 0]] * 15).double().mean(1)
    second = torch.tensor([[1, 1, 0]] * 15 + [[1, 0, 0]] * 15).double().mean(1)
    assert len((first - second).abs().unique()) == 2
    found = compare_paired(first, second)
    assert (found.t_test, found.wilcoxon) == (pytest.approx(1.0), pytest.approx(1.0))


def test_equal_runs_and_single_pairs():
    pytest.importorskip("scipy", reason="scipy is not installed: no p-values")
    same = compare_paired(torch.ones(9), torch.ones(9))
    assert (same.difference, same.low, same.high, same.t_test, same.wilcoxon) == (0, 0, 0, 1, 1)
    shifted = compare_paired(torch.ones(9), torch.zeros(9))
    assert (shifted.low, shifted.high, shifted.t_test) == (1, 1, 0)
    one = compare_paired(torch.ones(1), torch.zeros(1))
    assert (one.n, one.difference, one.t_test, one.wilcoxon) == (1, 1, None, None)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    covered = 0
    for i in range(200):
        values = torch.rand(60, generator=generator(i))
        found = compare_paired(values, torch.zeros(60), resamples=400, confidence=0.9)
        covered += found.low <= 0.5 <= found.high
    assert 165 <= covered <= 194  # 180 expected, standard deviation 4.2


def test_the_interval_is_reproducible_whatever_the_chunks(monkeypatch):
    values = torch.rand(50, generator=generator(1))
    whole = compare_paired(values, values.flip(0))
    assert whole == compare_paired(values, values.flip(0))
    monkeypatch.setattr("rankdistill.significance.CHUNK", 50 * 7)
    assert whole == compare_paired(values, values.flip(0))


def test_without_scipy_there_are_no_p_values_but_an_interval(monkeypatch):
    expected = compare_paired(torch.arange(9.0), torch.zeros(9))
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    found = compare_paired(torch.arange(9.0), torch.zeros(9))
    assert (found.t_test, found.wilcoxon) == (None, None)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_bad_arguments():
    for first, second in ((torch.ones(3), torch.ones(4)), (torch.ones(0), torch.ones(0)), (torch.ones(2, 2), torch.ones(2, 2))):  # fmt: skip
        with pytest.raises(ValueError, match=r"compare_paired: expected two \[n\] tensors, n above 0; got"):
            compare_paired(first, second)
    with pytest.raises(ValueError, match=r"expected confidence in \(0, 1\)"):
        compare_paired(torch.ones(3), torch.ones(3), confidence=1.0)


def test_the_bootstrap_belongs_to_its_seed():
    values = torch.rand(50, generator=generator(1))
    first, second = (compare_paired(values, values.flip(0), seed=seed) for seed in (0, 1))
    assert (first.low, first.high) != (second.low, second.high)


def test_a_unit_does_not_matter():
    pytest.importorskip("scipy")
    rng = generator(3)
    first, second = ((torch.rand(40, generator=rng) * 3).round().double() for _ in range(2))
    tiny = compare_paired(first * 1e-13, second * 1e-13)
    assert tiny.wilcoxon == pytest.approx(compare_paired(first, second).wilcoxon)
