"""Gradients of touched rows: the dense ones' bits, coalesced, whatever the backend; eager only."""

from __future__ import annotations

import pytest
import torch

from rankdistill import embedding_plackett_luce, gathered_inner_product
from rankdistill.ops.registration import CHOICES
from rankdistill.ops.touched_rows import coalesce_rows
from tests.case import DTYPES, randint, randn
from tests.cases import CASES

OPS = ("gathered_inner_product", "embedding_plackett_luce")
U, N, D, B, K = 9, 4000, 37, 300, 11


def inputs(dtype=torch.float32, bias=True, seed=1):
    """Repeated items and users, absent items, and users who occur once, often or never."""
    tables = (
        randn(U, D, seed=seed, dtype=dtype, scale=0.3),
        randn(N, D, seed=seed + 1, dtype=dtype, scale=0.3),
    )
    ids = torch.where(
        randint(0, 2, (B, K), seed=7) > 0, randint(0, N, (B, K), seed=8), randint(0, 5, (B, K), seed=9)
    )
    ids[randint(0, 9, (B, K), seed=10) == 0] = -1
    given = [*tables, randn(N, seed=seed + 2, dtype=dtype) if bias else None]
    return [None if t is None else t.requires_grad_() for t in given], ids, randint(0, U - 1, (B,), seed=11)


def calls(op, ids, user_ids, *, list_size=4):
    if op == "gathered_inner_product":
        return lambda users, items, bias, sparse: gathered_inner_product(
            users, items, ids, user_ids, bias, sparse
        )
    listed = ids.clone()
    listed[:, :list_size] = listed[:, :list_size].clamp_min(0)
    return lambda users, items, bias, sparse: embedding_plackett_luce(
        users, items, listed, list_size, None, user_ids, bias, sparse
    )


def grads_of(call, tables, sparse):
    outputs = call(*tables, sparse)
    seed = randn(*outputs.shape, seed=5).masked_fill(~outputs.detach().isfinite(), 0).to(outputs.dtype)
    return torch.autograd.grad(outputs, [t for t in tables if t is not None], seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_sparse_gradient_is_the_dense_ones_touched_rows(op, dtype, bias):
    tables, ids, user_ids = inputs(dtype, bias)
    call = calls(op, ids, user_ids)
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            dense, sparse = grads_of(call, tables, False), grads_of(call, tables, True)
        finally:
            torch.set_num_threads(2)
        for wanted, found in zip(dense, sparse, strict=True):
            assert found.layout == torch.sparse_coo
            assert found.is_coalesced()
            assert found.dtype == wanted.dtype
            touched = found._indices()[0]
            assert (touched.diff() > 0).all()
            assert torch.equal(found.to_dense(), wanted), "other bits than the dense gradient's"
        expected = torch.unique(ids[ids >= 0] if op == OPS[0] else torch.cat([ids[:, :4].clamp_min(0).flatten(), ids[:, 4:][ids[:, 4:] >= 0]]))  # fmt: skip
        assert torch.equal(sparse[1]._indices()[0], expected)
        assert torch.equal(sparse[0]._indices()[0], user_ids.unique())


@pytest.mark.parametrize("op", OPS)
def test_users_as_rows_keep_a_dense_gradient(op):
    (_, items, bias), ids, _ = inputs()
    rows = randn(B, D, seed=3).requires_grad_()
    grad_rows, grad_items, grad_bias = grads_of(calls(op, ids, None), (rows, items, bias), True)
    assert grad_rows.layout == torch.strided
    assert grad_items.is_sparse
    assert grad_bias.is_sparse
    assert torch.equal(grad_rows, grads_of(calls(op, ids, None), (rows, items, bias), False)[0])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (2, 4)])
def test_nothing_touched_is_a_gradient_without_rows(op, shape):
    tables, _, _ = inputs()
    ids = torch.full(shape, -1)
    user_ids = torch.zeros(shape[0], dtype=torch.int64)
    if op == OPS[0]:
        outputs = gathered_inner_product(tables[0], tables[1], ids, user_ids, tables[2], True)
    else:
        outputs = embedding_plackett_luce(tables[0], tables[1], ids, 0, None, user_ids, tables[2], True)
    grads = torch.autograd.grad(outputs, tables, torch.ones_like(outputs))
    assert grads[1]._nnz() == grads[2]._nnz() == 0
    assert grads[0]._nnz() == min(shape[0], 1)
    assert (grads[0].to_dense() == 0).all()


def test_ids_past_a_list_touch_no_row():
    (users, items, _), ids, user_ids = inputs()
    ids, lengths = ids.clamp_min(0), randint(0, 5, (B,), seed=4)
    counted = ids.masked_fill((torch.arange(K) < 4) & (torch.arange(K) >= lengths[:, None]), -1)
    loss = embedding_plackett_luce(users, items, ids, 4, lengths, user_ids, sparse_grad=True).sum()
    (grad,) = torch.autograd.grad(loss, items)
    assert torch.equal(grad._indices()[0], counted[counted >= 0].unique())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("with_users", [True, False])
def test_every_backend_has_the_same_sparse_gradients(op, with_users):
    (users, items, bias), ids, user_ids = inputs(torch.float64)
    users, items, bias = users.detach(), items.detach(), bias.detach()
    if not with_users:
        users, user_ids = randn(B, D, seed=3, dtype=torch.float64), None
    if op == OPS[0]:
        args = (randn(B, K, seed=6, dtype=torch.float64), users, user_ids, items, ids, bias)
    else:
        ids = ids.clamp_min(0)
        module = CASES[op].module
        _, *slopes = module.REFERENCE["forward"](users, user_ids, items, ids, None, 4, True, bias, True)
        args = (randn(B, seed=6, dtype=torch.float64), users, user_ids, items, ids, *slopes, bias)
    module = CASES[op].module
    for found, wanted in zip(
        module.NATIVE["sparse_backward"](*args), module.REFERENCE["sparse_backward"](*args), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    assert CHOICES[op, "CPU"].backend in ("native", "reference")


def test_the_reference_never_reads_an_id_out_of_range():
    reference = CASES[OPS[0]].module.REFERENCE["sparse_backward"]
    users, items = randn(3, 4, seed=1), randn(5, 4, seed=2)
    ids, user_ids = torch.tensor([[0, 4], [1, 5], [2, -2], [3, -1], [0, 1]]), torch.tensor([0, 1, 1, 2, 3])
    seen, grad_users, touched, grad_items, _ = reference(torch.ones(5, 2), users, user_ids, items, ids, None)
    assert seen.tolist() == [0, 1, 2]
    assert grad_users.isnan().all(1).tolist() == [False, True, False]
    assert touched.tolist() == [0, 1, 2, 3, 4]
    assert grad_items.isfinite().all()
    assert (grad_items[1:3] == 0).all()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("fullgraph", [True, False])
def test_torch_compile_refuses_it(op, fullgraph):
    tables, ids, user_ids = inputs()
    torch._dynamo.reset()
    compiled = torch.compile(calls(op, ids, user_ids), fullgraph=fullgraph, backend="aot_eager")
    with pytest.raises(Exception, match="expected sparse_grad in eager mode only; got torch.compile"):
        compiled(*tables, True)
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.equal(compiled(*tables, True), calls(op, ids, user_ids)(*tables, False))


@pytest.mark.parametrize("op", OPS)
def test_a_second_derivative_is_refused(op):
    tables, ids, user_ids = inputs()
    loss = calls(op, ids.clamp_min(0), user_ids)(*tables, True).sum()
    grads = torch.autograd.grad(loss, tables, create_graph=True)
    with pytest.raises(NotImplementedError, match="expected a first derivative"):
        torch.autograd.grad(grads[0].to_dense().sum(), tables[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_sparse_gradients_are_added_up_in_order(dtype):
    ids = randint(0, 50, (400,), seed=1)
    rows = randn(400, 7, seed=2, dtype=dtype)
    gradient = torch.sparse_coo_tensor(ids[None], rows, (60, 7), check_invariants=False)
    touched, sums = coalesce_rows(gradient)
    wanted = torch.zeros(60, 7, dtype=torch.float64).index_put_((ids,), rows.double(), accumulate=True)
    assert torch.equal(touched, ids.unique())
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6}.get(dtype, 2e-2)
    torch.testing.assert_close(sums.double(), wanted[touched], rtol=tolerance, atol=tolerance)
    coalesced = gradient.coalesce()
    assert coalesce_rows(coalesced)[1] is coalesced._values() or torch.equal(
        coalesce_rows(coalesced)[1], coalesced._values()
    )


def test_what_is_coalesced_is_not_added_up_again():
    """Of a parameter, whose gradient autograd keeps without the mark."""
    table, ids = torch.nn.Parameter(randn(9, 3)), torch.tensor([[4, 2, 4]])
    gathered_inner_product(randn(1, 3), table, ids, sparse_grad=True).sum().backward()
    for gradient in (table.grad, table.grad.coalesce()):
        touched, rows = coalesce_rows(gradient)
        assert touched.tolist() == [2, 4]
        assert rows.data_ptr() == gradient._values().data_ptr()
    for order in ([1, 1], [1, 0], []):
        ids, rows = torch.tensor(order, dtype=torch.int64), randn(len(order), 3)
        other = torch.sparse_coo_tensor(ids[None], rows, (9, 3), check_invariants=False)
        touched, sums = coalesce_rows(other)
        assert touched.tolist() == sorted(set(order))
        torch.testing.assert_close(sums.sum(0), rows.sum(0))


def test_coalescing_checks_its_ids():
    bad = torch.sparse_coo_tensor(torch.tensor([[0, 7]]), torch.ones(2, 3), (7, 3), check_invariants=False)
    with pytest.raises(IndexError, match=r"coalesce_rows: expected ids in \[0, 7\); got 7 at position \[1\]"):
        coalesce_rows(bad)


def test_many_ids_are_sorted_right():
    """Several digits, and as many ids as rows, none and all the same."""
    for count, n_rows in ((200_000, 3_000_000), (100_000, 10), (5, 2**40), (1, 1), (0, 9)):
        ids = randint(0, n_rows, (count,), seed=count)
        touched, sums = torch.ops.rankdistill.coalesce_rows(
            ids, torch.ones(count, 1, dtype=torch.float64), n_rows
        )
        wanted, counts = torch.unique(ids, return_counts=True)
        assert torch.equal(touched, wanted)
        assert torch.equal(sums[:, 0], counts.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [3, 300])
def test_long_runs_are_summed_in_pieces(dtype, width):
    """Items and users that thousands of entries name: the same bits dense and sparse, and fewer roundings than one chain."""
    n = 3000
    users, items = (randn(rows, width, seed=rows).to(dtype).requires_grad_() for rows in (50, 40))
    bias = randn(40, seed=3).to(dtype).requires_grad_()
    ids, user_ids = torch.zeros(n, 2, dtype=torch.int64), torch.arange(n).remainder(50)
    ids[:, 1] = torch.arange(n).remainder(39) + 1
    user_ids[:2000] = 7
    upstream = randn(n, 2, seed=4).abs()
    results = {}
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            for sparse in (False, True):
                scores = gathered_inner_product(users, items, ids, user_ids, bias, sparse)
                grads = torch.autograd.grad(scores, (users, items, bias), upstream.to(scores.dtype))
                results[threads, sparse] = [g.to_dense() for g in grads]
        finally:
            torch.set_num_threads(2)
    first = results[1, False]
    for found in results.values():
        assert all(map(torch.equal, found, first))
    wide = [t.detach().double().requires_grad_() for t in (users, items, bias)]
    scores = (wide[0][user_ids, None] * wide[1][ids]).sum(2) + wide[2][ids]
    exact = torch.autograd.grad(scores, wide, upstream.double())
    for grad, right in zip(first, exact, strict=True):
        bound = {torch.float32: 6 * 2**-24, torch.bfloat16: 2**-8, torch.float64: 1e-13}[dtype]
        assert (grad.double() - right).abs().max() <= bound * right.abs().max()
