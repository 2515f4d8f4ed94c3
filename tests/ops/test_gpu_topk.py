"""Exact top-K on a CUDA device, both kernels of the filter: the oracle's lists bit for bit, and the bounds they rest on."""

from __future__ import annotations

import pytest
import torch

from rankdistill import inner_product_topk, prepare_items
from rankdistill.ops import cuda, device_topk
from rankdistill.ops.device_topk import FilterPlan, StreamPlan
from rankdistill.ops.registration import CHOICES
from tests.case import DTYPES, randn
from tests.ops.topk_tables import (
    attacks,
    awkward_users,
    check_inner_products,
    check_masked,
    csr,
    rows_of_scores,
    some_excluded,
    topk_scores,
    worst_bounds,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(cuda._cuda is None, reason=cuda.MISSING.reason),
]
DEVICE = torch.device("cuda")


@pytest.fixture(params=["mma", "wgmma"])
def hopper(request):
    if request.param == "wgmma" and not device_topk.uses_hopper(DEVICE):
        pytest.skip("no code for sm_90a, or no device of capability 9.0")
    return request.param == "wgmma"


@pytest.fixture
def redone(monkeypatch):
    """The numbers of rows that the filter left over."""
    counts, exactly = [], device_topk.score_exactly

    def counted(users, items, k, indptr, indices, item_bias, rows, top):
        counts.append(len(users) if rows is None else len(rows))
        exactly(users, items, k, indptr, indices, item_bias, rows, top)

    monkeypatch.setattr(device_topk, "score_exactly", counted)
    return counts


def test_native_code_serves():
    assert CHOICES["inner_product_topk", "CUDA"].backend == "native"


@pytest.mark.parametrize("D", [1, 16, 20, 48, 64, 80, 128, 200, 300, 900])
def test_widths(hopper, redone, D):
    items = randn(12_000, D, seed=2)
    for B in (70, 300):
        users, exclude = randn(B, D, seed=1), some_excluded(B, 12_000, 0.005)
        check_inner_products(users, items, 50, exclude, device=DEVICE, hopper=hopper)
    assert sum(redone) <= 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_biases_and_exclusions(hopper, redone, dtype):
    users, items = randn(300, 64, seed=1, dtype=dtype), randn(30_000, 64, seed=2, dtype=dtype)
    bias = randn(30_000, seed=3, dtype=dtype)
    for k in (1, 100, 1000):
        check_inner_products(
            users, items, k, some_excluded(300, 30_000, 0.01), bias, device=DEVICE, hopper=hopper
        )
    assert sum(redone) <= 3


@pytest.mark.parametrize(
    ("name", "items", "settled"), [pytest.param(*a, id=a[0]) for a in attacks(20_000, 24)]
)
def test_tables_built_to_break_a_filter(hopper, redone, name, items, settled):
    users = awkward_users(24)
    for k in (1, 50, 700):
        check_inner_products(users, items, k, some_excluded(16, 20_000, 0.1), device=DEVICE, hopper=hopper)
    assert not settled or redone[0] <= 6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [16, 70, 1000, 4000])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
def test_bounds_hold(hopper, dtype, D, scale):
    """What the margin supposes of the matrix units' sums (DESIGN.md TK-6) is true of this device."""
    scale = min(scale, 10.0) if dtype == torch.float16 else scale
    users = randn(130, D, seed=1, scale=scale)
    spread = torch.exp(8 * randn(300, D, seed=2)) if dtype != torch.float16 else torch.ones(300, D)
    for items in (randn(300, D, seed=3, scale=scale), randn(300, D, seed=3, scale=scale).abs() * spread):
        for rows in (users, users.abs(), users[:, :1].expand(-1, D)):
            rows, table = rows.contiguous().to(DEVICE, dtype), items.to(DEVICE, dtype)
            above, below = worst_bounds(rows, table, None, hopper)
            assert above >= 0
            assert below >= 0


@pytest.mark.parametrize("capacity", [10, 60])
def test_a_buffer_too_short_is_noticed(hopper, redone, capacity):
    users, items = randn(300, 16, seed=1), randn(30_000, 16, seed=2)
    plan = FilterPlan(32, 1, 12, capacity)
    check_inner_products(users, items, 20, device=DEVICE, plan=plan, hopper=hopper)
    assert redone == [300]


def test_a_large_catalogue(hopper, redone):
    """Long runs of tiles, every stage of the ring many times over; compared on a few rows."""
    users, items = randn(2000, 64, seed=1).to(DEVICE), randn(500_000, 64, seed=2).to(DEVICE)
    scores, ids, lengths = device_topk.inner_product_topk(users, items, 100, None, None, None, hopper=hopper)
    rows = torch.arange(0, 2000, 97)
    best = topk_scores(users[rows], items, None).float().sort(dim=1, descending=True, stable=True)
    assert torch.equal(ids[rows], best.indices[:, :100])
    assert torch.equal(scores[rows], best.values[:, :100])
    assert (lengths == 100).all()
    assert sum(redone) <= 3


def test_the_same_bits_from_both_kernels_prepared_and_on_another_stream():
    users, items = randn(500, 64, seed=1).to(DEVICE), randn(50_000, 64, seed=2).to(DEVICE)
    first = inner_product_topk(users, items, 100)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        second = inner_product_topk(users, prepare_items(items), 100)
    torch.cuda.synchronize()
    kinds = {False, device_topk.uses_hopper(DEVICE)}
    others = [
        device_topk.inner_product_topk(users, items, 100, None, None, None, hopper=kind) for kind in kinds
    ]
    for other in (second, *others):
        assert all(map(torch.equal, first, other))


def test_long_lists():
    users, items = randn(3, 8, seed=1), randn(70_000, 8, seed=2).round()
    for k in (4096, 4097, 20_000, 71_000):
        check_inner_products(users, items, k, device=DEVICE)


def test_malformed_exclusions_spoil_their_row_alone():
    for N in (90, 30_000):
        users, items = randn(3, 8, seed=1).to(DEVICE), randn(N, 8, seed=2).to(DEVICE)
        exclude = torch.tensor([0, 1, 2, 2**40]).to(DEVICE), torch.tensor([3, N, 1, 5]).to(DEVICE)
        scores, ids, lengths = inner_product_topk(users, items, 7, exclude)
        assert scores[1:].isnan().all()
        assert (ids[1:] == -1).all()
        assert lengths.tolist() == [7, 0, 0]
        assert 3 not in ids[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 100, 1000, 5000])
def test_given_scores(dtype, k):
    scores = rows_of_scores(30_001, dtype)
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    check_masked(scores, k, device=DEVICE)
    check_masked(scores, k, mask=mask, device=DEVICE)
    check_masked(scores, k, csr(mask), device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_lists_of_given_scores(dtype):
    """Rows of several blocks; ties by the hundred in 16-bit scores."""
    scores = torch.cat([rows_of_scores(200_000, dtype), randn(40, 200_000, seed=7, dtype=dtype)])
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.01
    for k in (100, 1000):
        check_masked(scores, k, device=DEVICE)
        check_masked(scores, k, csr(mask), device=DEVICE)


@pytest.mark.parametrize(
    "plan", [StreamPlan(8, 32, 1, 4000), StreamPlan(8, 32, 8, 20), StreamPlan(8, 32, 8, 4000)]
)
def test_what_a_poor_plan_leaves_is_selected_from_whole_rows(plan):
    scores = rows_of_scores(2500, torch.float32)
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) < 0.2
    check_masked(scores, 30, mask=mask, device=DEVICE, plan=plan)


def test_smallest_call_of_each_path(hopper):
    users, items = randn(130, 20, seed=1), randn(700, 20, seed=2)
    exclude = some_excluded(130, 700, 0.01)
    check_inner_products(
        users,
        items,
        5,
        exclude,
        randn(700, seed=3),
        device=DEVICE,
        plan=FilterPlan(8, 1, 10, 300),
        hopper=hopper,
    )
    check_inner_products(users, items, 5, plan=FilterPlan(8, 1, 10, 20), device=DEVICE, hopper=hopper)
    check_masked(rows_of_scores(2500, torch.float32), 30, device=DEVICE, plan=StreamPlan(8, 32, 8, 4000))
