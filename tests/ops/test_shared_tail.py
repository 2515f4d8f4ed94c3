"""embedding_plackett_luce with a tail that all rows share: what it is without one, and against the float64 oracle."""

from __future__ import annotations

import pytest
import torch

from rankdistill import embedding_plackett_luce
from tests.case import DTYPES, randint, randn, storage_rounding, unit, widened
from tests.cases import CASES, embedding_oracle, luce_grad_budget

CASE = CASES["embedding_plackett_luce"]


def repeated(item_ids, tail_ids):
    return torch.cat([item_ids, tail_ids.expand(len(item_ids), -1)], dim=1)


def made(dtype, B=9, K=6, own=0, L=70, biased=True, by_id=True, N=300, D=20):
    """users, items, item_biases and, for keywords, the rest; ids repeat, in the tail and between it and the lists."""
    users, items = (
        randn(7 if by_id else B, D, seed=1, dtype=dtype, scale=0.5),
        randn(N, D, seed=2, dtype=dtype, scale=0.5),
    )
    lists = {
        "lengths": randint(0, K + 1, (B,), seed=3),
        "user_ids": randint(0, 7, (B,), seed=4) if by_id else None,
    }
    ids, tail = randint(0, N // 2, (B, K + own), seed=5), randint(0, N // 2, (L,), seed=6)
    if own:
        ids[0, K:] = -1
    return users, items, randn(N, seed=7, dtype=dtype) if biased else None, ids, K, tail, lists


SHAPES = {
    "plain": {},
    "no bias, users as rows": {"biased": False, "by_id": False},
    "a tail of their own too": {"own": 5},
    "an empty tail": {"L": 0},
    "L = 1": {"L": 1},
    "K = 0": {"K": 0},
    "B = 0": {"B": 0},
    "a user in many rows": {"B": 600, "K": 2},
}


def differentiated(function, users, items, bias, seed):
    """The losses, and their gradients by the three tables."""
    tables = [None if t is None else t.detach().clone().requires_grad_() for t in (users, items, bias)]
    losses = function(*tables)
    given = [t for t in tables if t is not None]
    return losses.detach(), *torch.autograd.grad(losses, given, seed.to(losses.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_are_the_oracles(dtype, name):
    users, items, bias, ids, K, tail, lists = made(dtype, **SHAPES[name])
    every, seed = repeated(ids, tail), randn(len(ids), seed=9)

    def ours(sparse):
        return lambda users, items, bias: embedding_plackett_luce(
            users, items, ids, K, item_bias=bias, sparse_grad=sparse, tail_ids=tail, **lists
        )

    tables = users, items, bias
    found = differentiated(ours(False), *tables, seed)
    of_lists = lambda users, items, bias: embedding_oracle(users, items, every, K, item_bias=bias, **lists)
    wanted = differentiated(of_lists, *map(widened, tables), seed)
    (budget,) = CASE.budget(dtype, wanted)
    assert ((found[0] - wanted[0]).abs() <= budget).all()
    for grad, expected in zip(found[1:], wanted[1:], strict=True):
        # Of half-precision tables three roundings, two of them of parts that may be larger than what they add up to.
        budget = luce_grad_budget(dtype, expected) + 4 * storage_rounding(dtype) * (1 + expected.abs())
        assert ((grad.double() - expected).abs() <= budget).all()
    sparse = differentiated(ours(True), *tables, seed)
    for grad, dense in zip(sparse[1:], found[1:], strict=True):
        assert grad.layout == (
            torch.strided if dense.shape == users.shape and lists["user_ids"] is None else torch.sparse_coo
        )
        if grad.is_sparse:
            assert grad.is_coalesced()
            grad = grad.to_dense()
        assert torch.equal(grad, dense)


def test_a_sparse_gradient_holds_what_is_listed_alone():
    users, items, _, ids, K, tail, lists = made(torch.float32)
    lists["lengths"][:] = 3
    items.requires_grad_()
    losses = embedding_plackett_luce(users, items, ids, K, sparse_grad=True, tail_ids=tail, **lists)
    (grad,) = torch.autograd.grad(losses.sum(), items)
    assert torch.equal(grad.indices()[0], torch.cat([ids[:, :3].flatten(), tail]).unique())


def test_half_precision_is_accumulated_in_fp32():
    """4096 equal items: their shared sum would stop growing in fp16 or bf16."""
    for dtype in (torch.float16, torch.bfloat16):
        users, items = torch.zeros(3, 4, dtype=dtype), torch.zeros(5, 4, dtype=dtype)
        losses = embedding_plackett_luce(
            users, items, torch.zeros(3, 1).long(), 1, tail_ids=torch.ones(4096).long()
        )
        torch.testing.assert_close(
            losses, torch.full((3,), 4097.0).log(), rtol=2 * unit(dtype, 1e-6, 0), atol=0
        )


def test_compiles_as_one_graph():
    users, items, bias, ids, K, tail, lists = made(torch.float32)
    call = lambda users, items, bias: embedding_plackett_luce(
        users, items, ids, K, item_bias=bias, tail_ids=tail, **lists
    )
    seed = randn(len(ids), seed=9)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for found, wanted in zip(
        differentiated(compiled, users, items, bias, seed),
        differentiated(call, users, items, bias, seed),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("tail", "error", "match"),
    [
        (torch.tensor([1, 5]), IndexError, r"tail_ids in \[0, 5\); got 5 at position \[1\]"),
        (torch.tensor([-1]), IndexError, r"tail_ids in \[0, 5\); got -1 at position \[0\]"),
        (torch.tensor([[1]]), ValueError, "tail_ids with 1 dimensions"),
        (torch.tensor([1]).int(), TypeError, "tail_ids as a int64 tensor"),
    ],
)
def test_bad_tails_are_clear_errors(tail, error, match):
    with pytest.raises(error, match=match):
        embedding_plackett_luce(randn(3, 4), randn(5, 4), randint(0, 5, (3, 2)), 2, tail_ids=tail)


def test_bad_lists_are_the_errors_they_are_without_a_shared_tail():
    tail = torch.tensor([1])
    for bad in CASE.bad_samples():
        with pytest.raises(bad.error, match=bad.match):
            embedding_plackett_luce(*bad.args, **bad.kwargs, tail_ids=tail)
