"""Run with TRITON_INTERPRET=1: the Triton form of a ranking op on CPU tensors, against its float64 oracle bit for bit.

`cases` are the op's own (tests/cases.py), `paths` force what a launcher does where its filter is misled.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from rankdistill.kernels.triton import inner_product_rank as rank_kernels
from rankdistill.kernels.triton import masked_rank as count_kernels
from rankdistill.kernels.triton import score_tile, selection
from torch import Tensor

from tests.case import DTYPES, Sample, generator, randint, randn
from tests.cases import CASES
from tests.ops.test_ranks import tables
from tests.ops.topk_tables import (
    INF,
    NAN,
    assert_exact,
    attacks,
    awkward_users,
    csr,
    rows_of_scores,
    some_excluded,
)
from tests.ops.triton_interpreter import first_rows  # mends the interpreter
from tests.score_cases import lists_of

DEVICE = torch.device("cpu")
N = 5000  # the least round number of items that has a sample
ROWS = 9  # of a case under the interpreter


def there(value):
    return value.to(DEVICE) if isinstance(value, Tensor) else value


def same_bytes(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def check(op: str, name: str, *args, item_bias: Tensor | None = None) -> None:
    """The launcher's results on a public function's arguments are the oracle's; the arguments stay as they were."""
    case, kwargs = CASES[op], {} if item_bias is None else {"item_bias": item_bias}
    expected = case.expected(*args, **kwargs)
    for overload, given in case.overload_calls(args, kwargs):
        given = [there(a) for a in given]
        copies = [a.clone() if isinstance(a, Tensor) else a for a in given]
        found = case.module.TRITON[overload.removeprefix(op).removeprefix("_")](*given)
        for a, copy in zip(given, copies, strict=True):
            assert not isinstance(a, Tensor) or same_bytes(a, copy), name
        if op.endswith("rank"):
            assert torch.equal(found.cpu(), expected[0]), (
                f"{op}, {name}: {(found.cpu() != expected[0]).sum()}"
            )
            continue
        if op == "inner_product_topk" and args[0].dtype == torch.float64:
            # The device's own sums, within their budget; in the oracle's order, which is checked below.
            (budget,) = case.budget(torch.float64, expected, *args, **kwargs)
            scores = found[0].cpu()
            assert ((scores == expected[0]) | ((scores - expected[0]).abs() <= budget)).all(), name
            found = (expected[0], *found[1:])
        assert_exact(found, expected)
    print("checked", op, name)


def few_rows(sample: Sample) -> tuple:
    """The arguments, of the first rows only where the interpreter would take too long."""
    first = sample.args[0]
    if DEVICE.type != "cpu" or first.numel() * max(first.shape[1], 1) < 20_000:
        return sample.args
    return first_rows(sample.args, ROWS)


def check_cases(op: str) -> None:
    for dtype in DTYPES:
        for sample in CASES[op].samples(dtype):
            check(op, f"{dtype}, {sample.name}", *few_rows(sample), **sample.kwargs)


@contextlib.contextmanager
def exhausted(wanted: int | None) -> Iterator[None]:
    """Within, `wanted` rows of every call must be searched without a filter; None: some."""
    rows: list[int] = []
    whole, block = selection.exhaust, score_tile.exact_block

    def counted(lists, found, *args):
        rows.append(len(found))
        whole(lists, found, *args)

    def counted_block(users, items, bias, part, first, last):
        rows.append(len(part))
        return block(users, items, bias, part, first, last)

    with changed((selection, "exhaust", counted), (score_tile, "exact_block", counted_block)):
        yield
    most = max(rows, default=0)
    assert most > 0 if wanted is None else most == wanted, f"expected {wanted} exhausted rows; got {rows}"


@contextlib.contextmanager
def changed(*changes) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(mock.patch.object(module, name, value))
        yield


# Small chunks, groups and programs: every loop of a launcher goes round more than once.
MANY_STEPS = (
    (score_tile, "CHUNK_BYTES", 40_000),
    (score_tile, "PROGRAMS", 1),
    (selection, "GROUP_BYTES", 1),
    (selection, "BLOCK_ENTRIES", 1 << 15),
    (count_kernels, "PROGRAMS", 1),
)


def with_plan(rank: int, capacity: int):
    """Patches the plan: a rank and a capacity that no shapes give."""
    return changed((selection, "plan", lambda N, k, inflation: selection.Plan(1200, rank, capacity)))


# Under the interpreter; a device takes all.
ATTACKS = (
    "ascending",
    "ulps apart",
    "a norm past the bound",
    "not finite here and there",
    "subnormal",
    "clustered",
)


def topk_paths() -> None:
    op = "inner_product_topk"
    for name, items, _ in attacks(N, 3):
        if name in ATTACKS or DEVICE.type != "cpu":
            check(op, name, awkward_users(3)[7:], items, 20, some_excluded(9, N, 0.1))
    for dtype in DTYPES[0], *DTYPES[2:]:
        users, items = randn(3, 5, seed=1, dtype=dtype), randn(N, 5, seed=2, dtype=dtype)
        bias = randn(N, seed=3, dtype=dtype)
        with exhausted(0):
            check(op, f"{dtype} sampled", users, items, 20, some_excluded(3, N, 0.01), item_bias=bias)
    for D in (1, 16, 33, 140):
        check(op, f"D = {D}", randn(2, D, seed=1), randn(N, D, seed=2), 10, None)
    users, items = randn(70, 3, seed=1), randn(N, 3, seed=2)
    exclude = some_excluded(70, N, 0.01)
    with exhausted(0):
        check(op, "70 users", users, items, 5, exclude)
    with changed(*MANY_STEPS):
        check(op, "many chunks and groups", users[:20], items, 5, some_excluded(20, N, 0.01))
    users = users[:4]
    with with_plan(60, 8), exhausted(4):
        check(op, "buffers of 8", users, items, 20, None)
    # Too few for all that reach the first threshold, not for the proven one.
    with with_plan(60, 128), exhausted(0):
        check(op, "a proven threshold", users, items, 20, None)
    with with_plan(1, 1024), exhausted(None):
        check(op, "too high a threshold", users, items, 50, None)
    check(op, "zeros of both signs", users * 1e-25, items * 1e-25, 20, None)
    line = torch.ones(N, 3)
    with exhausted(4):
        check(op, "all equal", users, line, 20, some_excluded(4, N, 0.5))
    with changed((score_tile, "LARGEST_WIDTH", 2)), exhausted(4):
        check(op, "no margin", users, items, 20, None)
    largest = torch.finfo(torch.float32).max
    bias = torch.tensor([largest, -largest, INF, -INF, NAN, 1e36, 0.0, 1.0])[randint(0, 8, (N,), seed=3)]
    check(op, "a bias at the end of the range", users * 1e10, items * 1e10, 40, None, item_bias=bias)
    check_faulty_lists(
        lambda n, *lists: CASES[op].module.TRITON[""](there(users[:3]), there(items[:n]), 7, *lists, None)
    )


def masked_topk_paths() -> None:
    op = "masked_topk"
    for dtype in DTYPES:
        scores = rows_of_scores(9000, dtype)
        mask = torch.rand(scores.shape, generator=generator(1)) < 0.1
        for name, exclude in (("", None), (", a mask", mask), (", lists", csr(mask))):
            for k in (1, 100):
                if dtype == torch.float32 or (k == 100 and exclude is not None):
                    check(op, f"{dtype}, k = {k}{name}", scores, k, exclude)
    scores = rows_of_scores(N, torch.float32)
    mask = torch.rand(scores.shape, generator=generator(2)) < 0.3
    columns = scores.t().contiguous().t()
    with changed(*MANY_STEPS):
        for k in (30, 1000):
            check(op, f"many groups, k = {k}", scores.repeat(2, 1), k, mask.repeat(2, 1))
            check(op, f"columns side by side, k = {k}", columns, k, mask.t().contiguous().t())
    random = randn(4, N, seed=4)
    with exhausted(0):
        check(op, "random", random, 30, None)
    with with_plan(60, 8):
        with exhausted(4):
            check(op, "buffers of 8", random, 20, None)
        check(op, "buffers of 8, with lists", scores, 20, lists_of(mask, 2))
    with with_plan(60, 128), exhausted(0):
        check(op, "a proven threshold", random, 20, None)
    with with_plan(1, 1024), exhausted(None):
        check(op, "too high a threshold", random, 50, None)
    with exhausted(4):
        check(op, "all equal", torch.ones(4, N), 20, None)
    check_faulty_lists(
        lambda n, *lists: CASES[op].module.TRITON[""](there(random[:3, :n].contiguous()), 7, *lists, None)
    )


def check_faulty_lists(call: Callable) -> None:
    for n in (90, N):
        alone = [t[:1] for t in call(n, *map(there, (torch.tensor([0, 1, 1, 1]), torch.tensor([3]))))]
        for indptr, indices in (
            ([0, 1, 2, 2**40], [3, n, 1, 5]),
            ([0, 1, 3, 2], [3, 9, 1, 5]),
            ([0, 1, 2, -5], [3, -1, 1, 5]),
        ):
            found = call(n, *map(there, (torch.tensor(indptr), torch.tensor(indices))))
            assert all(torch.equal(f[:1], a) for f, a in zip(found, alone, strict=True))
            assert found[0][1:].isnan().all()
            assert (found[1][1:] == -1).all()
            assert found[2].tolist() == [7, 0, 0]
    print("checked faulty lists")


def rank_paths() -> None:
    op = "inner_product_rank"
    users = torch.cat([randn(1, 3, seed=5), torch.ones(1, 3), -torch.ones(1, 3), torch.zeros(1, 3)])
    for K, (name, items) in enumerate(tables(300, 3), start=13):
        item_ids = randint(-1, 300, (4, K), seed=6)
        check(op, f"{name}, K = {K}", users, items, item_ids, None)
        check(
            op, f"{name} and a bias", users, items, item_ids, None, item_bias=randn(300, seed=7, scale=1e-3)
        )
    for dtype in DTYPES[0], *DTYPES[2:]:
        for D in (1, 16, 140):
            tables_of = randn(2, D, seed=1, dtype=dtype), randn(300, D, seed=2, dtype=dtype)
            exclude = some_excluded(2, 300, 0.02)
            check(op, f"{dtype}, D = {D}", *tables_of, randint(-1, 300, (2, 4), seed=3), exclude)
    users, items = randn(70, 3, seed=1), randn(N, 3, seed=2)
    item_ids = randint(-1, N, (70, 2), seed=3)
    with exhausted(0):
        check(op, "70 users", users, items, item_ids, some_excluded(70, N, 0.001))
    users, item_ids = users[:20], item_ids[:20]
    with changed(*MANY_STEPS):
        check(op, "many chunks and groups", users, items, item_ids, some_excluded(20, N, 0.01))
    users, item_ids = users[:4], item_ids[:4]
    line, exclude = torch.ones(N, 3), lists_of(torch.rand(4, N, generator=generator(4)) < 0.02, 2)
    with exhausted(4):
        check(op, "all equal", users, line, item_ids, exclude)
    with changed((rank_kernels, "capacity_of", lambda N, K: 1)), exhausted(None):
        check(op, "buffers of 1", users, items, item_ids, exclude)
    with changed((score_tile, "LARGEST_WIDTH", 2)), exhausted(4):
        check(op, "no margin", users, items, item_ids, exclude)
    largest = torch.finfo(torch.float32).max
    bias = torch.tensor([largest, -largest, INF, -INF, NAN, 1e36, 0.0, 1.0])[randint(0, 8, (N,), seed=3)]
    check(op, "a bias at the end", users * 1e10, items * 1e10, item_ids, None, item_bias=bias)
    for row, bad in enumerate((NAN, INF, -INF)):
        users[row, 1] = items[70 * row + 7, 2] = bad
    check(op, "not finite here and there", users, items, item_ids, exclude)
    users, items = randn(3, 3, seed=8), randn(N, 3, seed=9)
    check_faulty_ranks(
        N, lambda ids, *lists: CASES[op].module.TRITON[""](there(users), there(items), ids, *lists, None)
    )


def masked_rank_paths() -> None:
    op = "masked_rank"
    for dtype in DTYPES:
        scores = rows_of_scores(2500, dtype)
        mask = torch.rand(scores.shape, generator=generator(1)) < 0.05
        item_ids = randint(-1, 2500, (11, 17), seed=2)
        for name, exclude in (("", None), (", a mask", mask), (", lists", lists_of(mask, 2))):
            check(op, f"{dtype}{name}", scores, item_ids, exclude)
    scores, mask, item_ids = scores[:, :2400], mask[:, :2400], item_ids.clamp_max(2399)
    with changed(*MANY_STEPS):
        check(op, "many blocks a program", scores, item_ids, mask)
        check(op, "columns side by side", scores.t().contiguous().t(), item_ids, mask.t().contiguous().t())
    scores = randn(3, N, seed=4)
    check_faulty_ranks(N, lambda ids, *lists: CASES[op].module.TRITON[""](there(scores), ids, *lists, None))


def check_faulty_ranks(n: int, call: Callable) -> None:
    item_ids = torch.tensor([[0, n, 4, -7, 2**40]]).repeat(3, 1)
    ranks = call(there(item_ids), *map(there, (torch.tensor([0, 1, 2, 2**40]), torch.tensor([3, n, 1, 5]))))
    assert (ranks[0] >= 0).tolist() == [True, False, True, False, False]
    assert (ranks[1:] == -1).all()
    nothing = call(there(item_ids), *map(there, (torch.tensor([0, 1, 1, 1]), torch.tensor([3]))))
    assert torch.equal(nothing[0], ranks[0])
    print("checked faulty lists")


PATHS = {
    "inner_product_topk": topk_paths,
    "masked_topk": masked_topk_paths,
    "inner_product_rank": rank_paths,
    "masked_rank": masked_rank_paths,
}

if __name__ == "__main__":
    device, op, part = sys.argv[1:]
    DEVICE = torch.device(device)
    if part == "cases":
        check_cases(op)
    else:
        PATHS[op]()
