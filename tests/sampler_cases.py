"""Cases of the samplers: every backend gives the same draws."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch

from rankdistill.ops.checks import signed64
from tests.case import BadSample, Case, Sample, randint, randn


def reference(op: str) -> Callable:
    return getattr(importlib.import_module(f"rankdistill.reference.{op}"), op)


def position_samples(dtype):
    draw = {"seed": 2**63 + 5, "epoch": 3, "stream": 2}
    for name, (lengths, K, temperature) in {
        "plain": ([0, 3, 40, 300, 7], 8, 10.0),
        "flat": ([90, 90], 30, 1e4),
        "steep": ([90, 90], 30, 1e-2),
        "R = 0": ([], 4, 1.0),
        "K = 0": ([5, 6], 0, 1.0),
        "longest 0": ([0, 0], 3, 1.0),
    }.items():
        lengths = torch.tensor(lengths, dtype=torch.int64)
        yield Sample(name, (torch.arange(len(lengths)) * 7919, lengths, K, temperature), draw)


def position_bad_samples():
    users, lengths = torch.arange(2), torch.tensor([3, 4])
    draw = {"seed": 0}
    yield BadSample(
        "negative length",
        (users, torch.tensor([3, -1]), 2, 1.0),
        IndexError,
        r"lengths in .*got -1 at position \[1\]",
        draw,
    )
    yield BadSample("negative user", (users - 1, lengths, 2, 1.0), IndexError, "users in", draw)
    yield BadSample(
        "temperature 0", (users, lengths, 2, 0.0), ValueError, "temperature above 0; got float 0.0", draw
    )
    yield BadSample(
        "temperature NaN", (users, lengths, 2, float("nan")), ValueError, "finite temperature", draw
    )
    yield BadSample("negative K", (users, lengths, -2, 1.0), ValueError, "n_samples of 0 or more", draw)
    yield BadSample(
        "lengths of others", (users, lengths[:1], 2, 1.0), ValueError, "lengths with 2 rows, as users", draw
    )
    yield BadSample(
        "float users", (users.float(), lengths, 2, 1.0), TypeError, "users as a int64 tensor", draw
    )
    yield BadSample(
        "stream 256", (users, lengths, 2, 1.0), ValueError, "stream in", {"seed": 0, "stream": 256}
    )


def position_overload_calls(args, kwargs):
    yield "position_sample", (*args, *map(signed64, kwargs.values()))


POSITION_SAMPLE = Case(
    op="position_sample",
    samples=position_samples,
    bad_samples=position_bad_samples,
    oracle=lambda *args, **kwargs: reference("position_sample")(*args, *kwargs.values()),
    budget=lambda *_, **__: (),
    overload_calls=position_overload_calls,
    backend_tolerance={"rtol": 0, "atol": 0},
    dtypes=(torch.float32,),
)


def gumbel_samples(dtype):
    ids = torch.tensor([0, 7, 7, 2**32 - 1, 12345])
    parts = torch.tensor([0, 0, 1, 1, 0])
    draw = {"seed": 2**63 + 5, "epoch": 2**32 - 1, "step": (1 << 24) - 1, "stream": 255}
    for name, (rows, count, more) in {
        "plain": (ids, 30, {}),
        "parts": (ids, 6, {"parts": parts}),
        "longer than a group of blocks": (ids[:2], 131, {}),
        "strided": (ids.repeat_interleave(2)[::2], 4, {"parts": parts.repeat_interleave(2)[::2]}),
        "B = 0": (ids[:0], 4, {"parts": parts[:0]}),
        "count 0": (ids, 0, {}),
        "count 1": (ids, 1, {}),
    }.items():
        yield Sample(name, (rows, count), draw | more)


def gumbel_bad_samples():
    ids, draw = torch.arange(3), {"seed": 0}
    parts = torch.tensor([0, 1, 2])
    yield BadSample("negative id", (ids - 1, 4), IndexError, r"ids in .*got -1 at position \[0\]", draw)
    yield BadSample("part 2", (ids, 4), IndexError, "parts in .*got 2", draw | {"parts": parts})
    yield BadSample(
        "fewer parts", (ids, 4), ValueError, "parts with 3 rows, as ids", draw | {"parts": parts[:2]}
    )
    yield BadSample("negative count", (ids, -1), ValueError, "count of 0 to 4194304; got int -1", draw)
    yield BadSample("float ids", (ids.float(), 4), TypeError, "ids as a int64 tensor", draw)
    yield BadSample("stream 256", (ids, 4), ValueError, "stream in", draw | {"stream": 256})


def gumbel_order(args, kwargs):
    more = {"epoch": 0, "step": 0, "stream": 0, "parts": None} | kwargs
    return (
        args[0],
        more["parts"],
        args[1],
        *(signed64(more[key]) for key in ("seed", "epoch", "step", "stream")),
    )


def gumbel_overload_calls(args, kwargs):
    yield "gumbel_noise", gumbel_order(args, kwargs)


GUMBEL_NOISE = Case(
    op="gumbel_noise",
    samples=gumbel_samples,
    bad_samples=gumbel_bad_samples,
    oracle=lambda *args, **kwargs: reference("gumbel_noise")(*gumbel_order(args, kwargs)),
    budget=lambda dtype, outputs, *_, **__: (torch.zeros_like(outputs[0]),),
    overload_calls=gumbel_overload_calls,
    backend_tolerance={"rtol": 0, "atol": 0},
    dtypes=(torch.float32,),
)


def dropout_samples(dtype):
    ids = torch.tensor([0, 7, 7, 2**32 - 1, 12345])
    draw = {"seed": 2**63 + 5, "epoch": 2**32 - 1, "step": (1 << 24) - 1, "stream": 255}
    for name, args in {
        "plain": (ids, 5, 20, 0.2),
        "whole blocks": (ids, 2, 16, 0.5),
        "longer than a group of blocks": (ids[:2], 3, 131, 0.1),
        "strided": (ids.repeat_interleave(2)[::2], 4, 9, 0.3),
        "nothing dropped": (ids, 2, 3, 0.0),
        "all dropped": (ids, 2, 3, 1.0),
        "B = 0": (ids[:0], 4, 8, 0.5),
        "no masks": (ids, 0, 8, 0.5),
        "W = 0": (ids, 3, 0, 0.5),
        "W = 1": (ids, 3, 1, 0.5),
    }.items():
        yield Sample(name, args, draw)


def dropout_bad_samples():
    ids, draw = torch.arange(3), {"seed": 0}
    yield BadSample(
        "negative id", (ids - 1, 2, 4, 0.5), IndexError, r"ids in .*got -1 at position \[0\]", draw
    )
    yield BadSample("id of 2^32", (ids + 2**32, 2, 4, 0.5), IndexError, "got 4294967296", draw)
    yield BadSample("float ids", (ids.float(), 2, 4, 0.5), TypeError, "ids as a int64 tensor", draw)
    yield BadSample("negative masks", (ids, -1, 4, 0.5), ValueError, "n_masks of 0 or more", draw)
    yield BadSample("negative width", (ids, 2, -4, 0.5), ValueError, "width of 0 or more", draw)
    yield BadSample("too many draws", (ids, 2**31, 17, 0.5), ValueError, "of at most 2", draw)
    yield BadSample("share of 2", (ids, 2, 4, 2.0), ValueError, r"share_dropped in \[0, 1\]", draw)
    yield BadSample("stream 256", (ids, 2, 4, 0.5), ValueError, "stream in", draw | {"stream": 256})


def dropout_order(args, kwargs):
    more = {"epoch": 0, "step": 0, "stream": 0} | kwargs
    ids, n_masks, width, share = args
    least = round(share * 2**16)
    return ids, n_masks, width, least, *(signed64(more[key]) for key in ("seed", "epoch", "step", "stream"))


def dropout_overload_calls(args, kwargs):
    yield "dropout_mask", dropout_order(args, kwargs)


DROPOUT_MASK = Case(
    op="dropout_mask",
    samples=dropout_samples,
    bad_samples=dropout_bad_samples,
    oracle=lambda *args, **kwargs: reference("dropout_mask")(*dropout_order(args, kwargs)),
    budget=lambda *_, **__: (),
    overload_calls=dropout_overload_calls,
    backend_tolerance={"rtol": 0, "atol": 0},
    dtypes=(torch.float32,),
)


def complement_samples(dtype):
    indptr, indices = torch.tensor([0, 2, 2, 5]), torch.tensor([1, 4, 0, 1, 2])
    listed = torch.tensor([[0, 3], [-1, -1], [3, 5]], dtype=torch.int32)
    users = torch.tensor([2, 0, 1, 0])
    draw = {"seed": 77, "epoch": 1, "stream": 9}
    yield Sample("plain", (users, 40, 5, (indptr, indices), listed, torch.tensor([0, 5, 0, 9])), draw)
    yield Sample("exhausted", (users, 6, 5, (indptr, indices), listed, None), draw)
    yield Sample("nothing excluded", (users, 9, 3, None, None, None), draw)
    yield Sample("R = 0", (users[:0], 9, 3, (indptr, indices), None, None), draw)
    yield Sample("L = 0", (users, 9, 0, None, listed, None), draw)


def complement_bad_samples():
    users, exclude = torch.tensor([0, 1]), (torch.tensor([0, 1, 2]), torch.tensor([3, 4]))
    draw = {"seed": 0}
    yield BadSample(
        "user past the rows", (users + 1, 9, 2, exclude), IndexError, r"users in \[0, 2\); got 2", draw
    )
    yield BadSample(
        "excluded id of N", (users, 4, 2, exclude), IndexError, r"exclude indices in \[0, 4\); got 4", draw
    )
    yield BadSample(
        "unsorted",
        (users, 9, 2, (torch.tensor([0, 2, 2]), torch.tensor([4, 3]))),
        ValueError,
        "indices ascending",
        draw,
    )
    yield BadSample(
        "indptr too long",
        (users, 9, 2, (torch.tensor([0, 1, 3]), torch.tensor([4, 3]))),
        ValueError,
        "indptr to end with 2",
        draw,
    )
    yield BadSample(
        "indptr falls",
        (users, 9, 2, (torch.tensor([0, 2, 1, 2]), torch.tensor([3, 4]))),
        ValueError,
        "never falls",
        draw,
    )
    yield BadSample("exclude of one tensor", (users, 9, 2, users), TypeError, "exclude as", draw)
    yield BadSample(
        "listed of int64",
        (users, 9, 2, None, torch.zeros(2, 2, dtype=torch.int64)),
        TypeError,
        "listed as a int32",
        draw,
    )
    yield BadSample("negative N", (users, -1, 2), ValueError, "n_items in", draw)


def complement_overload_calls(args, kwargs):
    users, n_items, L, exclude, listed, positions = args
    yield (
        "complement_sample",
        (users, positions, n_items, L, *(exclude or (None, None)), listed, *kwargs.values()),
    )


def complement_oracle(users, n_items, L, exclude, listed, positions, **draw):
    return reference("complement_sample")(
        users, positions, n_items, L, *(exclude or (None, None)), listed, *draw.values()
    )


COMPLEMENT_SAMPLE = Case(
    op="complement_sample",
    samples=complement_samples,
    bad_samples=complement_bad_samples,
    oracle=complement_oracle,
    budget=lambda *_, **__: (),
    overload_calls=complement_overload_calls,
    backend_tolerance={"rtol": 0, "atol": 0},
    dtypes=(torch.float32,),
)


def pair_samples(dtype):
    draw = {"seed": 2**64 - 3, "epoch": 5, "stream": 255}
    for name, (lengths, K, temperature, distinct) in {
        "plain": ([0, 1, 2, 3, 40, 1000, 7], 6, 20.0, True),
        "tournament": ([0, 1, 2, 3, 40, 1000, 7], 6, 20.0, False),
        "flat": ([90, 91], 30, 1e9, True),
        "flat tournament": ([90, 91], 30, 1e9, False),
        "steep": ([90, 2], 30, 1e-3, True),
        "long lists": ([2**31 - 1, 2**31 - 1], 9, 1e6, True),
        "R = 0": ([], 4, 1.0, True),
        "K = 0": ([5, 6], 0, 1.0, False),
    }.items():
        lengths = torch.tensor(lengths, dtype=torch.int64)
        users = torch.arange(len(lengths)) * 7919
        yield Sample(name, (users, lengths, K, temperature, distinct, None), draw)
    yield Sample(
        "positions", (torch.tensor([4, 4]), torch.tensor([30, 30]), 5, 9.0, True, torch.tensor([0, 5])), draw
    )


def pair_bad_samples():
    users, lengths = torch.arange(2), torch.tensor([3, 4])
    draw = {"seed": 0}
    yield BadSample(
        "negative length",
        (users, torch.tensor([3, -1]), 2, 1.0),
        IndexError,
        r"lengths in .*got -1 at position \[1\]",
        draw,
    )
    yield BadSample("negative user", (users - 1, lengths, 2, 1.0), IndexError, "users in", draw)
    yield BadSample(
        "negative place",
        (users, lengths, 2, 1.0, True, torch.tensor([0, -4])),
        IndexError,
        "positions in .*got -4",
        draw,
    )
    yield BadSample("temperature 0", (users, lengths, 2, 0.0), ValueError, "temperature above 0", draw)
    yield BadSample(
        "temperature inf", (users, lengths, 2, float("inf")), ValueError, "finite temperature", draw
    )
    yield BadSample("negative K", (users, lengths, -2, 1.0), ValueError, "n_samples of 0 or more", draw)
    yield BadSample(
        "others' lengths", (users, lengths[:1], 2, 1.0), ValueError, "lengths with 2 rows, as users", draw
    )
    yield BadSample("no lengths", (users, None, 2, 1.0), TypeError, "lengths as a int64 tensor", draw)
    yield BadSample("stream -1", (users, lengths, 2, 1.0), ValueError, "stream in", {"seed": 0, "stream": -1})


def pair_schema_order(args, kwargs):
    users, lengths, K, temperature, distinct, positions = args
    return users, positions, lengths, K, temperature, distinct, *map(signed64, kwargs.values())


def pair_overload_calls(args, kwargs):
    yield "pair_sample", pair_schema_order(args, kwargs)


PAIR_SAMPLE = Case(
    op="pair_sample",
    samples=pair_samples,
    bad_samples=pair_bad_samples,
    oracle=lambda *args, **kwargs: reference("pair_sample")(*pair_schema_order(args, kwargs)),
    budget=lambda *_, **__: (),
    overload_calls=pair_overload_calls,
    backend_tolerance={"rtol": 0, "atol": 0},
    dtypes=(torch.float32,),
)


def weighted_samples(dtype):
    draw = {"seed": -9, "epoch": 2**32 - 1, "stream": 8}
    weights = randn(30, 70, seed=1, dtype=dtype).abs()
    weights[randint(0, 3, (30, 70), seed=2) == 0] = 0
    users = randint(0, 2**32, (30,), seed=3)
    yield Sample("plain", (users, weights, 9), draw)
    yield Sample("most are drawn", (users, weights, 60), draw)
    yield Sample("extremes", (users, weights * 1e30 * torch.finfo(dtype).tiny, 9), draw)
    small, large = torch.finfo(dtype).tiny * 8, torch.finfo(dtype).max / 16
    yield Sample("smallest", (users, (weights * small).where(weights * small >= small / 8, 0.0), 9), draw)
    yield Sample("largest", (users, weights * large, 9), draw)
    beside = torch.full((30, 70), large, dtype=dtype)
    beside[:, :35] = small
    yield Sample("smallest beside largest", (users, beside, 40), draw)
    skewed = (5 * randn(6, 700, seed=4, dtype=dtype)).exp()
    yield Sample("skewed, far more than are drawn", (users[:6], skewed, 40), draw)
    yield Sample("equal weights", (users, torch.ones(30, 70, dtype=dtype), 9), draw)
    yield Sample("all zero", (users, torch.zeros(30, 5, dtype=dtype), 3), draw)
    yield Sample("M = 0", (users, torch.zeros(30, 0, dtype=dtype), 3), draw)
    yield Sample("K = 0", (users, weights, 0), draw)
    yield Sample("R = 0", (users[:0], weights[:0], 3), draw)


def weighted_bad_samples():
    users, weights = torch.arange(2), torch.ones(2, 4)
    draw = {"seed": 0}
    for name, value in (("negative", -1.0), ("NaN", float("nan")), ("infinite", float("inf"))):
        bad = weights.clone()
        bad[1, 2] = value
        yield BadSample(
            f"a weight that is {name}",
            (users, bad, 2),
            ValueError,
            rf"weights in \[0, inf\); got {value} at position \[1, 2\]",
            draw,
        )
    yield BadSample("negative user", (users - 1, weights, 2), IndexError, "users in", draw)
    yield BadSample("rows differ", (users, weights[:1], 2), ValueError, "weights with 2 rows", draw)
    yield BadSample("fp16 weights", (users, weights.half(), 2), TypeError, "weights as a float32 or", draw)
    yield BadSample("one dimension", (users, weights[0], 2), ValueError, "weights with 2 dimensions", draw)
    yield BadSample("negative K", (users, weights, -1), ValueError, "n_samples of 0 or more", draw)


def weighted_overload_calls(args, kwargs):
    yield "weighted_sample", (*args, *map(signed64, kwargs.values()))


WEIGHTED_SAMPLE = Case(
    op="weighted_sample",
    samples=weighted_samples,
    bad_samples=weighted_bad_samples,
    oracle=lambda *args, **kwargs: reference("weighted_sample")(*args, *kwargs.values()),
    budget=lambda *_, **__: (),
    overload_calls=weighted_overload_calls,
    backend_tolerance={"rtol": 0, "atol": 0},
    dtypes=(torch.float32, torch.float64),
)

SAMPLER_CASES = (POSITION_SAMPLE, GUMBEL_NOISE, DROPOUT_MASK, COMPLEMENT_SAMPLE, PAIR_SAMPLE, WEIGHTED_SAMPLE)
