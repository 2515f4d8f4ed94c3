"""Cases of the ops whose sums run over the whole catalogue. The oracles write out the [B, N] scores."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.case import BadSample, Case, Sample, generator, randint, randn, storage_rounding, unit

# B, N, D, excluded items of a row
SIZES = {
    "plain": (6, 40, 7, 4),
    "B = 0": (0, 9, 4, 0),
    "B = 1": (1, 300, 16, 3),
    "N = 0": (4, 0, 5, 0),
    "N = 1": (3, 1, 5, 0),
    "D = 0": (4, 9, 0, 2),
    "D = 1": (4, 30, 1, 3),
    "nothing excluded": (9, 700, 33, 0),
    "many items": (37, 5000, 20, 10),
    "many rows": (210, 600, 64, 20),
}


def tables(dtype, B, N, D, excluded, seed, scale=1.0):
    """Users, items whose scores have about that scale, and exclusions (None for none)."""
    half = (scale / max(D, 1) ** 0.5) ** 0.5
    users, items = (randn(rows, D, seed=seed + i, dtype=dtype, scale=half) for i, rows in enumerate((B, N)))
    if not excluded:
        return users, items, None
    mask = torch.rand(B, N, generator=generator(seed + 2)) < excluded / N
    return users, items, (torch.cat([torch.zeros(1).long(), mask.sum(1).cumsum(0)]), mask.nonzero()[:, 1])


def all_but(kept: list[list[int]], N: int):
    """Exclusions that leave the row with the given items, every other id twice."""
    rows = [[n for n in range(N) if n not in row for _ in range(2)] for row in kept]
    lengths = torch.tensor([0, *map(len, rows)]).cumsum(0)
    return lengths, torch.tensor([n for row in rows for n in row], dtype=torch.int64)


def counted_scores(users: Tensor, items: Tensor, exclude, item_bias) -> Tensor:
    scores = users @ items.t()
    if item_bias is not None:
        scores = scores + item_bias
    if exclude is None:
        return scores
    mask = torch.zeros(scores.shape, dtype=torch.bool)
    mask[torch.arange(len(users)).repeat_interleave(exclude[0].diff()), exclude[1]] = True
    return scores.masked_fill(mask, -torch.inf)


def log_sums(scores: Tensor) -> Tensor:
    """-inf, with gradient 0, for a row without mass."""
    empty = ~(scores > -torch.inf).any(1) & ~scores.isnan().any(1)
    scores = torch.cat([scores, scores.new_full((len(scores), 1), -torch.inf)], 1)
    return scores.masked_fill(empty[:, None], 0).logsumexp(1).masked_fill(empty, -torch.inf)


def mass_samples(dtype):
    for seed, (name, sizes) in enumerate(SIZES.items()):
        yield Sample(name, tables(dtype, *sizes, seed=10 * seed))
    for scale in (10.0, 100.0):
        yield Sample(f"scores of {scale:.0f}", tables(dtype, 20, 900, 24, 30, 7, scale))
    users, items, _ = tables(dtype, 4, 30, 5, 0, 8)
    yield Sample("few or no items left, repeats", (users, items, all_but([[], [29], [3, 4], [0]], 30)))
    users, items, exclude = tables(dtype, 9, 2000, 17, 20, 9)
    yield Sample("a bias", (users, items, exclude, randn(2000, seed=14, dtype=dtype)))
    closed = randn(2000, seed=15, dtype=dtype).masked_fill(randint(0, 3, (2000,), seed=16) > 0, -torch.inf)
    yield Sample("a bias that closes items", (users, items, exclude, closed))


def table_bad_samples(*more):
    """Of an op of (users, items, …), with what it takes after them."""
    users, items = randn(2, 4), randn(6, 4)
    yield BadSample("widths differ", (users, randn(6, 3), *more), ValueError, "items of width 4")
    yield BadSample(
        "dtypes differ", (users, items.double(), *more), TypeError, "items with the dtype of users"
    )
    yield BadSample("three dimensions", (users[None], items, *more), ValueError, "users with 2 dimensions")
    yield BadSample("integer users", (users.long(), items, *more), TypeError, "users as a float32")
    pair = lambda indptr, indices: (torch.tensor(indptr), torch.tensor(indices, dtype=torch.int64))
    for name, exclude, error, match in (
        ("excluded id of N", pair([0, 1, 2], [5, 6]), IndexError, r"\[0, 6\); got 6"),
        ("excluded id of -1", pair([0, 1, 2], [-1, 3]), IndexError, "got -1"),
        ("unsorted", pair([0, 2, 2], [3, 1]), ValueError, "ascend"),
        ("rows of others", pair([0, 1], [3]), ValueError, "indptr of 3 entries"),
        ("indptr too short", pair([0, 1, 1], [3, 4]), ValueError, "to end with 2"),
    ):
        yield BadSample(name, (users, items, *more), error, match, {"exclude": exclude})
    for name, bias, error, match in (
        ("bias too short", randn(5), ValueError, "item_bias of 6 entries"),
        ("bias of another dtype", randn(6).double(), TypeError, "item_bias with the dtype of items"),
    ):
        yield BadSample(name, (users, items, *more), error, match, {"item_bias": bias})


def mass_bad_samples():
    yield from table_bad_samples()
    tables = randn(2, 4), randn(6, 4)
    yield BadSample("a share of 1", tables, ValueError, r"in \[0, 1\); got float 1.0", {"skipped_mass": 1.0})
    yield BadSample("a share of NaN", tables, ValueError, "got float nan", {"skipped_mass": float("nan")})
    yield BadSample("no share", tables, TypeError, "skipped_mass as a float", {"skipped_mass": None})


def largest_size(users, items) -> Tensor:
    """[B]: what a score's budget is a part of."""
    norms = items.double().norm(dim=1)
    return users.double().norm(dim=1) * (norms.amax() if len(norms) else 0.0)


def mass_budget(dtype, expected, users, items, exclude=None, item_bias=None):
    # A log-mass errs by no more than a score does, and by the sum's own rounding.
    size = largest_size(users, items) + expected[0].abs().nan_to_num(0, posinf=0) + 1
    return (unit(dtype, 2e-6, 1e-14) * size,)


def table_grad_budget(dtype, grad):
    # A score's own error, 2e-6 of the norms' product (below 100 here), is a weight's relative error.
    return (unit(dtype, 4e-5, 1e-11) + storage_rounding(dtype)) * (1 + grad.abs())


def mass_overload_calls(args, kwargs):
    users, items, exclude, item_bias = (*args, None, None)[:4]
    inputs = (users, items, *(exclude or (None, None)), item_bias)
    yield "catalogue_log_mass_forward", (*inputs, 0.0)
    plain = [t.detach() if isinstance(t, Tensor) else t for t in inputs]
    largest = counted_scores(plain[0], plain[1], exclude, plain[4])
    empty = largest.new_full((len(users), 1), -torch.inf)
    top = torch.cat([largest, empty], 1).amax(1).float() + 1e-3  # above the kernel's own, rounded otherwise
    sums = (largest - top[:, None]).exp().sum(1).float().masked_fill(top == -torch.inf, 0)
    yield "catalogue_log_mass_backward", (randn(len(users), seed=8), *plain, top, sums, 0.0)


CATALOGUE_LOG_MASS = Case(
    op="catalogue_log_mass",
    samples=mass_samples,
    bad_samples=mass_bad_samples,
    oracle=lambda users, items, exclude=None, item_bias=None: log_sums(
        counted_scores(users, items, exclude, item_bias)
    ),
    budget=mass_budget,
    overload_calls=mass_overload_calls,
    differentiable=(0, 1, 3),
    grad_budget=table_grad_budget,
    backend_tolerance={"rtol": 1e-4, "atol": 1e-4},
)


def lists(B, N, K, seed, least=0):
    """Distinct ids in random order, and lengths."""
    ids = torch.stack([torch.randperm(N, generator=generator(seed + b))[:K] for b in range(B)])
    return ids, randint(least, K + 1, (B,), seed=seed)


def luce_samples(dtype):
    for seed, (name, sizes) in enumerate(SIZES.items()):
        users, items, exclude = tables(dtype, *sizes, seed=10 * seed)
        B, N = len(users), len(items)
        if not N or not B:
            yield Sample(name, (users, items, torch.full((B, 3), -1)))
            continue
        ids, lengths = lists(B, N, min(5, N), seed)
        yield Sample(name, (users, items, ids, lengths, exclude))
    users, items, exclude = tables(dtype, 9, 2000, 50, 20, 30)
    ids, lengths = lists(9, 2000, 8, 31)
    ended = ids.masked_fill(torch.arange(8) >= lengths[:, None], -1)
    yield Sample("ended by -1", (users, items, ended, None, exclude, randn(2000, seed=14, dtype=dtype)))
    yield Sample("K = 0", (users, items, ids[:, :0], None, exclude))
    users, items, exclude = tables(dtype, 200, 1500, 64, 30, 32, 5.0)
    yield Sample("several pieces of rows", (users, items, *lists(200, 1500, 20, 33, least=1), exclude))
    users, items, _ = tables(dtype, 3, 30, 5, 0, 8)
    whole, _ = lists(3, 30, 30, 34)
    yield Sample("nothing but the list", (users, items, whole))
    twice = torch.tensor([[3, 3, 7], [1, 2, 1], [0, 9, 9]])
    yield Sample("an item twice, and excluded", (users, items, twice, None, all_but([[3], [5, 6], []], 30)))


def luce_bad_samples():
    ids = torch.tensor([[0, 1, 2], [3, 4, 5]])
    yield from table_bad_samples(ids)
    tables = randn(2, 4), randn(6, 4)
    yield BadSample("id of N", (*tables, ids + 1), IndexError, r"\[-1, 6\); got 6 at position \[1, 2\]")
    yield BadSample("id of -2", (*tables, ids - 2), IndexError, r"got -2 at position \[0, 0\]")
    ended = ids.clone()
    ended[1, 1] = -1
    yield BadSample(
        "-1 within a length",
        (*tables, ended, torch.tensor([3, 2])),
        IndexError,
        r"got -1 at position \[1, 1\]",
    )
    yield BadSample(
        "length of K + 1", (*tables, ids, torch.tensor([4, 0])), IndexError, r"lengths in \[0, 4\); got 4"
    )
    yield BadSample("ids of others", (*tables, ids[:1]), ValueError, "item_ids with 2 rows")
    yield BadSample("ids of int32", (*tables, ids.int()), TypeError, "item_ids as a int64")
    yield BadSample("lengths of others", (*tables, ids, torch.tensor([1])), ValueError, "lengths with 2 rows")


def luce_oracle(users, items, item_ids, lengths=None, exclude=None, item_bias=None):
    """Term by term."""
    B, K = item_ids.shape
    scores = counted_scores(users, items, None, item_bias)
    lengths = (item_ids >= 0).cumprod(1).sum(1) if lengths is None else lengths
    within = torch.arange(K) < lengths[:, None]
    rows = torch.arange(B)[:, None].expand(B, K)
    gone = torch.zeros(scores.shape, dtype=torch.bool)
    gone[rows[within], item_ids[within]] = True
    if exclude is not None:
        gone[torch.arange(B).repeat_interleave(exclude[0].diff()), exclude[1]] = True
    tail = scores.masked_fill(gone, -torch.inf)
    padded = torch.cat([scores, scores.new_zeros(B, 1)], 1)  # -1 finds the last
    listed = padded.gather(1, item_ids.masked_fill(~within, scores.shape[1])).masked_fill(~within, -torch.inf)
    losses = scores.sum(1) * 0
    for k in range(K):
        term = (
            log_sums(torch.cat([listed[:, k:], tail], 1))
            - padded.gather(1, item_ids[:, k : k + 1].clamp_min(0))[:, 0]
        )
        losses = losses + term.where(within[:, k], 0)
    return losses


def luce_budget(dtype, expected, users, items, item_ids, *_, **__):
    # Every term errs as a difference of two scores or log-masses does.
    size = largest_size(users, items) * item_ids.shape[1] + expected[0].abs() + item_ids.shape[1]
    return (unit(dtype, 2e-6, 1e-13) * size,)


def luce_overload_calls(args, kwargs):
    users, items, item_ids, lengths, exclude, item_bias = (*args, None, None, None)[:6]
    inputs = (users, items, item_ids, lengths, *(exclude or (None, None)), item_bias)
    yield "catalogue_plackett_luce_forward", (*inputs, True)
    plain = [t.detach() if isinstance(t, Tensor) else t for t in inputs]
    yield "catalogue_plackett_luce_forward", (*plain, False)
    saved = torch.ops.rankdistill.catalogue_plackett_luce_forward(*plain, True)[1:]
    for grad in (randn(len(users), seed=8), torch.full((len(users),), 0.3)):
        yield "catalogue_plackett_luce_backward", (grad, *plain, *saved)


CATALOGUE_PLACKETT_LUCE = Case(
    op="catalogue_plackett_luce",
    samples=luce_samples,
    bad_samples=luce_bad_samples,
    oracle=luce_oracle,
    budget=luce_budget,
    overload_calls=luce_overload_calls,
    differentiable=(0, 1, 5),
    # As table_grad_budget, for sums over the lists (20 items at most here) of many rows.
    grad_budget=lambda dtype, grad: 4 * table_grad_budget(dtype, grad),
    backend_tolerance={"rtol": 1e-4, "atol": 1e-4},
)

CATALOGUE_CASES = (CATALOGUE_LOG_MASS, CATALOGUE_PLACKETT_LUCE)
