"""Cases of the ops on given scores, and of ranks: masked_topk, masked_rank, inner_product_rank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tests.case import BadSample, Case, Sample, generator, randint, randn, widened

NAN, INF = float("nan"), float("inf")


def lists_of(mask: Tensor, repeats: int = 1) -> tuple[Tensor, Tensor]:
    """The mask's columns by row as CSR, each listed `repeats` times."""
    counts = torch.cat([torch.zeros(1).long(), mask.sum(1).cumsum(0)])
    return counts * repeats, mask.nonzero()[:, 1].repeat_interleave(repeats)


def ordered(scores: Tensor, exclude: object = None) -> tuple[Tensor, Tensor]:
    """The columns [B, N] in the contract's order, those that cannot be ranked last, and how many can be."""
    rankable = scores > -torch.inf
    if isinstance(exclude, Tensor):
        rankable = rankable & ~exclude
    elif exclude is not None:
        rows = torch.arange(len(scores)).repeat_interleave(exclude[0].diff())
        rankable[rows, exclude[1]] = False
    falling = torch.where(rankable, -scores, torch.zeros((), dtype=scores.dtype)).numpy()
    columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.lexsort((columns, falling, ~rankable.numpy()), axis=1)
    return torch.from_numpy(order), rankable.sum(1)


def topk_of(scores: Tensor, k: int, exclude: object = None) -> tuple[Tensor, Tensor, Tensor]:
    order, rankable = ordered(scores, exclude)
    lengths, kept = rankable.clamp(max=k), order[:, :k]
    found = torch.arange(kept.shape[1]) < lengths[:, None]
    top = torch.full((len(scores), k), -torch.inf, dtype=scores.dtype)
    indices = torch.full((len(scores), k), -1)
    top[:, : kept.shape[1]] = torch.where(found, scores.gather(1, kept), -torch.inf)
    indices[:, : kept.shape[1]] = torch.where(found, kept, -1)
    return top, indices, lengths


def ranks_of(scores: Tensor, item_ids: Tensor, exclude: object = None) -> Tensor:
    order, rankable = ordered(scores, exclude)
    positions = torch.arange(scores.shape[1]).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, positions)
    ranks = torch.cat(
        [torch.where(ranks < rankable[:, None], ranks, -1), torch.full((len(scores), 1), -1)], 1
    )
    return ranks.gather(1, torch.where(item_ids < 0, scores.shape[1], item_ids))


def exact_scores(users: Tensor, items: Tensor, item_bias: Tensor | None, storage: torch.dtype) -> Tensor:
    """[B, N] the fp64 sums, in index order, rounded once unless the tables are fp64; of widened tables."""
    scores = torch.zeros(len(users), len(items), dtype=torch.float64)
    for d in range(users.shape[1]):
        scores += users[:, d, None] * items[:, d]
    if item_bias is not None:
        scores += item_bias
    return scores if storage == torch.float64 else scores.float().double()


def given_scores(dtype):
    """(name, scores, exclude) of the shapes and contents that an op on given scores must bear."""
    for name, (B, N, excluded) in {
        "plain": (6, 40, 4), "nothing excluded": (9, 300, 0), "B = 0": (0, 9, 0), "N = 0": (4, 0, 0),
        "N = 1": (3, 1, 0.5), "a word": (5, 64, 9), "longer than a step": (7, 5000, 50), "long": (2, 20_000, 900),
    }.items():  # fmt: skip
        mask = torch.rand(B, N, generator=generator(2)) < excluded / max(N, 1)
        yield name, randn(B, N, seed=1, dtype=dtype), lists_of(mask, 2) if excluded else None
    mask = torch.rand(5, 700, generator=generator(3)) < torch.tensor([0.0, 0.1, 0.5, 0.99, 1.0])[:, None]
    scores = randn(5, 700, seed=4, dtype=dtype, scale=3)
    yield "a mask", scores, mask
    yield "ties", scores.round(), mask
    strange = torch.tensor([NAN, INF, -INF, 0.0, -0.0, -1.0])[randint(0, 6, (5, 700), seed=5)].to(dtype)
    yield "what cannot be ranked", strange, lists_of(mask)


def masked_topk_samples(dtype):
    for name, scores, exclude in given_scores(dtype):
        yield Sample(name, (scores, 7, exclude))
    yield Sample("K = 0", (randn(3, 9, dtype=dtype), 0, None))
    yield Sample("K > N", (randn(3, 9, dtype=dtype), 12, None))
    yield Sample("a third of a row", (randn(3, 6000, seed=6, dtype=dtype), 2000, None))


def masked_rank_samples(dtype):
    for name, scores, exclude in given_scores(dtype):
        B, N = scores.shape
        item_ids = randint(-1, N, (B, 5), seed=7) if N else torch.full((B, 5), -1)
        yield Sample(name, (scores, item_ids, exclude))
    yield Sample("K = 0", (randn(3, 9, dtype=dtype), torch.empty((3, 0), dtype=torch.int64), None))
    many = randint(-1, 900, (4, 600), seed=8)
    yield Sample("many of a row", (randn(4, 900, seed=9, dtype=dtype, scale=2).round(), many, None))


def bad_exclusions(arguments: tuple) -> list[BadSample]:
    """Of an op whose arguments, for scores or users of 2 rows and 6 items, end with what is excluded."""
    pair = lambda indptr, indices: (torch.tensor(indptr), torch.tensor(indices, dtype=torch.int64))
    return [
        BadSample(name, (*arguments, exclude), error, match)
        for name, exclude, error, match in (
            ("excluded id of N", pair([0, 1, 2], [5, 6]), IndexError, r"\[0, 6\); got 6 at position \[1\]"),
            ("excluded id of -1", pair([0, 1, 2], [-1, 3]), IndexError, "got -1 at position"),
            ("unsorted", pair([0, 2, 2], [3, 1]), ValueError, "ascending within a row; got 1 after 3"),
            ("indptr falls", pair([0, 2, 1], [3, 4]), ValueError, "never descends; got 1 after 2"),
            ("rows of others", pair([0, 1], [3]), ValueError, "indptr of 3 entries"),
            ("indptr too short", pair([0, 1, 1], [3, 4]), ValueError, "to end with 2"),
            ("indptr from 1", pair([1, 1, 2], [3, 4]), ValueError, "begin with 0"),
            ("exclude a number", 3, TypeError, r"exclude as \(indptr, indices\)"),
        )
    ]


def bad_masks(scores: Tensor, *arguments) -> list[BadSample]:
    return [
        BadSample(
            "mask of another shape", (scores, *arguments, scores[:1] > 0), ValueError, "exclude of shape"
        ),
        BadSample("mask of bytes", (scores, *arguments, (scores > 0).byte()), TypeError, "exclude as a bool"),
        BadSample("integer scores", (scores.long(), *arguments), TypeError, "scores as a float32"),
        BadSample("three dimensions", (scores[None], *arguments), ValueError, "scores with 2 dimensions"),
    ]


def masked_topk_bad_samples():
    scores = randn(2, 6)
    yield from bad_exclusions((scores, 2))
    yield from bad_masks(scores, 2)
    yield BadSample("k of -1", (scores, -1), ValueError, "k >= 0; got int -1")
    yield BadSample("k of 2.0", (scores, 2.0), TypeError, "k as an int")
    yield BadSample("k of True", (scores, True), TypeError, "k as an int")


def bad_item_ids(*arguments) -> list[BadSample]:
    item_ids = torch.tensor([[0, 5], [1, -1]])
    return [
        BadSample(name, (*arguments, ids), error, match)
        for name, ids, error, match in (
            ("item of N", item_ids + 1, IndexError, r"item_ids in \[-1, 6\); got 6 at position \[0, 1\]"),
            ("item of -2", item_ids - 1, IndexError, r"item_ids in \[-1, 6\); got -2 at position \[1, 1\]"),
            ("items of int32", item_ids.int(), TypeError, "item_ids as a int64"),
            ("items of other rows", item_ids[:1], ValueError, "item_ids with 2 rows"),
            ("items in one dimension", item_ids[0], ValueError, "item_ids with 2 dimensions"),
        )
    ]


def masked_rank_bad_samples():
    scores, item_ids = randn(2, 6), torch.tensor([[0, 5], [1, -1]])
    yield from bad_item_ids(scores)
    yield from bad_exclusions((scores, item_ids))
    yield from bad_masks(scores, item_ids)


def given_overload_calls(op):
    def calls(args, kwargs):
        scores, second, exclude = args
        mask = exclude if isinstance(exclude, Tensor) else None
        lists = (None, None) if exclude is None or mask is not None else exclude
        yield op, (scores, second, *lists, mask)

    return calls


def no_error(dtype, expected, *_, **__):
    return tuple(torch.zeros_like(e) for e in expected if e.is_floating_point())


MASKED_TOPK = Case(
    op="masked_topk",
    samples=masked_topk_samples,
    bad_samples=masked_topk_bad_samples,
    oracle=topk_of,
    budget=no_error,
    overload_calls=given_overload_calls("masked_topk"),
    backend_tolerance={"rtol": 0, "atol": 0},
)

MASKED_RANK = Case(
    op="masked_rank",
    samples=masked_rank_samples,
    bad_samples=masked_rank_bad_samples,
    oracle=ranks_of,
    budget=no_error,
    overload_calls=given_overload_calls("masked_rank"),
    backend_tolerance={"rtol": 0, "atol": 0},
)


def inner_product_rank_samples(dtype):
    for name, (B, N, D, K, excluded, scale) in {
        "plain": (6, 40, 7, 3, 4, 1.0), "nothing excluded": (9, 300, 33, 5, 0, 1.0), "B = 0": (0, 9, 4, 2, 0, 1.0),
        "N = 0": (4, 0, 5, 2, 0, 1.0), "K = 0": (3, 9, 4, 0, 2, 1.0), "D = 0": (4, 9, 0, 3, 2, 1.0),
        "D = 1": (4, 30, 1, 4, 3, 1.0), "many items": (37, 5000, 20, 4, 10, 1.0),
        "many of a row": (5, 900, 12, 400, 10, 1.0), "wide": (40, 500, 128, 2, 5, 1.0),
        "tiny numbers": (5, 200, 9, 5, 11, 1e-3),
    }.items():  # fmt: skip
        users, items = randn(B, D, seed=1, dtype=dtype), randn(N, D, seed=2, dtype=dtype, scale=scale)
        item_ids = randint(-1, N, (B, K), seed=3) if N else torch.full((B, K), -1)
        mask = torch.rand(B, N, generator=generator(4)) < excluded / max(N, 1)
        yield Sample(name, (users, items, item_ids, lists_of(mask, 2) if excluded else None))
    users, items = (randn(n, 3, seed=n, dtype=dtype, scale=2).round() for n in (8, 400))
    item_ids = randint(-1, 400, (8, 20), seed=5)
    yield Sample("ties", (users, items, item_ids, None))
    for name, scale in (("a bias", 1.0), ("a bias that decides", 1e3)):
        bias = randn(400, seed=6, dtype=dtype, scale=scale)
        yield Sample(name, (users, items, item_ids, None), {"item_bias": bias})


def inner_product_rank_bad_samples():
    users, items, item_ids = randn(2, 4), randn(6, 4), torch.tensor([[0, 5], [1, -1]])
    yield from bad_item_ids(users, items)
    yield from bad_exclusions((users, items, item_ids))
    yield BadSample("widths differ", (users, randn(6, 3), item_ids), ValueError, "items of width 4")
    yield BadSample("dtypes differ", (users, items.double(), item_ids), TypeError, "the dtype of users")
    yield BadSample("integer users", (users.long(), items, item_ids), TypeError, "users as a float32")
    yield BadSample(
        "a mask", (users, items, item_ids, users > 0), TypeError, r"exclude as \(indptr, indices\)"
    )
    for name, bias, error, match in (
        ("bias too short", randn(5), ValueError, "item_bias of 6 entries"),
        ("bias of another dtype", randn(6).double(), TypeError, "item_bias with the dtype of items"),
    ):
        yield BadSample(name, (users, items, item_ids), error, match, {"item_bias": bias})


def inner_product_rank_oracle(users, items, item_ids, exclude=None, item_bias=None, *, storage=torch.float64):
    return ranks_of(exact_scores(users, items, item_bias, storage), item_ids, exclude)


def inner_product_rank_overload_calls(args, kwargs):
    users, items, item_ids, exclude = args
    lists = exclude or (None, None)
    yield "inner_product_rank", (users, items, item_ids, *lists, kwargs.get("item_bias"))


class ExactRank(Case):
    """Its oracle must know whether scores are rounded to fp32."""

    def expected(self, *args, **kwargs):
        kwargs = {k: widened(v) for k, v in kwargs.items()}
        return (inner_product_rank_oracle(*map(widened, args), **kwargs, storage=args[0].dtype),)


INNER_PRODUCT_RANK = ExactRank(
    op="inner_product_rank",
    samples=inner_product_rank_samples,
    bad_samples=inner_product_rank_bad_samples,
    oracle=inner_product_rank_oracle,
    budget=no_error,
    overload_calls=inner_product_rank_overload_calls,
    backend_tolerance={"rtol": 0, "atol": 0},
)

SCORE_CASES = (MASKED_TOPK, MASKED_RANK, INNER_PRODUCT_RANK)
