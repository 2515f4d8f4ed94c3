"""masked_topk: values by eye, what cannot be ranked, layouts, and rows built to mislead its sample or fill its buffers."""

from __future__ import annotations

import pytest
import torch

from rankdistill import masked_topk
from tests.case import DTYPES, generator, randint, randn
from tests.score_cases import lists_of, topk_of

NAN, INF = float("nan"), float("inf")
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(scores):
    return scores.contiguous().view(BITS[scores.element_size()])


def check(scores, k, exclude=None, found=None):
    """Equal to the oracle, bit for bit, signs of zeros too."""
    found = masked_topk(scores, k, exclude) if found is None else found
    expected = topk_of(scores.double(), k, exclude)
    assert torch.equal(found.indices, expected[1])
    assert torch.equal(found.lengths, expected[2])
    assert found.scores.dtype == scores.dtype
    assert torch.equal(bits(found.scores), bits(expected[0].to(scores.dtype)))


def test_values_by_eye():
    scores = torch.tensor([[0.5, 2.0, 2.0, NAN, 1.0], [1.0, 0.0, 3.0, 2.0, -INF]])
    found = masked_topk(scores, 4, (torch.tensor([0, 0, 1]), torch.tensor([2])))
    assert found.indices.tolist() == [[1, 2, 4, 0], [3, 0, 1, -1]]
    assert found.scores.tolist() == [[2.0, 2.0, 1.0, 0.5], [2.0, 1.0, 0.0, -INF]]
    assert found.lengths.tolist() == [4, 3]
    found = masked_topk(scores, 2, scores > 1.5)
    assert found.indices.tolist() == [[4, 0], [0, 1]]
    assert masked_topk(scores, 0).lengths.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_cannot_be_ranked(dtype):
    signs = torch.tensor([1, 1, -1, 1, -1, 1, -1, 1]).to(dtype)
    row = torch.tensor([NAN, 1.0, INF, INF, 0.0, 0.0, NAN, 2.0]).to(dtype).copysign(signs)
    assert row.signbit().tolist() == (signs < 0).tolist()
    lowest = torch.finfo(dtype).min
    scores = torch.stack([row, -row, torch.full_like(row, NAN), torch.full_like(row, lowest)])
    found = masked_topk(scores, 8)
    assert found.indices.tolist() == [
        [3, 7, 1, 4, 5, -1, -1, -1],
        [2, 4, 5, 1, 7, -1, -1, -1],
        [-1] * 8,
        list(range(8)),
    ]
    assert found.lengths.tolist() == [5, 5, 0, 8]
    assert found.scores[0, 3:5].signbit().tolist() == [True, False], "zeros keep their sign"
    assert found.scores[2].tolist() == [-INF] * 8
    for repeats in (1, 40, 3000):  # rows of one word, of several, of several steps
        for k in (1, 4, 5, 8, 100):
            check(scores.repeat(1, repeats), k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbouring_numbers_are_told_apart(dtype):
    """The least steps that the dtype has: around zero, through subnormal numbers, and up to its largest number."""
    steps = torch.arange(-40, 41)
    size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[torch.finfo(dtype).bits // 8]
    tiny = steps.abs().to(size).view(dtype).copysign(steps.to(dtype))
    top = torch.tensor([torch.finfo(dtype).max], dtype=dtype).view(size) - steps.abs().to(size)
    for row in (tiny, top.view(dtype), -top.view(dtype)):
        shuffled = row[torch.randperm(len(row), generator=generator(1))].repeat(3)[None]
        for k in (1, 40, 120, 243):
            check(shuffled, k)


def test_exclusions_of_every_kind():
    scores = randn(6, 5000, seed=1)
    mask = torch.zeros(6, 5000, dtype=torch.bool)
    mask[1] = True  # all
    mask[2, ::2] = True
    mask[3] = True  # all but one
    mask[3, 4999] = False
    mask[4] = scores[4] > 1.0  # the best
    mask[5, 4096:] = True
    for repeats in (1, 2, 3):
        for k in (1, 50, 2500, 2501, 5000, 5001):
            check(scores, k, lists_of(mask, repeats))
    for k in (1, 50, 2500, 5001):
        check(scores, k, mask)
        check(scores, k, mask[:1].expand(6, -1))
        check(scores, k, mask.t().contiguous().t())
    assert masked_topk(scores, 3, mask).indices[3].tolist() == [4999, -1, -1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(2))
def test_thousands_of_random_rows(dtype, seed):
    """15,000 rows per dtype and seed: distinct scores, ties, non-finite ones, exclusions of both kinds."""
    shapes, rows = generator(seed), 0
    pick = lambda low, high: int(torch.randint(low, high, (1,), generator=shapes))
    strange = torch.tensor([NAN, INF, -INF, 0.0, -0.0, -NAN]).to(dtype)
    while rows < 15_000:
        N = pick(0, 200) if pick(0, 4) else pick(200, 9000)
        B = pick(1, 1500) if N < 200 else pick(1, 60)
        k = pick(0, N + 4) if pick(0, 2) else pick(0, 12)
        scores = randn(B, N, seed=pick(0, 10**6), scale=(1e-6, 1.0, 100.0)[pick(0, 3)])
        if pick(0, 2):
            scores = scores.round()
        scores = scores.to(dtype)
        share = torch.tensor([0.0, 0.01, 0.5, 0.99, 1.0])[torch.randint(0, 5, (B, 1), generator=shapes)]
        if pick(0, 3) == 0:
            odd = strange[torch.randint(0, 6, (B, N), generator=shapes)]
            scores = torch.where(torch.rand(B, N, generator=shapes) < share, odd, scores)
        mask = torch.rand(B, N, generator=shapes) < share
        exclude = (None, mask, lists_of(mask, pick(1, 3)))[pick(0, 3)]
        check(scores, k, exclude)
        rows += B


def sampled(N):
    """The columns that the CPU kernel samples (kernels/cpu/masked_topk.h): 16 of each period, at scattered places."""
    period = 32
    while period < 1024 and N // (2 * period) >= 64:
        period *= 2
    while N // period > 256:
        period *= 2
    places = [(((j + 1) * 0x9E3779B97F4A7C15) % 2**64 >> 33) % (period - 15) for j in range(N // period)]
    starts = torch.arange(N // period) * period + torch.tensor(places)
    return (starts[:, None] + torch.arange(16)).flatten()


@pytest.mark.parametrize("N", [150, 1500, 20_000, 300_000])
def test_a_sample_that_misleads(N):
    places = sampled(N)
    assert places.max() < N
    for k in (3, 100):
        high = randn(3, N, seed=1)
        for row, count in enumerate((2, 60, len(places))):  # a bound that too few reach, once, twice, by all
            high[row, places[: min(count, len(places))]] += 10
        check(high, k)
        low = randn(3, N, seed=2)
        low[:, places] -= 100  # a bound that all others reach: every buffer runs over
        check(low, k)
        check(low.sort(1).values, k)
        rising = torch.arange(N, dtype=torch.float32).expand(3, -1).clone()
        rising[:, places] = -1.0
        check(rising, k)
        none = randn(3, N, seed=3)
        none[:, places] = NAN
        check(none, k)
        check(none.nan_to_num(0.0), k, lists_of(none.isnan()))
        check(none.nan_to_num(0.0), k, none.isnan())


@pytest.mark.parametrize("dtype", DTYPES)
def test_orders_built_to_break_a_filter(dtype):
    N = 30_000
    scores = randn(1, N, seed=1, dtype=dtype)
    rows = torch.cat(
        [
            scores.sort(1).values,
            scores.sort(1, descending=True).values,
            torch.ones(1, N, dtype=dtype),
            torch.full((1, N), -INF, dtype=dtype),
            (torch.arange(N) % 2).to(dtype)[None],
            (torch.arange(N) < N // 2).to(dtype)[None],  # ties that fill every buffer
            torch.where(torch.arange(N) == N - 1, 1.0, -INF).to(dtype)[None],
            (torch.arange(N) // 5000).to(dtype)[None],
            torch.where(torch.arange(N) >= N - 40, 1 + torch.finfo(dtype).eps, 1.0).to(dtype)[
                None
            ],  # one step higher
        ]
    )
    for k in (1, 100, 4000, 15_001, N):
        check(rows, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype):
    wide = randn(40, 3000, seed=1, dtype=dtype)
    for scores in (
        wide[::3],
        wide[:, 5:2990],
        wide[:, ::2],
        wide.t(),
        wide.flip(1).t()[::7],
        wide[:1].expand(9, -1),
        wide[:, :1].expand(-1, 70),
        wide[3:4, :1],
    ):
        mask = torch.rand(scores.shape, generator=generator(2)) < 0.1
        for exclude in (None, mask, mask.t().contiguous().t(), lists_of(mask)):
            check(scores, 20, exclude, masked_topk(scores, 20, exclude))


def test_a_transposed_matrix_is_copied_in_parts(monkeypatch):
    import importlib

    module = importlib.import_module("rankdistill.ops.masked_topk")
    monkeypatch.setattr(module, "COPIED", 500)
    scores = randn(90, 33, seed=1).t().contiguous().t()
    mask = torch.rand(90, 33, generator=generator(2)) < 0.3
    assert len(list(module.row_blocks(scores, mask))) == 6
    assert len(list(module.row_blocks(scores.contiguous(), mask))) == 1
    for exclude in (None, mask, lists_of(mask)):
        check(scores, 12, exclude)


def test_batches_and_threads_leave_the_bits():
    scores = randn(130, 9000, seed=1).round(decimals=1)
    mask = torch.rand(130, 9000, generator=generator(3)) < 0.02
    whole = masked_topk(scores, 40, lists_of(mask))
    threads = torch.get_num_threads()
    try:
        for count, size in ((1, 130), (2, 7), (5, 64), (3, 1)):
            torch.set_num_threads(count)
            parts = [
                masked_topk(rows, 40, lists_of(listed))
                for rows, listed in zip(scores.split(size), mask.split(size), strict=True)
            ]
            assert all(
                torch.equal(torch.cat(p), w) for p, w in zip(zip(*parts, strict=True), whole, strict=True)
            )
    finally:
        torch.set_num_threads(threads)


def test_threads_share_the_columns_of_few_rows():
    scores = randn(2, 700_001, seed=1).round(decimals=2)
    mask = torch.rand(2, 700_001, generator=generator(2)) < 0.3
    threads = torch.get_num_threads()
    try:
        for count in (1, 4, 9):
            torch.set_num_threads(count)
            for k in (1, 300):
                check(scores, k, lists_of(mask))
                check(scores.half(), k, mask)
    finally:
        torch.set_num_threads(threads)


def test_flushing_of_subnormals_by_the_caller_changes_nothing():
    scores = randn(3, 5000, seed=1, scale=1e-42)
    assert (scores != 0).any()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        found = masked_topk(scores, 20)
    finally:
        torch.set_flush_denormal(False)
    check(scores, 20, found=found)


def test_no_gradient_and_no_forward_mode_derivative():
    scores = randn(2, 30).requires_grad_()
    found = masked_topk(scores, 2)
    with pytest.raises(RuntimeError, match="masked_topk: expected no gradient"):
        found.scores.sum().backward()
    scores.gather(1, found.indices).sum().backward()
    assert scores.grad.sum() == 4
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(randn(2, 3), randn(2, 3))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            masked_topk(dual, 2)


def test_a_list_that_descends_from_row_to_row_is_legal():
    scores = randint(0, 5, (3, 20), seed=1).float()
    check(scores, 9, (torch.tensor([0, 2, 2, 4]), torch.tensor([7, 9, 3, 4])))
