"""The CUDA kernels of exact top-K and of the samplers, executed by the processor in place of a device.

What is emulated and what the hardware documents is in cuda_emulation/; what only a device can tell is in
tests/ops/test_gpu.py.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from rankdistill import (
    complement_sample,
    dropout_mask,
    gumbel_noise,
    pair_sample,
    position_sample,
    weighted_sample,
)
from rankdistill.ops import device_topk
from rankdistill.ops.device_topk import FilterPlan, StreamPlan
from tests.case import DTYPES, randint, randn
from tests.cases import CASES
from tests.native.emulated_cuda import Emulated, build
from tests.ops.topk_tables import (
    INF,
    NAN,
    attacks,
    awkward_users,
    check_inner_products,
    check_masked,
    csr,
    rows_of_scores,
    some_excluded,
    worst_bounds,
)

PLAN = FilterPlan(stride=16, group=1, rank=12, capacity=400)
KERNELS = pytest.mark.parametrize("hopper", [pytest.param(False, id="mma"), pytest.param(True, id="wgmma")])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("emulated"))


@pytest.fixture
def emulated(built, monkeypatch):
    return Emulated(*built, monkeypatch)


def test_a_missing_barrier_shows(emulated):
    out = (ctypes.c_int * 64)()
    wanted = list(range(63, -1, -1))
    for synchronised in (1, 0, 1, 0):
        assert emulated.library.probe_reversed(out, synchronised) == 0
        assert (list(out) == wanted) == bool(synchronised)


@pytest.mark.parametrize("fault", ["stuck", "unwaited", "overrun"])
def test_a_fault_is_an_error(emulated, fault):
    assert getattr(emulated.library, f"probe_{fault}")() != 0


@pytest.mark.parametrize(("row_bytes", "mode"), [(128, 1), (64, 2), (32, 3)])
def test_descriptor_has_the_documented_bits(emulated, row_bytes, mode):
    emulated.library.probe_descriptor.restype = ctypes.c_uint64
    descriptor = emulated.library.probe_descriptor(512, row_bytes)
    assert descriptor & 0x3FFF == 512 >> 4
    assert descriptor >> 16 & 0x3FFF == 1
    assert descriptor >> 32 & 0x3FFF == 8 * row_bytes >> 4
    assert descriptor >> 49 & 7 == 0
    assert descriptor >> 62 == mode


def test_swizzle_by_eye(emulated):
    """Where the 16-byte units of eight rows land, per row."""
    place = lambda row, unit, width: (
        emulated.library.probe_swizzled(row * width + 16 * unit, width) % width // 16
    )
    assert [[place(row, unit, 128) for unit in range(8)] for row in (0, 1, 5)] == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 0, 3, 2, 5, 4, 7, 6],
        [5, 4, 7, 6, 1, 0, 3, 2],
    ]
    assert [[place(row, unit, 64) for unit in range(4)] for row in range(0, 8, 2)] == [
        [0, 1, 2, 3],
        [1, 0, 3, 2],
        [2, 3, 0, 1],
        [3, 2, 1, 0],
    ]
    assert [[place(row, unit, 32) for unit in range(2)] for row in (0, 3, 4, 7)] == [
        [0, 1],
        [0, 1],
        [1, 0],
        [1, 0],
    ]


def keys_of_every_kind(size: int, bits: int):
    """(name, keys above 0)."""
    draws = torch.Generator().manual_seed(size)
    pick = lambda low, high: torch.randint(low, high, (size,), generator=draws)
    yield "spread", pick(1, 2 ** min(bits, 63) - 1)
    yield "close", 2 ** (bits - 2) + pick(0, 5000)
    yield "ties", 2 ** (bits - 2) + pick(0, 5) * 2**20
    yield "all equal", torch.full((size,), 77)
    yield "ascending", torch.arange(size) + 2 ** (bits - 2)
    yield "descending", 2 ** (bits - 2) - torch.arange(size)
    yield "one giant", torch.where(torch.arange(size) == size // 2, 2 ** (bits - 1) - 1, pick(1, 3000))
    yield "two exponents", 0x40000000 + pick(-40, 40) * 0x1000


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("size", [1, 2, 31, 127, 128, 129, 300, 511, 513, 1000, 1300])
def test_the_best_come_out_in_order(emulated, bits, size):
    """Every size of sort, several rounds of a longer list, and lists longer than what there is."""
    kind = np.uint32 if bits == 32 else np.uint64
    select = emulated.library.probe_best32 if bits == 32 else emulated.library.probe_best64
    select.restype = ctypes.c_int64
    at = lambda array: array.ctypes.data_as(ctypes.c_void_p)
    for name, keys in keys_of_every_kind(size, bits):
        keys, ids = keys.numpy().astype(kind), torch.randperm(3 * size).numpy()[:size].astype(np.uint32)
        order = np.lexsort((ids, ~keys))
        for k, capacity, threads in (
            (1, 128, 256),
            (size // 3 + 1, 128, 128),
            (size, 512, 256),
            (size + 9, 2048, 256),
        ):
            best_keys, best_ids = np.zeros(k, kind), np.zeros(k, np.uint32)
            arguments = ctypes.c_int64(size), ctypes.c_int64(k), capacity, threads
            found = select(at(keys), at(ids), *arguments, at(best_keys), at(best_ids))
            assert found == min(k, size), name
            assert (best_keys[:found] == keys[order[:k]]).all(), name
            assert (best_ids[:found] == ids[order[:k]]).all(), name


@pytest.mark.parametrize("size", [1, 50, 700, 3000])
def test_thresholds_let_few_more_through(emulated, size):
    emulated.library.probe_kth.restype = ctypes.c_uint32
    for name, keys in keys_of_every_kind(size, 32):
        keys[::5] = 0  # do not count
        keys = keys.numpy().astype(np.uint32)
        for wanted in (1, 14, 57, 600):
            pointer = keys.ctypes.data_as(ctypes.c_void_p)
            key = emulated.library.probe_kth(pointer, ctypes.c_int64(size), wanted, 256)
            if (keys > 0).sum() < wanted:
                assert key == 0, name
                continue
            exact = np.sort(keys)[-wanted]
            assert max(keys[keys > 0].min(), 1) <= key <= exact, name
            assert (keys >= key).sum() <= max(wanted + wanted // 8, (keys >= exact).sum()), name


@KERNELS
@pytest.mark.parametrize("D", [1, 16, 20, 33, 48, 64, 80, 200])
def test_widths(emulated, hopper, D):
    """Every form of an image's rows; 260 users are two tall tiles, 70 one low one."""
    items = randn(700, D, seed=2)
    for B in (70, 260):
        users = randn(B, D, seed=1)
        check_inner_products(
            users, items, 5, some_excluded(B, 700, 0.01), plan=FilterPlan(8, 1, 10, 300), hopper=hopper
        )
    assert emulated.rows_redone() <= 4


@KERNELS
@pytest.mark.parametrize("D", [300, 900])
def test_wide_tables_stream_their_users(emulated, hopper, D):
    users, items = randn(140, D, seed=1), randn(600, D, seed=2)
    check_inner_products(users, items, 5, plan=FilterPlan(8, 1, 9, 300), hopper=hopper)
    assert emulated.rows_redone() == 0


@pytest.mark.parametrize("D", [64, 128, 200, 500])
def test_devices_with_less_shared_memory(emulated, request, D):
    request.addfinalizer(lambda: emulated.library.probe_limit_shared(227))
    emulated.library.probe_limit_shared(99)
    users, items = randn(140, D, seed=1), randn(600, D, seed=2)
    check_inner_products(users, items, 5, plan=FilterPlan(8, 1, 9, 300), hopper=False)
    assert emulated.rows_redone() == 0
    check_inner_products(users[:2].double(), items.double(), 4000)


@KERNELS
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_biases_and_exclusions(emulated, hopper, dtype):
    users, items = randn(40, 24, seed=1, dtype=dtype), randn(9000, 24, seed=2, dtype=dtype)
    bias = randn(9000, seed=3, dtype=dtype)
    check_inner_products(users, items, 20, some_excluded(40, 9000, 0.01), bias, hopper=hopper)
    check_inner_products(users[:3], items, 1, None, bias * 1e3, hopper=hopper)
    prepared = device_topk.prepared_buffer(items, bias)
    check_inner_products(users[:3], items, 7, None, bias, hopper=hopper, prepared=prepared)
    assert emulated.rows_redone() == 0, "expected the filter to settle every row"


def test_every_case_of_the_op(emulated):
    case = CASES["inner_product_topk"]
    for dtype in DTYPES:
        for sample in case.samples(dtype):
            users, items, k, exclude = sample.args
            check_inner_products(users, items, k, exclude, sample.kwargs.get("item_bias"))


@KERNELS
@pytest.mark.parametrize(("name", "items", "settled"), [pytest.param(*a, id=a[0]) for a in attacks(9000, 24)])
def test_tables_built_to_break_a_filter(emulated, hopper, name, items, settled):
    users = awkward_users(24)
    for k in (1, 50):
        check_inner_products(users, items, k, some_excluded(16, 9000, 0.1), hopper=hopper)
        assert emulated.rows_redone() <= (6 if settled else 16), "zeros, NaN, inf and a norm past the bound"


@KERNELS
def test_biases_that_cannot_be_bounded(emulated, hopper):
    users, items, bias = randn(20, 8, seed=1), randn(9000, 8, seed=2), randn(9000, seed=3)
    bias[[5, 50, 500, 5000]] = torch.tensor([NAN, INF, -INF, 3e38])
    check_inner_products(users, items, 30, None, bias, hopper=hopper)
    assert emulated.rows_redone() == 0


@KERNELS
@pytest.mark.parametrize("value", [-INF, NAN, torch.finfo(torch.float32).min, -1e37])
def test_half_the_items_withdrawn(emulated, hopper, value):
    users, items, bias = randn(20, 8, seed=1), randn(9000, 8, seed=2), randn(9000, seed=3)
    items[::91, 2], items[8::91, 3] = NAN, INF
    bias[::2] = value
    check_inner_products(users, items, 30, None, bias, hopper=hopper)
    assert emulated.rows_redone() == 0, "expected the filter to settle every row"
    check_inner_products(users[:2].double(), items.double(), 30, None, bias.double(), hopper=hopper)
    check_inner_products(users[:3], items, 5000, None, bias, hopper=hopper)
    emulated.rows_redone()


@KERNELS
@pytest.mark.parametrize("capacity", [1, 30, 60])
def test_a_buffer_too_short_is_noticed(emulated, hopper, capacity):
    users, items = randn(40, 16, seed=1), randn(2000, 16, seed=2)
    exclude = some_excluded(40, 2000, 0.05)
    check_inner_products(users, items, 20, exclude, plan=FilterPlan(16, 1, 12, capacity), hopper=hopper)
    assert emulated.rows_redone() == 40


@KERNELS
def test_a_threshold_too_high_is_noticed(emulated, hopper):
    users, items = randn(40, 16, seed=1), randn(2000, 16, seed=2)
    check_inner_products(users, items, 60, plan=FilterPlan(16, 1, 1, 500), hopper=hopper)
    assert emulated.rows_redone() > 10


@KERNELS
@pytest.mark.parametrize("group", [1, 16, 64])
def test_grouped_samples(emulated, hopper, group):
    users, items = randn(50, 16, seed=1), randn(40_000, 16, seed=2)
    plan = FilterPlan(8, group, 12, 1500)
    check_inner_products(users, items, 30, some_excluded(50, 40_000, 0.002), plan=plan, hopper=hopper)
    assert emulated.rows_redone() == 0


@KERNELS
def test_users_who_exclude_nearly_all(emulated, hopper):
    users, items = randn(12, 16, seed=1), randn(9000, 16, seed=2)
    mask = torch.zeros(12, 9000, dtype=torch.bool)
    mask[1] = True
    mask[2, 40:] = True
    mask[3] = (users @ items.T)[3] > -1  # the best part
    mask[4] = torch.arange(9000) % 3 > 0
    mask[5, :2000] = True
    check_inner_products(users, items, 40, csr(mask), hopper=hopper)
    assert emulated.rows_redone() <= 4, "expected exclusions by the thousand to leave the buffers alone"


@pytest.mark.parametrize("path", ["filter", "whole"])
def test_malformed_exclusions_spoil_their_row_alone(emulated, path):
    users, items = randn(6, 8, seed=1), randn(9000 if path == "filter" else 90, 8, seed=2)
    N = len(items)
    for row, (indptr, indices) in {
        1: ([0, 1, 3, 3, 3, 3, 4], [5, 7, N, 1]),
        2: ([0, 1, 1, 3, 3, 3, 4], [5, -1, 7, 1]),
        3: ([0, 1, 1, 1, 4, 4, 4], [5, 9, 3, 7]),
        5: ([0, 1, 1, 1, 1, 1, 2**40], [5, 9, 3, 7]),
    }.items():
        exclude = torch.tensor(indptr), torch.tensor(indices)
        scores, ids, lengths = device_topk.inner_product_topk(users, items, 7, *exclude, None)
        assert scores[row].isnan().all()
        assert (ids[row] == -1).all()
        assert lengths[row] == 0
        good = [r for r in range(6) if r != row]
        picked = csr(
            torch.stack([torch.isin(torch.arange(N), exclude[1][b:e]) for b, e in zip(*bounds(indptr))])[good]
        )
        alone = device_topk.inner_product_topk(users[good], items, 7, *picked, None)
        assert torch.equal(scores[good], alone[0])
        assert torch.equal(ids[good], alone[1])
    emulated.rows_redone()


def bounds(indptr):
    return indptr[:-1], [min(end, 10) for end in indptr[1:]]


@KERNELS
def test_rows_in_turns_and_items_in_pieces(emulated, monkeypatch, hopper):
    users, items = randn(520, 8, seed=1), randn(1200, 8, seed=2)
    exclude, bias = some_excluded(520, 1200, 0.02), randn(1200, seed=4)
    monkeypatch.setattr(device_topk, "WORKSPACE_BYTES", 1)
    check_inner_products(users, items, 10, exclude, bias, plan=PLAN, hopper=hopper)
    assert emulated.rows_redone() < 20
    monkeypatch.setattr(device_topk, "EXACT_SCORES", 64 * 500)
    for rows, k in ((150, 10), (20, 900)):
        indptr = exclude[0][: rows + 1]
        check_inner_products(users[:rows], items, k, (indptr, exclude[1][: indptr[-1]]), bias)


def test_long_lists(emulated):
    users, items = randn(3, 8, seed=1), randn(12_000, 8, seed=2).round()
    for k in (4096, 4097, 9000, 13_000):
        check_inner_products(users, items, k)
        check_inner_products(users, items, k, plan=FilterPlan(16, 1, 700, 12_000))


@KERNELS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4])
def test_bounds_hold_and_are_not_idle(emulated, hopper, dtype, scale):
    """TK-5, for every pair: bounds are on their side, and a bound half as wide would fail somewhere."""
    scale = min(scale, 100.0) if dtype == torch.float16 else scale
    users, items = (randn(n, 70, seed=n, dtype=dtype, scale=scale) for n in (130, 150))
    bias = randn(150, seed=5, dtype=dtype)
    above, below = worst_bounds(users, items, bias if scale == 1 else None, hopper)
    assert above >= 0
    assert below >= 0
    if dtype == torch.float32 and scale >= 1:
        aligned = users[:, :1].expand(-1, 70).contiguous()  # errors of one sign
        above, below = worst_bounds(aligned, aligned, None, hopper)
        assert 0 <= min(above, below) < 0.5


@pytest.mark.parametrize(("code", "capability", "runs"), [
    ("80-real", 80, True), ("80-real", 86, True), ("80-real", 75, False), ("80-real", 90, False), ("86-real", 80, False),
    ("90-virtual", 90, True), ("90-virtual", 120, True), ("90-virtual", 89, False), ("90", 100, True), ("90a-real", 100, False),
    ("native", 75, True),
])  # fmt: skip
def test_which_code_runs_where(emulated, code, capability, runs):
    assert emulated.module.runs_on(code, capability) == runs


def test_plans_fit_the_shared_memory_of_every_device():
    """A threshold's groups lie there, beside what the kernel has of its own."""
    sizes = [9000, 70_000, 385_000, 820_000, 10**6, 1_500_000, 2 * 10**6, 10**7, 10**8, 2**32 - 2]
    plans = [
        (N, k, device_topk.filter_plan(N, 64, k))
        for N in sizes
        for k in (1, 10, 100, 1000, 2000, 4096, 5000, 9500, 13_000, 72_000, 170_000)
    ]
    for N, k, plan in plans:
        if plan is not None:
            groups = device_topk.up_to(N // plan.stride, device_topk.TILE) // plan.group
            assert 4 * groups + 1168 <= 99 * 1024, (N, k, plan)
            assert k * (N // plan.stride) / N < plan.rank <= groups / 2
    filtered = {(N, k) for N, k, plan in plans if plan is not None}
    assert {(385_000, 2000), (10**6, 5000), (2 * 10**6, 13_000), (10**7, 72_000)} <= filtered


def test_a_sample_that_nearly_fills_what_a_block_has_unasked(emulated, request):
    """48,640 bytes of groups: with the kernel's own shared memory more than 48 KiB."""
    request.addfinalizer(lambda: emulated.library.probe_own_shared(0))
    emulated.library.probe_own_shared(1168)
    check_inner_products(randn(3, 4, seed=1), randn(24_200, 4, seed=2), 20, plan=FilterPlan(2, 1, 60, 600))


@pytest.mark.parametrize(("N", "D", "k", "wgmma"), [
    (1_000_000, 32, 100, False),
    (1_000_000, 64, 100, True),
    (100_000, 64, 100, False),
    (1_000_000, 128, 100, True),
    (2_000_000, 128, 1000, True),
])  # fmt: skip
def test_the_faster_filter_is_the_one_measured_to_be(N, D, k, wgmma):
    assert device_topk.prefers_hopper(N, D, device_topk.filter_plan(N, D, k)) == wgmma


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 40, 300, 5000])
def test_given_scores(emulated, dtype, k):
    scores = rows_of_scores(9001, dtype)
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    check_masked(scores, k)
    check_masked(scores, k, mask=mask)
    check_masked(scores, k, csr(mask))
    emulated.rows_redone()


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_lists_of_given_scores(emulated, dtype):
    """Rows of several blocks, logs that run over, more kept than is sorted at a time."""
    scores = rows_of_scores(80_000, dtype)
    assert device_topk.stream_plan(80_000, 1000, scores.element_size()) is not None
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    check_masked(scores, 1000)
    check_masked(scores, 1000, csr(mask), mask=mask.flip(1))
    emulated.rows_redone()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N", [1, 31, 700, 9000, 40_001])
def test_rows_of_any_length_and_stride(emulated, dtype, N):
    whole = randn(5, N + 3, seed=1, dtype=dtype)
    for scores in (
        whole[:, :N],
        whole[:, 1 : N + 1],
        whole[::2, :N],
        whole[:1, :N].expand(4, N),
        whole[:, :N].T.contiguous().T,
    ):
        check_masked(scores, 20, mask=torch.rand(scores.shape) < 0.5)
    emulated.rows_redone()


@pytest.mark.parametrize("plan", [
    pytest.param(StreamPlan(8, 32, 1, 4000), id="threshold too high"),
    pytest.param(StreamPlan(8, 32, 8, 20), id="buffers too short"),
    pytest.param(StreamPlan(8, 32, 8, 4000), id="threshold too low"),
])  # fmt: skip
def test_what_a_poor_plan_leaves_is_selected_from_whole_rows(emulated, plan):
    scores = rows_of_scores(2500, torch.float32)
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) < 0.2
    check_masked(scores, 30, mask=mask, plan=plan)
    check_masked(scores, 30, csr(mask), plan=plan)
    emulated.rows_redone()


@pytest.mark.parametrize("N", [5000, 65_536, 70_000])
def test_equal_scores_go_by_id(emulated, N):
    """A level of more equal scores than are wanted, and than any buffer holds: alone, and below a few better ones."""
    scores = torch.zeros(3, N)
    scores[1, torch.randperm(N, generator=torch.Generator().manual_seed(1))[:40]] = 1
    scores[2] = randint(0, 3, (N,), seed=2).float()
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(3)) < 0.3
    for k in (60, 700):
        check_masked(scores, k)
        check_masked(scores, k, csr(mask))
    emulated.rows_redone()


def test_masks_that_leave_nearly_nothing(emulated):
    scores = randn(6, 20_000, seed=1)
    mask = torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) < 0.999
    mask[0] = True
    check_masked(scores, 50, mask=mask)
    check_masked(scores, 50, csr(mask))
    emulated.rows_redone()


def test_given_scores_malformed_exclusions_spoil_their_row_alone(emulated):
    for N in (50, 9000):
        scores = randn(3, N, seed=1)
        best, ids, lengths = device_topk.masked_topk(
            scores, 4, torch.tensor([0, 1, 2, 9]), torch.tensor([3, N]), None
        )
        assert best[1:].isnan().all()
        assert (ids[1:] == -1).all()
        assert lengths.tolist() == [4, 0, 0]
        check_masked(scores[:1], 4, (torch.tensor([0, 1]), torch.tensor([3])))
        assert 3 not in ids[0]
    emulated.rows_redone()


def test_rows_of_given_scores_in_turns(emulated, monkeypatch):
    monkeypatch.setattr(device_topk, "WORKSPACE_BYTES", 8 * 3000 * 3)
    scores = randn(10, 9000, seed=1)
    check_masked(scores, 10, some_excluded(10, 9000, 0.3))
    emulated.rows_redone()


@pytest.mark.parametrize("temperature", [10.0, 1e-306, 1e-310])  # the last two give keys of -inf
def test_position_samples_are_the_processors(emulated, temperature):
    users, lengths = randint(0, 2**32, (40,), seed=1), randint(0, 300, (40,), seed=2)
    keys = torch.empty(40, 300, dtype=torch.float64)
    samples = torch.full((40, 25), -7)
    addresses = (tensor.data_ptr() for tensor in (users, lengths, keys, samples))
    assert emulated.module.position_sample(*addresses, 40, 25, 300, temperature, 5, 1, 2, 0) == ""
    expected = position_sample(users, lengths, 25, temperature, seed=5, epoch=1, stream=2)
    assert torch.equal(samples, expected)


@pytest.mark.parametrize("count", [1, 30, 131])
@pytest.mark.parametrize("has_parts", [False, True])
def test_gumbel_noise_is_the_processors(emulated, count, has_parts):
    ids, parts = randint(0, 2**32, (40,), seed=1), randint(0, 2, (40,), seed=2)
    noise = torch.full((40, count), torch.nan, dtype=torch.float64)
    error = emulated.module.gumbel_noise(
        ids.data_ptr(),
        parts.data_ptr() if has_parts else 0,
        noise.data_ptr(),
        40,
        count,
        5,
        1,
        2 << 24 | 3,
        0,
    )
    assert error == ""
    wanted = gumbel_noise(ids, count, seed=5, epoch=1, step=3, stream=2, parts=parts if has_parts else None)
    assert torch.equal(noise, wanted)


@pytest.mark.parametrize("width", [1, 16, 37])
def test_dropout_masks_are_the_processors(emulated, width):
    ids = randint(0, 2**32, (40,), seed=1)
    kept = torch.full((3, 40, width), 7, dtype=torch.uint8)
    least = round(0.3 * 2**16)
    draw = 3, 40, width, least, 5, 1, 2 << 24 | 3, 0
    assert emulated.module.dropout_mask(ids.data_ptr(), kept.data_ptr(), *draw) == ""
    wanted = dropout_mask(ids, 3, width, 0.3, seed=5, epoch=1, step=3, stream=2)
    assert torch.equal(kept, wanted.to(torch.uint8))


def test_complement_samples_are_the_processors(emulated):
    users = randint(0, 20, (300,), seed=1)
    indptr, indices = csr(torch.rand(20, 70, generator=torch.Generator().manual_seed(1)) < 0.5)
    samples = torch.full((300, 12), -7)
    error = emulated.module.complement_sample(
        users.data_ptr(), 0, indptr.data_ptr(), indices.data_ptr(), len(indices), 0, 0, 20, 70, samples.data_ptr(),
        300, 12, 5, 1, 2, 0,
    )  # fmt: skip
    assert error == ""
    assert torch.equal(
        samples, complement_sample(users, 70, 12, (indptr, indices), seed=5, epoch=1, stream=2)
    )


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("temperature", [0.3, 20.0, 1e9])
def test_pair_samples_are_the_processors(emulated, distinct, temperature):
    users, positions = randint(0, 2**32, (150,), seed=1), randint(0, 2**32 - 9, (150,), seed=2)
    lengths = randint(0, 60, (150,), seed=3)
    pairs = torch.full((150, 9, 2), -7)
    error = emulated.module.pair_sample(
        users.data_ptr(), positions.data_ptr(), lengths.data_ptr(), pairs.data_ptr(), 150, 9, temperature, distinct,
        5, 1, 2, 0,
    )  # fmt: skip
    assert error == ""
    drawn = pair_sample(users, lengths, 9, temperature, distinct, positions, seed=5, epoch=1, stream=2)
    assert torch.equal(pairs, drawn)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("K", [1, 30, 200])
def test_weighted_samples_are_the_processors(emulated, dtype, K):
    users, weights = randint(0, 2**32, (20,), seed=1), randn(20, 301, seed=2, dtype=dtype).abs()
    weights[:, 40:170] = 0
    keys, samples = torch.empty(20, 301, dtype=torch.float64), torch.full((20, K), -7)

    def draw(given):
        error = emulated.module.weighted_sample(
            DTYPES.index(dtype), users.data_ptr(), given.data_ptr(), keys.data_ptr(), samples.data_ptr(), 20, K, 301,
            5, 1, 2, 0,
        )  # fmt: skip
        assert error == ""
        return samples.clone()

    wanted = weighted_sample(users, weights, K, seed=5, epoch=1, stream=2)
    assert torch.equal(draw(weights), wanted)
    bad = weights.clone()
    bad[3, 300], bad[7, 0], bad[9, 9] = -1, NAN, INF
    wanted[[3, 7, 9]] = -1
    assert torch.equal(draw(bad), wanted)
