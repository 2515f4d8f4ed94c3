"""Every form of the compiled top-K, forced in turn, and prepared tables: they may differ in time alone."""

from __future__ import annotations

import mmap
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from rankdistill import inner_product_topk, prepare_items
from rankdistill.data import CSR
from rankdistill.ops.inner_product_topk import BF16, INT8, WIDE, forward_native, forward_reference
from rankdistill.ops.prepared_items import sample_of, versions_of
from tests.case import DTYPES, generator, randint, randn, widened
from tests.cases import topk_oracle
from tests.ops.test_inner_product_topk import INF, NAN, SCALES, attacks, bits, csr, half_a_rounding
from tests.process import output

native = pytest.importorskip("rankdistill._native", reason="no compiled CPU module")
FILTERS = {"wide": WIDE, "bf16": BF16, "int8": INT8}
FORMS = (*FILTERS, "prepared")


def ranked(form, users, items, k, exclude=None, bias=None):
    """Scores, ids and lengths by one form; skips where this processor has not its instructions."""
    lists = exclude or (None, None)
    if form == "reference":
        return forward_reference(users, items, k, *lists, bias)
    if form == "prepared":
        return inner_product_topk(users, prepare_items(items, bias), k, exclude)
    try:
        return forward_native(users, items, k, *lists, bias, filter=FILTERS[form])
    except ValueError as error:
        assert "expected one that this processor has" in str(error)
        pytest.skip(f"this processor has no {form} products, or {native.isa()} is forced")


def check(form, users, items, k, exclude=None, bias=None):
    scores, indices, lengths = ranked(form, users, items, k, exclude, bias)
    wide = None if bias is None else widened(bias)
    expected = topk_oracle(widened(users), widened(items), k, exclude, wide, storage=users.dtype)
    assert torch.equal(indices, expected[1])
    assert torch.equal(lengths, expected[2])
    if users.dtype != torch.float64:
        assert torch.equal(bits(scores), bits(expected[0]))


def random_rows(form, seed, least):
    """Tables of random shapes, kinds and exclusions, half of them with biases, until `least` rows were checked."""
    draws, rows = generator(seed), 0
    pick = lambda low, high: int(torch.randint(low, high, (1,), generator=draws))
    while rows < least:
        dtype = DTYPES[pick(0, 4)]
        scale = lambda dtype=dtype: SCALES[dtype][pick(0, len(SCALES[dtype]))]
        long = pick(0, 8) == 0  # long enough for thresholds from a sample
        B, N, D, k = pick(1, 300), pick(5000, 9000) if long else pick(1, 700), pick(1, 70), pick(1, 60)
        users, items = (randn(n, D, seed=pick(0, 10**6), dtype=dtype, scale=scale()) for n in (B, N))
        if pick(0, 2):
            items = items[torch.randint(0, N, (N,), generator=draws)]  # repeated vectors: ties
        if pick(0, 3) == 0:
            items[pick(0, N)] *= 100.0 if dtype == torch.float16 else 1e10  # one giant
        if pick(0, 8) == 0:
            users[pick(0, B), pick(0, D)] = float("nan")
        bias = randn(N, seed=pick(0, 10**6), dtype=dtype, scale=scale()) if pick(0, 2) else None
        share = torch.tensor([0.0, 0.1, 0.9, 1.0])[torch.randint(0, 4, (B, 1), generator=draws)]
        mask = torch.rand(B, N, generator=draws) < share
        check(form, users, items, k, csr(mask, pick(1, 3)) if pick(0, 2) else None, bias)
        rows += B


@pytest.mark.parametrize("form", FORMS)
def test_random_rows(form):
    random_rows(form, 1, 3000)


@pytest.mark.slow
@pytest.mark.parametrize("form", [*FORMS, "reference"])
def test_a_hundred_thousand_random_rows(form):
    random_rows(form, 2, 100_000 if form == "reference" else 35_000)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name, _ in attacks(10, 24)])
def test_tables_built_to_break_a_filter(form, dtype, name):
    items = dict(attacks(20_000, 24))[name].to(dtype)
    users = torch.cat([randn(9, 24, seed=5), torch.ones(2, 24), -torch.ones(1, 24), torch.zeros(1, 24)])
    for k in (1, 50, 700):
        check(form, users.to(dtype), items, k)


def withdrawn(N, dtype, share, *values):
    """Biases [N] of which a share has one of the values, in turn; None is the lowest number of the dtype."""
    biases = randn(N, seed=7, dtype=dtype)
    picked = torch.randperm(N, generator=generator(8))[: int(N * share)]
    lowest = torch.finfo(dtype).min
    for i, value in enumerate(values):
        biases[picked[i :: len(values)]] = lowest if value is None else value
    return biases


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_items_that_their_biases_withdraw(form, dtype):
    """-inf and NaN do so entirely; what lies far below zero comes last. Among rows that are NaN or infinite."""
    N = 6000
    users, items = randn(30, 20, seed=1, dtype=dtype), randn(N, 20, seed=2, dtype=dtype)
    items[::70, 3], items[::500, 4] = NAN, INF
    exclude = csr(torch.rand(30, N, generator=generator(3)) < 0.05)
    for share in (0.05, 0.9, 1.0):
        bias = withdrawn(N, dtype, share, -INF, NAN, None, -1e30, -1e9)
        for k in (1, 100, 5500):
            check(form, users, items, k, exclude if share < 1 else None, bias)
    check(form, users, items, 100)


@pytest.mark.parametrize("form", FORMS)
def test_scores_that_are_the_lowest_number_or_just_not(form):
    """Products that take the lowest bias half a rounding below itself, give or take what fp32 does not see."""
    users, items, bias = half_a_rounding(6000)
    for N in (200, 6000):
        for k in (10, N):
            check(form, users, items[:N], k, None, bias[:N])


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("value", [-INF, NAN, None, -1e30, -1e9])
def test_withdrawn_items_cost_nothing(prepared, value):
    """Were the bounds of their neighbours lost with them, a call would take some thirty times as long."""
    users, items = randn(64, 32, seed=1), randn(40_000, 32, seed=2)
    times, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for bias in (
            withdrawn(len(items), torch.float32, 0.05, 0.0),
            withdrawn(len(items), torch.float32, 0.05, value),
        ):
            table = (prepare_items(items, bias), 50) if prepared else (items, 50, None, bias)
            least = INF
            for _ in range(5):
                begin = time.process_time()
                inner_product_topk(users, *table)
                least = min(least, time.process_time() - begin)
            times.append(least)
    finally:
        torch.set_num_threads(threads)
    assert times[1] < 4 * times[0], times


def at_the_margin(form, N, D):
    """Items whose rounding errors point along a user of ones, so that Cauchy and Schwarz's bound is all used: those
    rounded down are the best and look the worst."""
    better = torch.arange(N)[:, None] % 2 == 0
    if form == "bf16":  # 2^-8 is half a step above 1
        items = torch.where(better, 1 + 2.0**-8 * 0.999, 1 + 2.0**-8 * 1.001) + torch.zeros(N, D)
        items[:, 0] += torch.where(better[:, 0], 2.0**-8 * 0.01 * D, 0.0)
        return torch.ones(1, D), items
    # One component of 127 steps fixes the step at 1; the others err by nearly half of one.
    items = torch.where(better, 40.499, 40.501) + torch.zeros(N, D)
    items[:, 0] = 127.0
    items[:, 1] += torch.where(better[:, 0], 0.004 * D, 0.0)
    items[:, 1] += randn(N, seed=3).abs() * 1e-4
    return torch.ones(1, D), items


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sign", [1, -1])
def test_errors_as_large_as_the_margin_allows(form, sign):
    for D in (7, 64, 257):
        for kind in ("bf16", "int8"):
            users, items = at_the_margin(kind, 9000, D)
            for k in (1, 100, 1000):
                check(form, users * sign, items, k)
                check(form, users, items * sign, k)


@pytest.mark.parametrize("form", FORMS)
def test_scores_within_an_ulp_of_the_threshold(form):
    """Thousands of neighbours of one score, more than any buffer holds."""
    users = randn(20, 33, seed=1)
    items = users[torch.arange(12_000) % 20] * (1 + 2.0**-23 * randint(0, 3, (12_000, 1), seed=2))
    for k in (1, 100, 600, 601):
        check(form, users, items, k)


def skewed(N, D):
    """Norms over six orders of magnitude, so that most panels are skipped."""
    scales = torch.logspace(0, -6, N)[torch.randperm(N, generator=generator(2))]
    return randn(N, D, seed=1) * scales[:, None]


def tied(N, D):
    """Small integers: a score is shared by thousands of items of every norm."""
    return randint(-2, 3, (N, D), seed=1).float()


@pytest.mark.parametrize("k", [1, 100])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("table", [skewed, tied])
def test_prepared_tables_and_threads_give_the_same_lists(k, biased, table):
    """Items enough to be split among threads, also in a prepared table's own order."""
    N, D = 70_000, 12
    items, users = table(N, D), randint(-2, 3, (40, D), seed=4).float()
    bias = randint(-1, 2, (N,), seed=3).float() if biased else None
    exclude = csr(torch.rand(40, N, generator=generator(5)) < 0.01)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = topk_oracle(widened(users), widened(items), k, exclude, bias, storage=torch.float32)[1:]
        prepared = prepare_items(items, bias)
        assert prepared.n_items == N
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            for size in (1, 13, 40):
                for form, item_bias in ((prepared, None), (items, bias)):
                    parts = [
                        inner_product_topk(u, form, k, e, item_bias)[1:]
                        for u, e in zip(users.split(size), csr_rows(exclude, size), strict=True)
                    ]
                    for found, wanted in zip(zip(*parts, strict=True), expected, strict=True):
                        assert torch.equal(torch.cat(found), wanted)
    finally:
        torch.set_num_threads(threads)


def csr_rows(exclude, size):
    indptr, indices = exclude
    for first in range(0, len(indptr) - 1, size):
        part = indptr[first : first + size + 1]
        yield part - part[0], indices[part[0] : part[-1]]


def test_a_prepared_table_that_is_not_contiguous_is_copied_once():
    whole, users = randn(300, 12, seed=1), randn(3, 8, seed=2)
    items = whole[:, 2:10]
    prepared = prepare_items(items)
    assert prepared.items.is_contiguous()
    expected = inner_product_topk(users, items, 7)
    assert all(map(torch.equal, inner_product_topk(users, prepared, 7), expected))
    whole[5, 4] += 1
    with pytest.raises(ValueError, match="written since"):
        inner_product_topk(users, prepared, 7)


@pytest.mark.parametrize("left", [0, 3, 400, 1000])
def test_rows_that_may_list_few_of_the_items(left, monkeypatch):
    """A prepared order would show them nearly everything first: it is left out of the call."""
    ran = []  # whether the prepared buffer's address was given
    forward = native.inner_product_topk
    spy = SimpleNamespace(inner_product_topk=lambda *given: (ran.append(given[13] != 0), forward(*given)))
    monkeypatch.setattr(sys.modules[forward_native.__module__], "_native", spy)
    items, users = randn(5000, 8, seed=1), randn(4, 8, seed=2)
    excluded = torch.ones(4, 5000, dtype=torch.bool)
    excluded[torch.arange(4)[:, None], torch.randint(0, 5000, (4, left), generator=generator(3))] = False
    excluded[3] = False
    exclude = CSR.from_any(excluded)
    expected = forward_reference(users, items, 50, exclude.indptr, exclude.indices, None)
    for table in (items, prepare_items(items)):
        assert all(map(torch.equal, inner_product_topk(users, table, 50, exclude), expected))
    assert ran == [False, left == 1000]


def test_a_prepared_table_must_be_as_it_was():
    items, users = randn(50, 4, seed=1), randn(3, 4, seed=2)
    prepared = prepare_items(items)
    expected = inner_product_topk(users, prepared, 5)
    items[7] += 1
    with pytest.raises(
        ValueError, match="expected items as they were when prepared; got a table written since"
    ):
        inner_product_topk(users, prepared, 5)
    items[7] -= 1
    assert torch.equal(inner_product_topk(users, prepare_items(items), 5).indices, expected.indices)
    with pytest.raises(ValueError, match="no item_bias beside prepared items"):
        inner_product_topk(users, prepare_items(items), 5, item_bias=torch.zeros(50))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: replace(p, items=randn(51, 4)),
        lambda p: replace(p, items=randn(50, 4, dtype=torch.bfloat16)),
        lambda p: replace(p, item_bias=torch.zeros(50)),
        lambda p: replace(p, buffer=p.buffer[:-1]),
        lambda p: replace(p, buffer=p.buffer[:10]),
        lambda p: replace(p, buffer=p.buffer.roll(1)),
    ],
    ids=["more items", "another dtype", "a bias", "cut", "cut short", "moved"],
)
def test_a_buffer_of_another_table_is_refused(change):
    prepared = change(prepare_items(randn(50, 4, seed=1)))
    tables = prepared.items, prepared.item_bias
    prepared = replace(prepared, given=tables, versions=versions_of(*tables), sample=sample_of(*tables))
    with pytest.raises(ValueError, match="expected items as prepared here for this table; got"):
        inner_product_topk(randn(3, 4, dtype=prepared.items.dtype), prepared, 5)


def test_damaged_order_is_never_followed():
    """Ids in the buffer that no table has must not be read."""
    prepared = prepare_items(randn(500, 4, seed=1))
    head = 128  # the ids begin within the first lines
    prepared.buffer[head : head + 4000] = 0x7F
    found = inner_product_topk(randn(3, 4, seed=2), prepared, 5)
    assert ((found.indices >= -1) & (found.indices < 500)).all()


def test_tables_of_more_than_2_to_the_31_numbers():
    """In memory that is only promised: pages of zeros but for the last row."""
    N, D = 2**18 + 1, 2**13
    memory = mmap.mmap(
        -1, N * D * 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    )
    items = torch.frombuffer(memory, dtype=torch.bfloat16).view(N, D)
    items[-1] = 1
    found = inner_product_topk(torch.ones(1, D, dtype=torch.bfloat16), items, 3)
    assert found.indices.tolist() == [[N - 1, 0, 1]]
    assert found.scores.tolist() == [[D, 0, 0]]


def test_memory_beside_the_lists():
    """At most 16 MiB + 24·B·k bytes, beside tables of 50 MB."""
    B, N, k = 4096, 200_000, 100
    extra = output(
        f"""
import threading, torch
from rankdistill import inner_product_topk
def anonymous():
    line = next(l for l in open("/proc/self/status") if l.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
torch.set_num_threads(2)
users, items = torch.randn({B}, 64), torch.randn({N}, 64)
inner_product_topk(users[:300], items[:20000], {k})
before, most, done = anonymous(), 0, threading.Event()
def watch():
    global most
    while not done.wait(0.002):
        most = max(most, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
found = inner_product_topk(users, items, {k})
done.set()
watcher.join()
print(most - before)
"""
    )
    results = B * k * 12 + B * 8
    assert results / 2 < int(extra) <= results + (16 << 20) + 24 * B * k
