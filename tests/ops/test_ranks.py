"""masked_rank and inner_product_rank: values by eye, the lists of their top-K ops, ties, and tables that decide late."""

from __future__ import annotations

import pytest
import torch

from rankdistill import inner_product_rank, inner_product_topk, masked_rank, masked_topk, prepare_items
from tests.case import DTYPES, generator, randint, randn
from tests.ops.test_inner_product_topk import half_a_rounding
from tests.score_cases import inner_product_rank_oracle, lists_of, ranks_of

NAN, INF = float("nan"), float("inf")


def check(users, items, item_ids, exclude=None, item_bias=None):
    wide = None if item_bias is None else item_bias.double()
    expected = inner_product_rank_oracle(
        users.double(), items.double(), item_ids, exclude, wide, storage=users.dtype
    )
    found = inner_product_rank(users, items, item_ids, exclude, item_bias)
    assert torch.equal(found, expected), (found != expected).nonzero()[:5]


def test_values_by_eye():
    scores = torch.tensor([[0.5, 2.0, 2.0, NAN, 1.0], [-0.0, 0.0, INF, -INF, -0.0]])
    item_ids = torch.tensor([[2, 0, 3, -1, 1], [0, 1, 2, 3, 4]])
    assert masked_rank(scores, item_ids).tolist() == [[1, 3, -1, -1, 0], [1, 2, 0, -1, 3]]
    exclude = torch.tensor([0, 1, 2]), torch.tensor([1, 0])
    assert masked_rank(scores, item_ids, exclude).tolist() == [[0, 2, -1, -1, -1], [-1, 1, 0, -1, 2]]
    users, items = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert inner_product_rank(users, items, torch.tensor([[0, 1, 2, 3, 0]])).tolist() == [[2, 1, 0, 3, 2]]
    bias = torch.tensor([5.0, 0.0, 0.0, -INF])
    assert inner_product_rank(users, items, torch.tensor([[0, 2, 3]]), None, bias).tolist() == [[0, 1, -1]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_ranks_are_the_positions_of_topk(dtype):
    users, items = randn(40, 9, seed=1, dtype=dtype).round(), randn(700, 9, seed=2, dtype=dtype).round()
    mask = torch.rand(40, 700, generator=generator(3)) < 0.2
    mask[3] = True
    exclude = lists_of(mask)
    top = inner_product_topk(users, items, 500, exclude)
    positions = torch.arange(500).expand(40, -1).where(top.indices >= 0, torch.tensor(-1))
    assert torch.equal(inner_product_rank(users, items, top.indices, exclude), positions)
    scores = (users.double() @ items.double().T).to(dtype)
    top = masked_topk(scores, 500, exclude)
    assert torch.equal(masked_rank(scores, top.indices, exclude), positions)
    assert torch.equal(masked_rank(scores, top.indices, mask), positions)


# From tables of subnormal numbers to scores that overflow fp32.
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
    while rows < 2500:
        B, N, D, K = pick(1, 300), pick(1, 700), pick(1, 40), pick(0, 8) if pick(0, 3) else pick(90, 130)
        users, items = (randn(n, D, seed=pick(0, 10**6), dtype=dtype, scale=scale()) for n in (B, N))
        if pick(0, 2):
            items = items[torch.randint(0, N, (N,), generator=shapes)]  # repeated vectors: ties
        if pick(0, 3) == 0:
            items[pick(0, N)] *= 100.0 if dtype == torch.float16 else 1e10  # one giant
        if pick(0, 6) == 0:
            items[pick(0, N), pick(0, D)] = (NAN, INF)[pick(0, 2)]
        item_ids = torch.randint(-1, N, (B, K), generator=shapes)
        share = torch.tensor([0.0, 0.1, 0.9, 1.0])[torch.randint(0, 4, (B, 1), generator=shapes)]
        mask = torch.rand(B, N, generator=shapes) < share
        bias = randn(N, seed=pick(0, 10**6), dtype=dtype, scale=scale()) if pick(0, 3) == 0 else None
        check(users, items, item_ids, lists_of(mask, pick(1, 3)) if pick(0, 2) else None, bias)
        rows += B


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [1, 40, 256, 257, 900])
def test_given_scores_against_the_oracle(dtype, K):
    """Few items are counted, many are placed by search."""
    scores = randn(60, 5000, seed=1, dtype=dtype).round(decimals=1 if dtype != torch.bfloat16 else 0)
    scores[:, ::17] = torch.tensor([NAN, INF, -INF, 0.0, -0.0]).to(dtype)[randint(0, 5, (60, 295), seed=2)]
    item_ids = randint(-1, 5000, (60, K), seed=3)
    mask = torch.rand(60, 5000, generator=generator(4)) < torch.tensor([0.0, 0.5, 0.99])[:, None].repeat(
        20, 1
    )
    for exclude in (None, mask, lists_of(mask), lists_of(mask, 2)):
        expected = ranks_of(scores.double(), item_ids, exclude)
        assert torch.equal(masked_rank(scores, item_ids, exclude), expected)
        assert torch.equal(masked_rank(scores.t().contiguous().t(), item_ids, exclude), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [3, 120])
@pytest.mark.parametrize("scale", [1.0, 1e17])
def test_items_that_their_biases_withdraw(dtype, K, scale):
    scale = min(scale, 10.0) if dtype == torch.float16 else scale
    users, items = (randn(n, 8, seed=n, dtype=dtype, scale=scale) for n in (40, 3000))
    items[::70, 3], items[::500, 4] = NAN, INF
    item_ids = randint(-1, 3000, (40, K), seed=3)
    for share in (0.2, 1.0):
        bias = randn(3000, seed=4, dtype=dtype)
        for i, value in enumerate((-INF, NAN, torch.finfo(dtype).min, -1e30, -1e9)):
            bias[torch.randperm(3000, generator=generator(i))[: int(600 * share)]] = value
        check(users, items, item_ids, lists_of(torch.rand(40, 3000, generator=generator(5)) < 0.05), bias)


@pytest.mark.parametrize("K", [3, 120])
def test_scores_that_are_the_lowest_number_or_just_not(K):
    users, items, bias = half_a_rounding(900)
    check(users, items, randint(-1, 900, (3, K), seed=3), None, bias)


def tables(N, D):
    """(name, items): what leaves much, or all, to exact scores."""
    base = randn(N, D, seed=1)
    yield "equal items", base[:1].expand(N, -1)
    yield "nearly equal items", base[:1] + 1e-8 * base
    yield "scores within a rounding", torch.cat([torch.ones(N, 1), 1e-7 * base[:, 1:]], 1)
    yield "zeros", torch.zeros(N, D)
    yield "giant norms", base * 1e25
    yield "mixed norms", base * 10.0 ** randint(-30, 30, (N, 1), seed=2)
    yield "subnormal numbers", base * 1e-42
    yield "few distinct", base.round()


@pytest.mark.parametrize(("name", "items"), [pytest.param(n, t, id=n) for n, t in tables(3000, 24)])
@pytest.mark.parametrize("K", [2, 120])
def test_tables_that_bounds_cannot_decide(name, items, K):
    users = torch.cat([randn(40, 24, seed=5), torch.ones(2, 24), -torch.ones(1, 24), torch.zeros(1, 24)])
    item_ids = randint(-1, len(items), (len(users), K), seed=6)
    check(users, items, item_ids)
    check(users, items, item_ids, item_bias=randn(len(items), seed=7, scale=1e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_at_the_end_of_the_range(dtype):
    users, items = randn(9, 5, seed=1, dtype=dtype), randn(500, 5, seed=2, dtype=dtype)
    largest = torch.finfo(torch.float32).max
    bias = torch.tensor([largest, -largest, INF, -INF, NAN, 1e36, 0.0])[randint(0, 7, (500,), seed=3)].to(
        dtype
    )
    check(users * 1e10, items * 1e10, randint(0, 500, (9, 30), seed=4), item_bias=bias)


def test_users_of_very_different_lists():
    users, items = randn(100, 16, seed=1), randn(2000, 16, seed=2)
    item_ids = randint(0, 2000, (100, 150), seed=3)
    item_ids[torch.arange(150) >= randint(0, 12, (100, 1), seed=4) ** 2] = -1
    item_ids = item_ids[:, torch.randperm(150, generator=generator(5))]  # -1 anywhere
    assert (item_ids < 0).all(1).any()
    check(users, items, item_ids)


def test_batches_and_threads_leave_the_ranks():
    users, items = randn(130, 20, seed=1), randn(40_000, 20, seed=2)
    item_ids = randint(-1, 40_000, (130, 7), seed=3)
    mask = torch.rand(130, 40_000, generator=generator(4)) < 0.01
    scores = users @ items.T
    whole = inner_product_rank(users, items, item_ids, lists_of(mask))
    given = masked_rank(scores, item_ids, mask)
    threads = torch.get_num_threads()
    try:
        for count, size in ((1, 130), (2, 7), (9, 64), (5, 1)):
            torch.set_num_threads(count)
            batches = list(zip(*(t.split(size) for t in (users, item_ids, mask, scores)), strict=True))
            parts = [inner_product_rank(u, items, i, lists_of(m)) for u, i, m, _ in batches]
            assert torch.equal(torch.cat(parts), whole)
            assert torch.equal(torch.cat([masked_rank(s, i, m) for _, i, m, s in batches]), given)
    finally:
        torch.set_num_threads(threads)


def test_prepared_items_rank_as_their_table():
    users, items, bias = randn(9, 8, seed=1), randn(50, 8, seed=2), randn(50, seed=3)
    item_ids = randint(-1, 50, (9, 4), seed=4)
    expected = inner_product_rank(users, items, item_ids, item_bias=bias)
    prepared = prepare_items(items, bias)
    assert torch.equal(inner_product_rank(users, prepared, item_ids), expected)
    with pytest.raises(ValueError, match="no item_bias beside prepared items"):
        inner_product_rank(users, prepared, item_ids, item_bias=bias)


def test_flushing_of_subnormals_by_the_caller_changes_nothing():
    users, items = torch.ones(3, 4), randn(500, 4, seed=1, scale=1e-42)
    item_ids = randint(0, 500, (3, 20), seed=2)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        found = inner_product_rank(users, items, item_ids)
        given = masked_rank(items[:, 0].expand(3, -1), item_ids)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(found, inner_product_rank(users, items, item_ids))
    assert torch.equal(given, masked_rank(items[:, 0].expand(3, -1), item_ids))
