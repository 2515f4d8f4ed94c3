"""Run with TRITON_INTERPRET=1: the Triton steps of the lazy optimisers against their reference on the processor."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import tests.ops.triton_interpreter  # noqa: F401 - mends the interpreter
from rankdistill.ops.lazy_update import REFERENCE, TRITON
from tests.case import randint, randn

DEVICE = torch.device(sys.argv[1])
N = 300
SHAPES = ((N, 19), (N,), (N, 64), (N, 3, 5), (N, 600), (N, 1))
FAULTY = (-1, N, -(2**40), 2**40)


def there(values: tuple) -> tuple:
    return tuple(v.clone().to(DEVICE) if isinstance(v, Tensor) else v for v in values)


def arguments(what: str, dtype: torch.dtype, shape: tuple[int, ...]) -> tuple:
    """The first two or three are written."""
    ids = torch.randperm(N, generator=torch.Generator().manual_seed(6))[:210]
    marks = -randint(0, 4, (N,), seed=4).double() / 10
    grads = randn(len(ids), *shape[1:], seed=3, dtype=dtype)
    table, means = (randn(*shape, seed=s, dtype=dtype) for s in (0, 1))
    return {
        "adam": (table, means, randn(*shape, seed=2, dtype=dtype).abs(), ids, grads, 0.9, 0.99, 0.0123, 1e-8),
        "sgd": (table, marks, ids, grads, 0.0123, 0.9, -0.3, -0.5),
        "catch_up": (table, marks, torch.stack([ids, ids.flip(0), ids.clone().fill_(-1)]), -0.3),
        "catch_up of all": (table, marks, None, -0.3),
    }[what]


def written(what: str) -> int:
    return 3 if what == "adam" else 2


def function(what: str) -> str:
    return what.removesuffix(" of all")


def check(what: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Values as the reference's, in the table's dtype and with settings in full; other rows and inputs keep their bits."""
    given = arguments(what, dtype, shape)
    found, wanted = there(given), tuple(v.clone() if isinstance(v, Tensor) else v for v in given)
    TRITON[function(what)](*found)
    REFERENCE[function(what)](*wanted)
    # Entries near zero are differences.
    tolerance = {"rtol": 2e-6, "atol": 2e-7} if dtype == torch.float32 else {"rtol": 1e-14, "atol": 1e-15}
    for ours, right in zip(found[: written(what)], wanted[: written(what)], strict=True):
        torch.testing.assert_close(ours.cpu(), right, **tolerance)
    rest = torch.ones(N, dtype=torch.bool)
    rest[given[written(what)]] = what.endswith("of all")
    for ours, before in zip(found, given, strict=True):
        if isinstance(before, Tensor):
            same = torch.equal(ours.cpu(), before)
            assert same != any(before is g for g in given[: written(what)]), what
            if len(before) == N and what != "catch_up of all":
                assert torch.equal(ours.cpu()[rest], before[rest]), what
    print("checked", what, dtype, shape)


def check_faulty(what: str) -> None:
    """An id out of range touches nothing, and the others' bits are as without it; so are they from strided views."""
    given = arguments(what, torch.float32, (N, 5))
    first = written(what)
    clean = there(given)
    TRITON[what](*clean)
    ids = given[first]
    faulty = list(given)
    extra = torch.tensor(FAULTY).expand(*ids.shape[:-1], len(FAULTY))
    faulty[first] = torch.cat([ids[..., :7], extra, ids[..., 7:]], -1).t().contiguous().t()
    if what != "catch_up":
        grads = given[first + 1]
        grads = torch.cat([grads[:7], torch.full((len(FAULTY), 5), torch.nan), grads[7:]])
        faulty[first + 1] = grads.t().contiguous().t()
    found = there(tuple(faulty))
    TRITON[what](*found)
    for ours, right in zip(found[:first], clean[:first], strict=True):
        assert torch.equal(ours, right), what
    print("checked faulty ids of", what)


def check_nothing(what: str) -> None:
    for shape, n_ids in (((N, 5), 0), ((N, 0), 4), ((0, 5), 4)):
        given = list(arguments(what, torch.float32, (N, 5)))
        first = written(what)
        for i in range(first):
            given[i] = given[i][: shape[0]]
            if given[i].dim() == 2:
                given[i] = given[i][:, : shape[1]].contiguous()
        given[first] = given[first].flatten()[:n_ids]
        if what != "catch_up":
            given[first + 1] = given[first + 1][:n_ids, : shape[1]]
        found = there(tuple(given))
        TRITON[what](*found)
        assert all(torch.equal(f.cpu(), g) for f, g in zip(found[:1], given[:1], strict=True))
    print("checked nothing to do for", what)


def check_weak_decay(marked: bool) -> None:
    """1 - 2.5e-8 is 1 in float32; roundings of rows that start at 1 average out over their gradients."""
    decay, grads = 2.5e-8, torch.rand(N, 64, generator=torch.Generator().manual_seed(0)) * 2**-21
    marks = torch.zeros(N, dtype=torch.float64) if marked else None
    given = there((torch.ones(N, 64), marks, torch.arange(N), grads, 1.0, 1 - decay, 0.0, -decay))
    TRITON["sgd"](*given)
    lost = (1 - given[0].cpu().double() - grads.double()).mean()
    torch.testing.assert_close(float(lost), decay, rtol=0.05, atol=0)
    assert not marked or bool((given[1] == -decay).all())
    print("checked weak decay", "with marks" if marked else "without marks")


def check_strong_decay(dtype: torch.dtype) -> None:
    """Also where less than half of a row is left."""
    for missed in (0.1, 0.69, 0.7, 20.0):
        given = there((randn(N, 5, dtype=dtype), torch.zeros(N, dtype=torch.float64), None, -missed))
        right = given[0].double() * torch.tensor(-missed, dtype=torch.float64).exp()
        TRITON["catch_up"](*given)
        tolerance = 2e-7 if dtype == torch.float32 else 1e-15
        torch.testing.assert_close(given[0].double(), right, rtol=tolerance, atol=0)
    print("checked strong decay", dtype)


if __name__ == "__main__":
    assert sys.argv[2] == "lazy_update"
    for step in ("adam", "sgd", "catch_up", "catch_up of all"):
        for storage in (torch.float32, torch.float64):
            for size in SHAPES:
                check(step, storage, size)
    for step in ("adam", "sgd", "catch_up"):
        check_faulty(step)
        check_nothing(step)
    for marked in (True, False):
        check_weak_decay(marked)
    for storage in (torch.float32, torch.float64):
        check_strong_decay(storage)
