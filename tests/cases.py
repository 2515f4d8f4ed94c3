"""A case per op: sample inputs, bad inputs, the float64 oracle and the error budget. Tests and benchmarks derive from it."""

from __future__ import annotations

import torch

from tests.case import (
    BadSample,
    Case,
    Sample,
    generator,
    randint,
    randn,
    storage_rounding,
    unit,
    widened,
)
from tests.catalogue_cases import CATALOGUE_CASES
from tests.expert_cases import ROUTED_EXPERTS
from tests.relation_cases import RELATION_CASES
from tests.sampler_cases import SAMPLER_CASES
from tests.score_cases import SCORE_CASES


def gathered_samples(dtype):
    for name, (U, N, D, B, K) in {
        "plain": (7, 11, 20, 5, 6),
        "wide": (4, 9, 200, 6, 3),
        "K = 1, D = 1": (3, 5, 1, 4, 1),
        "B = 0": (3, 5, 4, 0, 2),
        "K = 0": (3, 5, 4, 2, 0),
        "D = 0": (3, 5, 0, 2, 2),
        "many repeats": (2, 3, 33, 40, 17),
    }.items():
        users, items = randn(U, D, seed=1, dtype=dtype), randn(N, D, seed=2, dtype=dtype)
        item_ids = randint(-1, N, (B, K), seed=3)
        yield Sample(name, (users, items, item_ids, randint(0, U, (B,), seed=4)))
        yield Sample(f"{name}, users as rows", (randn(B, D, seed=5, dtype=dtype), items, item_ids, None))
        bias = randn(N, seed=6, dtype=dtype)
        yield Sample(f"{name}, a bias", (users, items, item_ids, randint(0, U, (B,), seed=4), bias))


def gathered_bad_samples():
    users, items, ids = randn(3, 4), randn(5, 4), randint(0, 5, (3, 2))
    yield BadSample(
        "item id of N",
        (users, items, ids.clone().fill_(5)),
        IndexError,
        r"item_ids in \[-1, 5\); got 5 at position \[0, 0\]",
    )
    yield BadSample(
        "item id of -2",
        (users, items, torch.tensor([[0, 1], [1, -2], [0, 0]])),
        IndexError,
        r"got -2 at position \[1, 1\]",
    )
    yield BadSample(
        "user id of U",
        (users, items, ids, torch.tensor([0, 1, 3])),
        IndexError,
        r"user_ids in \[0, 3\); got 3",
    )
    yield BadSample("widths differ", (users, randn(5, 3), ids), ValueError, "items of width 4")
    yield BadSample("dtypes differ", (users, items.double(), ids), TypeError, "items with the dtype of users")
    yield BadSample("integer users", (users.long(), items, ids), TypeError, "users as a float32")
    yield BadSample("ids of int32", (users, items, ids.int()), TypeError, "item_ids as a int64 tensor")
    yield BadSample("rows differ", (users, items, ids[:2]), ValueError, "item_ids with 3 rows")
    yield BadSample("three dimensions", (users[None], items, ids), ValueError, "users with 2 dimensions")
    yield BadSample(
        "bias too short", (users, items, ids, None, randn(4)), ValueError, "item_bias of 5 entries"
    )
    yield BadSample(
        "bias of another dtype",
        (users, items, ids, None, randn(5).double()),
        TypeError,
        "item_bias with the dtype of items",
    )


def gathered_oracle(users, items, item_ids, user_ids=None, item_bias=None):
    picked = users if user_ids is None else users[user_ids]
    scores = (picked[:, None, :] * items[item_ids.clamp_min(0)]).sum(-1)
    if item_bias is not None:
        scores = scores + item_bias[item_ids.clamp_min(0)]
    return scores.masked_fill(item_ids < 0, -torch.inf)


def gathered_budget(dtype, expected, users, items, item_ids, user_ids=None, item_bias=None):
    picked = users if user_ids is None else users[user_ids]
    norms = picked.double().norm(dim=1)[:, None] * items.double()[item_ids.clamp_min(0)].norm(dim=2)
    if item_bias is not None:
        norms = norms + item_bias.double().abs()[item_ids.clamp_min(0)]
    return (unit(dtype, 2e-6, 1e-14) * norms,)


def gathered_overload_calls(args, kwargs):
    users, items, item_ids, user_ids, item_bias = (*args, None)[:5]
    yield "gathered_inner_product_forward", (users, user_ids, items, item_ids, item_bias, False)
    grad_scores = randn(*item_ids.shape, seed=8)
    bias = None if item_bias is None else item_bias.detach()
    tables = users.detach(), user_ids, items.detach(), item_ids, bias
    yield "gathered_inner_product_backward", (grad_scores, *tables)


GATHERED_INNER_PRODUCT = Case(
    op="gathered_inner_product",
    samples=gathered_samples,
    bad_samples=gathered_bad_samples,
    oracle=gathered_oracle,
    budget=gathered_budget,
    overload_calls=gathered_overload_calls,
    differentiable=(0, 1, 4),
    grad_budget=lambda dtype, grad: (unit(dtype, 1e-5, 1e-11) + storage_rounding(dtype)) * (1 + grad.abs()),
)


def luce_samples(dtype):
    def given(B, K, L, seed):
        return randn(B, K, seed=seed, dtype=dtype), randn(B, L, seed=seed + 1, dtype=dtype)

    yield Sample("plain", (*given(7, 9, 5, 1), randint(0, 10, (7,), seed=3)))
    yield Sample("no lengths", (*given(4, 40, 40, 4), None))
    yield Sample("log-mass", (randn(3, 5, seed=6, dtype=dtype), randn(3, seed=7, dtype=dtype), None))
    yield Sample("no tail", (randn(3, 5, seed=8, dtype=dtype), None, None))
    yield Sample("K = 1, L = 1", (*given(2, 1, 1, 9), None))
    yield Sample("K = 0", (*given(2, 0, 3, 11), None))
    yield Sample("B = 0", (*given(0, 4, 3, 13), None))
    yield Sample("long", (*given(3, 200, 1100, 15), torch.tensor([200, 0, 131])))


def luce_bad_samples():
    scores, tail = randn(2, 3), randn(2, 4)
    yield BadSample(
        "length of K + 1",
        (scores, tail, torch.tensor([3, 4])),
        IndexError,
        r"lengths in \[0, 4\); got 4 at position \[1\]",
    )
    yield BadSample(
        "negative length", (scores, tail, torch.tensor([-1, 0])), IndexError, "got -1 at position"
    )
    yield BadSample("dtypes differ", (scores, tail.double()), TypeError, "tail with the dtype of scores")
    yield BadSample("rows differ", (scores, tail[:1]), ValueError, "tail with 2 rows")
    yield BadSample(
        "lengths of int32", (scores, tail, torch.tensor([1, 2]).int()), TypeError, "lengths as a int64"
    )
    yield BadSample("one dimension", (scores[0], tail), ValueError, "scores with 2 dimensions")
    yield BadSample("integers", (scores.long(), tail), TypeError, "scores as a float32")


def luce_oracle(scores, tail, lengths=None):
    B, K = scores.shape
    tail = scores.new_empty((B, 0)) if tail is None else tail[:, None] if tail.dim() == 1 else tail
    valid = torch.arange(K) < (torch.full((B,), K) if lengths is None else lengths)[:, None]
    masses = torch.cat([tail, scores.masked_fill(~valid, -torch.inf).flip(1)], 1).logcumsumexp(1)
    terms = masses[:, tail.shape[1] :].flip(1) - scores
    return terms.masked_fill(~valid, 0).sum(1)


def luce_budget(dtype, expected, scores, *_, **__):
    return (unit(dtype, 2e-6, 1e-12) * expected[0].abs() + unit(dtype, 1e-7, 1e-13) * scores.shape[1],)


def luce_grad_budget(dtype, grad):
    # The slopes' budget, 1e-5 up to K = 1024, times the upstream gradients of the tests, which stay below 4.
    return (4 * unit(dtype, 1e-5, 1e-11) + storage_rounding(dtype)) * (1 + grad.abs())


def luce_overload_calls(args, kwargs):
    scores, tail, lengths = args
    tail = scores.new_empty((len(scores), 0)) if tail is None else tail[:, None] if tail.dim() == 1 else tail
    yield "plackett_luce_forward", (scores, tail, lengths, True)
    scores, tail = scores.detach(), tail.detach()
    _, *kept = torch.ops.rankdistill.plackett_luce_forward(scores, tail, lengths, True)
    yield "plackett_luce_backward", (randn(len(scores), seed=8), scores, tail, lengths, *kept)


PLACKETT_LUCE = Case(
    op="plackett_luce",
    samples=luce_samples,
    bad_samples=luce_bad_samples,
    oracle=luce_oracle,
    budget=luce_budget,
    overload_calls=luce_overload_calls,
    differentiable=(0, 1),
    grad_budget=luce_grad_budget,
)


def embedding_samples(dtype):
    def given(U, N, D, B, listed, seed):
        tables = (
            randn(U, D, seed=seed, dtype=dtype, scale=0.5),
            randn(N, D, seed=seed + 1, dtype=dtype, scale=0.5),
        )
        return *tables, randint(0, N, (B, listed), seed=seed + 2)

    users, items, ids = given(6, 30, 20, 9, 11, 1)
    ids[3, 8:] = -1
    yield Sample("plain", (users, items, ids, 6, randint(0, 7, (9,), seed=4), randint(0, 6, (9,), seed=5)))
    yield Sample("users as rows", (*given(4, 30, 33, 4, 12, 6), 12, None, None))
    yield Sample("nothing listed", (*given(4, 30, 33, 4, 0, 6), 0, None, None))
    bias = randn(30, seed=16, dtype=dtype)
    yield Sample("a bias", (*given(4, 30, 33, 4, 12, 6), 7, None, torch.tensor([3, 0, 0, 1]), bias))
    yield Sample("K = 0", (*given(4, 30, 3, 4, 5, 9), 0, None, None))
    yield Sample("B = 0", (*given(4, 30, 3, 0, 5, 12), 2, None, torch.empty(0, dtype=torch.int64)))


def embedding_bad_samples():
    users, items, ids = randn(3, 4), randn(5, 4), randint(0, 5, (3, 6))
    absent = ids.clone()
    absent[1, 2] = -1
    yield BadSample(
        "list of -1",
        (users, items, absent, 4),
        IndexError,
        r"listed item_ids in \[0, 5\); got -1 at position \[1, 2\]",
    )
    yield BadSample("item id of N", (users, items, ids + 5, 4), IndexError, r"item_ids in \[-1, 5\)")
    yield BadSample("list_size past the ids", (users, items, ids, 7), ValueError, r"list_size in \[0, 6\]")
    yield BadSample(
        "length past the list",
        (users, items, ids, 4, torch.tensor([5, 0, 0])),
        IndexError,
        r"lengths in \[0, 5\)",
    )
    yield BadSample("lengths of others", (users, items, ids, 4, torch.tensor([1])), ValueError, "3 lengths")
    yield BadSample("widths differ", (users, randn(5, 3), ids, 4), ValueError, "items of width 4")


def embedding_oracle(users, items, item_ids, list_size, lengths=None, user_ids=None, item_bias=None):
    scores = gathered_oracle(users, items, item_ids, user_ids, item_bias)
    return luce_oracle(scores[:, :list_size], scores[:, list_size:], lengths)


def embedding_overload_calls(args, kwargs):
    users, items, ids, K, lengths, user_ids, bias = (*args, None)[:7]
    forward = users, user_ids, items, ids, lengths, K, True, bias, False
    yield "embedding_plackett_luce_forward", forward
    slopes = randn(*ids.shape, seed=8).masked_fill(ids < 0, 0)
    user_slopes = torch.einsum("bk,bkd->bd", slopes, items.detach()[ids.clamp_min(0)].float())
    tables = users.detach(), user_ids, items.detach()
    bias = None if bias is None else bias.detach()
    backward = randn(len(ids), seed=7), *tables, ids, slopes, user_slopes, bias
    yield "embedding_plackett_luce_backward", backward


EMBEDDING_PLACKETT_LUCE = Case(
    op="embedding_plackett_luce",
    samples=embedding_samples,
    bad_samples=embedding_bad_samples,
    oracle=embedding_oracle,
    # A score's own error, 2e-6 of the norms' product (below 40 here), is the slope's times the loss's.
    budget=lambda dtype, expected, *_, **__: (unit(dtype, 5e-6, 1e-12) * (1 + expected[0].abs()),),
    overload_calls=embedding_overload_calls,
    differentiable=(0, 1, 6),
    grad_budget=lambda dtype, grad: (unit(dtype, 4e-5, 1e-11) + storage_rounding(dtype)) * (1 + grad.abs()),
)


def topk_samples(dtype):
    def given(B, N, D, excluded, seed, scale=1.0):
        tables = (
            randn(B, D, seed=seed, dtype=dtype, scale=scale),
            randn(N, D, seed=seed + 1, dtype=dtype, scale=scale),
        )
        if not excluded:
            return *tables, None
        mask = torch.rand(B, N, generator=generator(seed + 2)) < excluded / N
        return *tables, (torch.cat([torch.zeros(1).long(), mask.sum(1).cumsum(0)]), mask.nonzero()[:, 1])

    for name, k, arguments in (
        ("plain", 5, (6, 40, 7, 4, 1)), ("K > N", 50, (6, 40, 7, 4, 2)), ("K = 0", 0, (3, 9, 4, 2, 3)),
        ("B = 0", 3, (0, 9, 4, 0, 4)), ("N = 0", 3, (4, 0, 5, 0, 5)), ("D = 0", 3, (4, 9, 0, 2, 6)),
        ("D = 1", 4, (4, 30, 1, 3, 7)), ("nothing excluded", 10, (9, 300, 33, 0, 8)),
        ("many items", 50, (37, 5000, 20, 10, 9)), ("few of many", 3, (70, 3000, 64, 10, 10)),
        ("tiny numbers", 8, (5, 200, 9, 5, 11, 1e-3)),
    ):  # fmt: skip
        users, items, exclude = given(*arguments)
        yield Sample(name, (users, items, k, exclude))
    users, items, exclude = given(8, 400, 3, 30, 12, 2.0)
    yield Sample("ties", (users.round(), items.round(), 60, exclude))
    for name, scale in (("a bias", 1.0), ("a bias that decides", 1e3)):
        users, items, exclude = given(9, 2000, 17, 20, 13)
        yield Sample(
            name, (users, items, 20, exclude), {"item_bias": randn(2000, seed=14, dtype=dtype, scale=scale)}
        )


def topk_bad_samples():
    users, items = randn(2, 4), randn(6, 4)
    pair = lambda indptr, indices: (torch.tensor(indptr), torch.tensor(indices, dtype=torch.int64))
    yield BadSample("k of -1", (users, items, -1), ValueError, "k >= 0; got int -1")
    yield BadSample("k of 2.0", (users, items, 2.0), TypeError, "k as an int")
    yield BadSample("widths differ", (users, randn(6, 3), 2), ValueError, "items of width 4")
    yield BadSample("dtypes differ", (users, items.double(), 2), TypeError, "items with the dtype of users")
    yield BadSample("three dimensions", (users[None], items, 2), ValueError, "users with 2 dimensions")
    yield BadSample(
        "excluded id of N", (users, items, 2, pair([0, 1, 2], [5, 6])), IndexError, r"\[0, 6\); got 6"
    )
    yield BadSample("excluded id of -1", (users, items, 2, pair([0, 1, 2], [-1, 3])), IndexError, "got -1")
    yield BadSample("unsorted", (users, items, 2, pair([0, 2, 2], [3, 1])), ValueError, "ascend")
    yield BadSample("indptr falls", (users, items, 2, pair([0, 2, 1], [3, 4])), ValueError, "expected")
    yield BadSample("rows of others", (users, items, 2, pair([0, 1], [3])), ValueError, "indptr of 3 entries")
    yield BadSample(
        "indptr too short", (users, items, 2, pair([0, 1, 1], [3, 4])), ValueError, "to end with 2"
    )
    yield BadSample("indptr from 1", (users, items, 2, pair([1, 1, 2], [3, 4])), ValueError, "begin with 0")
    yield BadSample("integer users", (users.long(), items, 2), TypeError, "users as a float32")
    for name, bias, error, match in (
        ("bias too short", randn(5), ValueError, "item_bias of 6 entries"),
        ("bias of another dtype", randn(6).double(), TypeError, "item_bias with the dtype of items"),
        ("bias a number", 1.0, TypeError, "item_bias as a float32"),
    ):
        yield BadSample(name, (users, items, 2), error, match, {"item_bias": bias})


def topk_oracle(users, items, k, exclude=None, item_bias=None, *, storage=torch.float64):
    scores = torch.zeros(len(users), len(items), dtype=torch.float64)
    for d in range(users.shape[1]):
        scores += users[:, d, None] * items[:, d]
    if item_bias is not None:
        scores += item_bias
    scores = scores if storage == torch.float64 else scores.float()
    rankable = scores > -torch.inf
    if exclude is not None:
        rows = torch.arange(len(users)).repeat_interleave(exclude[0].diff())
        rankable[rows, exclude[1]] = False
    ranked = scores.masked_fill(~rankable, -torch.inf)
    # Stable twice: what cannot be ranked goes behind everything that can, even behind -inf's neighbours.
    order = ranked.sort(dim=1, descending=True, stable=True).indices
    order = order.gather(1, (~rankable.gather(1, order)).byte().sort(dim=1, stable=True).indices)[:, :k]
    lengths = rankable.sum(1).clamp(max=k)
    found = torch.arange(order.shape[1]) < lengths[:, None]
    top = torch.full((len(users), k), -torch.inf, dtype=scores.dtype)
    best = torch.full((len(users), k), -1)
    top[:, : order.shape[1]] = scores.gather(1, order).masked_fill(~found, -torch.inf)
    best[:, : order.shape[1]] = order.masked_fill(~found, -1)
    return top, best, lengths


def topk_budget(dtype, expected, users, items, *_, item_bias=None):
    norms = torch.cat([items.double().norm(dim=1), torch.zeros(1)])  # index -1 finds the last, a zero
    sizes = users.double().norm(dim=1)[:, None] * norms[expected[1]]
    if item_bias is not None:
        sizes += torch.cat([item_bias.double().abs(), torch.zeros(1)])[expected[1]]
    return (unit(dtype, 0.0, 1e-14) * sizes,)


def topk_overload_calls(args, kwargs):
    users, items, k, exclude = args
    yield "inner_product_topk", (users, items, k, *(exclude or (None, None)), kwargs.get("item_bias"))


class ExactTopK(Case):
    """Its oracle must know whether scores are rounded to fp32."""

    def expected(self, *args, **kwargs):
        kwargs = {k: widened(v) for k, v in kwargs.items()}
        return topk_oracle(*map(widened, args), **kwargs, storage=args[0].dtype)


INNER_PRODUCT_TOPK = ExactTopK(
    op="inner_product_topk",
    samples=topk_samples,
    bad_samples=topk_bad_samples,
    oracle=topk_oracle,
    budget=topk_budget,
    overload_calls=topk_overload_calls,
    backend_tolerance={"rtol": 0, "atol": 0},
)

CASES = {
    case.op: case
    for case in (
        INNER_PRODUCT_TOPK,
        GATHERED_INNER_PRODUCT,
        *SAMPLER_CASES,
        PLACKETT_LUCE,
        EMBEDDING_PLACKETT_LUCE,
        *RELATION_CASES,
        *SCORE_CASES,
        *CATALOGUE_CASES,
        ROUTED_EXPERTS,
    )
}
