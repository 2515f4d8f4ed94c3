"""inner_product_topk: values by eye, what cannot be ranked, and tables built to break a filter."""

from __future__ import annotations

import math

import pytest
import torch

from rankdistill import inner_product_topk
from tests.cases import generator, randn, topk_oracle, widened

NAN, INF = float("nan"), float("inf")


def check(users, items, k, exclude=None):
    found = inner_product_topk(users, items, k, exclude)
    expected = topk_oracle(widened(users), widened(items), k, exclude, storage=users.dtype)
    assert torch.equal(found.indices, expected[1])
    assert torch.equal(found.lengths, expected[2])
    assert torch.equal(found.scores, expected[0].to(found.scores.dtype))


def test_values_by_eye():
    users = torch.tensor([[1.0, 2.0], [-1.0, 0.0]])
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    exclude = torch.tensor([0, 1, 1]), torch.tensor([2])
    found = inner_product_topk(users, items, 3, exclude)
    assert found.indices.tolist() == [[1, 3, 0], [1, 3, 0]]
    assert found.scores.tolist() == [[2.0, 2.0, 1.0], [0.0, 0.0, -1.0]]
    assert found.lengths.tolist() == [3, 3]


def test_what_cannot_be_ranked():
    items = torch.tensor([[NAN], [1.0], [-INF], [INF], [-0.0], [0.0], [-NAN], [2.0]])
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        found = inner_product_topk(torch.ones(1, 1, dtype=dtype), items.to(dtype), 8)
        assert found.indices.tolist() == [[3, 7, 1, 4, 5, -1, -1, -1]]
        assert found.lengths.tolist() == [5]
        assert found.scores[0, :3].tolist() == [INF, 2.0, 1.0]
        assert (found.scores[0, 5:] == -INF).all()
    everything = torch.tensor([0, 8]), torch.arange(8)
    assert inner_product_topk(torch.ones(1, 1), items, 2, everything).indices.tolist() == [[-1, -1]]


@pytest.mark.parametrize("seed", range(6))
def test_thousands_of_random_rows(seed):
    shapes = generator(seed)
    for _ in range(40):
        pick = lambda low, high: int(torch.randint(low, high, (1,), generator=shapes))
        B, N, D, k = pick(1, 300), pick(1, 700), pick(1, 40), pick(1, 60)
        dtype = (torch.float32, torch.float16, torch.bfloat16)[pick(0, 3)]
        scale = (1e-30, 1e-3, 1.0, 1e3)[pick(0, 4)] if dtype == torch.float32 else 1.0
        users, items = (randn(n, D, seed=pick(0, 10**6), dtype=dtype, scale=scale) for n in (B, N))
        if pick(0, 2):
            items = items[torch.randint(0, N, (N,), generator=shapes)]  # repeated vectors: ties
        mask = torch.rand(B, N, generator=shapes) < 0.1
        exclude = torch.cat([torch.zeros(1).long(), mask.sum(1).cumsum(0)]), mask.nonzero()[:, 1]
        check(users, items, k, exclude if pick(0, 2) else None)


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


def test_k_near_n():
    users, items = randn(5, 6, seed=1), randn(300, 6, seed=2)
    for k in (299, 300, 301, 1000):
        check(users, items, k)


def test_batches_and_threads_leave_the_bits():
    users, items = randn(130, 20, seed=1), randn(9000, 20, seed=2)
    whole = inner_product_topk(users, items, 40)
    threads = torch.get_num_threads()
    try:
        for count, size in ((1, 130), (2, 7), (5, 64), (3, 1)):
            torch.set_num_threads(count)
            parts = [inner_product_topk(rows, items, 40) for rows in users.split(size)]
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
        assert not inner_product_topk(users, items, 2).scores.requires_grad
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(randn(2, 3), randn(2, 3))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            inner_product_topk(dual, items, 2)
