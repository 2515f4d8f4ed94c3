"""inner_product_topk: values by eye, what cannot be ranked, and tables built to break a filter."""

from __future__ import annotations

import math

import pytest
import torch

from rankdistill import inner_product_topk
from tests.case import DTYPES, generator, randint, randn, widened
from tests.cases import topk_budget, topk_oracle

NAN, INF = float("nan"), float("inf")


def bits(scores):
    return scores.view(torch.int64 if scores.dtype == torch.float64 else torch.int32)


def check(users, items, k, exclude=None):
    """Equal to the oracle: bit for bit, signs of zeros too; scores of fp64 tables within their budget."""
    found = inner_product_topk(users, items, k, exclude)
    expected = topk_oracle(widened(users), widened(items), k, exclude, storage=users.dtype)
    assert torch.equal(found.indices, expected[1])
    assert torch.equal(found.lengths, expected[2])
    if users.dtype == torch.float64:
        (budget,) = topk_budget(users.dtype, expected, users, items)
        error = torch.where(found.scores == expected[0], 0.0, (found.scores - expected[0]).abs())
        assert ((error == 0) | (error <= budget)).all()
    else:
        assert torch.equal(bits(found.scores), bits(expected[0]))


def csr(mask, repeats=1):
    """The mask's items by row, each listed `repeats` times."""
    counts = torch.cat([torch.zeros(1).long(), mask.sum(1).cumsum(0)])
    return counts * repeats, mask.nonzero()[:, 1].repeat_interleave(repeats)


def test_values_by_eye():
    users = torch.tensor([[1.0, 2.0], [-1.0, 0.0]])
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    exclude = torch.tensor([0, 1, 1]), torch.tensor([2])
    found = inner_product_topk(users, items, 3, exclude)
    assert found.indices.tolist() == [[1, 3, 0], [1, 3, 0]]
    assert found.scores.tolist() == [[2.0, 2.0, 1.0], [0.0, 0.0, -1.0]]
    assert found.lengths.tolist() == [3, 3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_cannot_be_ranked(dtype):
    signs = torch.tensor([1, 1, -1, 1, -1, 1, -1, 1])  # a cast may change a NaN's
    items = (
        torch.tensor([NAN, 1.0, INF, INF, 0.0, 0.0, NAN, 2.0]).to(dtype).copysign(signs.to(dtype))[:, None]
    )
    assert torch.equal(items.signbit()[:, 0], signs < 0)
    users = torch.tensor([[1.0], [-1.0], [0.0], [NAN]], dtype=dtype)
    found = inner_product_topk(users, items, 8)
    assert found.indices.tolist() == [
        [3, 7, 1, 4, 5, -1, -1, -1],
        [2, 4, 5, 1, 7, -1, -1, -1],
        [1, 4, 5, 7, -1, -1, -1, -1],
        [-1] * 8,
    ]
    assert found.lengths.tolist() == [5, 5, 4, 0]
    assert found.scores[0].tolist() == [INF, 2.0, 1.0, 0.0, 0.0, -INF, -INF, -INF]
    assert found.scores[3].tolist() == [-INF] * 8
    check(users, items, 8)
    check(users, items, 4)


def test_exclusions_of_every_kind():
    users, items = randn(5, 4, seed=1), randn(90, 4, seed=2)
    mask = torch.zeros(5, 90, dtype=torch.bool)
    mask[1] = True  # all
    mask[2, ::2] = True
    mask[4] = True  # all but one
    mask[4, 71] = False
    for repeats in (1, 2, 3):
        found = inner_product_topk(users, items, 50, csr(mask, repeats))
        assert found.lengths.tolist() == [50, 0, 45, 50, 1]
        assert found.indices[1].tolist() == [-1] * 50
        assert found.indices[4].tolist() == [71] + [-1] * 49
        assert not (found.indices[2] % 2 == 0).any()
        for k in (1, 44, 45, 46, 90, 91):
            check(users, items, k, csr(mask, repeats))
    nothing = inner_product_topk(users, items, 7, csr(mask & False))
    assert torch.equal(nothing.indices, inner_product_topk(users, items, 7).indices)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_to_the_lower_index(dtype):
    users, items = randint(-2, 3, (40, 3), seed=1), randint(-2, 3, (500, 3), seed=2)
    found = inner_product_topk(users.to(dtype), items.to(dtype), 120)
    for row, scores in zip(found.indices.tolist(), (users @ items.T).tolist(), strict=True):
        assert row == sorted(range(500), key=lambda item: (-scores[item], item))[:120]


# From subnormal numbers to scores that overflow fp32.
SCALES = {
    torch.float32: (1e-42, 1e-30, 1.0, 1e18, 1e19),
    torch.float64: (1e-100, 1e-30, 1.0, 1e18),
    torch.float16: (1e-6, 1e-3, 1.0, 100.0),
    torch.bfloat16: (1e-39, 1e-30, 1.0, 1e18, 1e19),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(2))
def test_thousands_of_random_rows(dtype, seed):
    shapes, rows = generator(seed), 0
    pick = lambda low, high: int(torch.randint(low, high, (1,), generator=shapes))
    scale = lambda: SCALES[dtype][pick(0, len(SCALES[dtype]))]
    while rows < 4000:
        B, N, D, k = pick(1, 300), pick(1, 700), pick(1, 40), pick(1, 60)
        users, items = (randn(n, D, seed=pick(0, 10**6), dtype=dtype, scale=scale()) for n in (B, N))
        if pick(0, 2):
            items = items[torch.randint(0, N, (N,), generator=shapes)]  # repeated vectors: ties
        if pick(0, 3) == 0:
            items[pick(0, N)] *= 100.0 if dtype == torch.float16 else 1e10  # one giant
        share = torch.tensor([0.0, 0.1, 0.9, 1.0])[torch.randint(0, 4, (B, 1), generator=shapes)]
        mask = torch.rand(B, N, generator=shapes) < share
        check(users, items, k, csr(mask, pick(1, 3)) if pick(0, 2) else None)
        rows += B


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_order_is_that_of_the_rounded_scores(dtype):
    """Sums that differ by less than one rounding are equal scores; halves round to even."""
    users = torch.tensor([[1.0, 2.0**-30]]).to(dtype)
    tail = randint(0, 257, (6000, 1), seed=1)
    items = torch.cat([torch.ones(6000, 1), tail], 1).to(dtype)
    steps = ((items[:, 1].double() / 128).round()).long().tolist()  # 128 * 2^-30 is one ulp of fp32 at 1
    assert len(set(steps)) == 3
    wanted = sorted(range(6000), key=lambda item: (-steps[item], item))
    for k in (1, 50, 1500, 5999):
        found = inner_product_topk(users, items, k)
        assert found.indices[0].tolist() == wanted[:k]
        check(users, items, k)


@pytest.mark.parametrize("k", [1, 50, 2999, 5999])
def test_scores_one_ulp_apart_around_the_last_place(k):
    rank = torch.randperm(6000, generator=generator(1))
    items = (1 + rank * 2.0**-23)[:, None]
    found = inner_product_topk(torch.tensor([[1.0], [-1.0]]), items, k)
    assert torch.equal(found.indices[0], rank.argsort(descending=True)[:k])
    assert torch.equal(found.indices[1], rank.argsort()[:k])


def attacks(N, D):
    base = randn(N, D, seed=1)
    one = torch.ones(1, D) / math.sqrt(D)
    line = one + torch.zeros(N, 1)
    steps = torch.arange(N)[:, None].float()
    yield "ascending", base.abs() * (1 + steps)
    yield "descending", base.abs() * (N - steps)
    yield "all equal", line
    yield (
        "one ulp apart",
        line * torch.tensor([1.0, 1 + 2.0**-23])[torch.randint(0, 2, (N, 1), generator=generator(2))],
    )
    yield "ulps apart", line * (1 + 2.0**-23 * torch.randint(0, 9, (N, 1), generator=generator(3)))
    giant = base.clone()
    giant[::97] *= 1e15
    yield "giant neighbours", giant
    huge = base.clone()
    huge[5] *= 1e30
    yield "a norm past the margin", huge
    bad = base.clone()
    bad[::50, 0] = NAN
    bad[::70, 1] = INF
    yield "not finite here and there", bad
    yield "subnormal", base * 1e-41
    yield "clustered", base[torch.arange(N) % 7] + 1e-6 * randn(N, D, seed=4)


@pytest.mark.parametrize(("name", "items"), [pytest.param(n, t, id=n) for n, t in attacks(20_000, 24)])
def test_tables_built_to_break_a_filter(name, items):
    users = torch.cat([randn(9, 24, seed=5), torch.ones(2, 24), -torch.ones(1, 24), torch.zeros(1, 24)])
    for k in (1, 50, 700):
        check(users, items, k)


def half_a_rounding(N):
    """Tables and biases whose scores are the lowest number, or -inf: by less than a product's own rounding."""
    users = torch.tensor([[2.0**51, 2.0**38], [0.0, 0.0], [2.0**51, 0.0]])
    items = torch.stack(
        [-(2.0**52) * (1 - randint(0, 3, (N,), seed=1) / 4), 2.0**39 * randint(-9, 10, (N,), seed=2)], 1
    )
    return users, items, torch.full((N,), torch.finfo(torch.float32).min)


def test_k_near_n():
    users, items = randn(5, 6, seed=1), randn(300, 6, seed=2)
    for k in (299, 300, 301, 1000):
        check(users, items, k)


def test_batches_and_threads_leave_the_bits():
    users, items = randn(130, 20, seed=1), randn(40_000, 20, seed=2)
    mask = torch.rand(130, 40_000, generator=generator(3)) < 0.02
    whole = inner_product_topk(users, items, 40, csr(mask))
    threads = torch.get_num_threads()
    try:
        for count, size in ((1, 130), (2, 7), (5, 64), (3, 1)):
            torch.set_num_threads(count)
            batches = zip(users.split(size), mask.split(size), strict=True)
            parts = [inner_product_topk(rows, items, 40, csr(listed)) for rows, listed in batches]
            assert all(
                torch.equal(torch.cat(p), w) for p, w in zip(zip(*parts, strict=True), whole, strict=True)
            )
    finally:
        torch.set_num_threads(threads)


def test_flushing_of_subnormals_by_the_caller_changes_nothing():
    users, items = torch.ones(3, 4), randn(500, 4, seed=1, scale=1e-42)
    expected = inner_product_topk(users, items, 20)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        found = inner_product_topk(users, items, 20)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.scores.view(torch.int32), expected.scores.view(torch.int32))


def test_no_gradient_and_no_forward_mode_derivative():
    users, items = randn(2, 3).requires_grad_(), randn(5, 3)
    found = inner_product_topk(users, items, 2)
    with pytest.raises(RuntimeError, match="inner_product_topk: expected no gradient"):
        found.scores.sum().backward()
    with torch.no_grad():
        plain = inner_product_topk(users, items, 2)
    assert not plain.scores.requires_grad
    assert torch.equal(plain.indices, found.indices)
    assert torch.equal(plain.scores, found.scores)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(randn(2, 3), randn(2, 3))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            inner_product_topk(dual, items, 2)
