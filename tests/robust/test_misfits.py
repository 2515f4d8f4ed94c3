"""What does not fit together is an error or is worked rightly: no read or write outside of a tensor, no division by zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankdistill import (
    catalogue_log_mass,
    catalogue_plackett_luce,
    complement_sample,
    embedding_plackett_luce,
    inner_product_topk,
    optim,
    pair_distance_huber,
    plackett_luce,
    prepare_items,
    relation_distance,
    triplet_angle_huber,
)
from rankdistill.data import CSR
from rankdistill.ops import checks
from rankdistill.reference.complement_sample import complement_sample as complement_reference
from tests.case import randint, randn

RAW = torch.ops.rankdistill


def test_a_state_of_another_table_is_refused():
    """load_state_dict looks at no shapes; SparseAdam complains too."""
    small, large = (torch.nn.Parameter(randn(rows, 8, seed=1)) for rows in (10, 12))
    optimizers = [optim.LazyAdam([table], lr=0.1) for table in (small, large)]
    for table, optimizer in zip((small, large), optimizers):
        table.grad = torch.sparse_coo_tensor([[len(table) - 1]], torch.ones(1, 8), table.shape)
        optimizer.step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    with pytest.raises(
        ValueError, match=r"lazy_update: expected means contiguous, .* of shape \[12, 8\]; got .* \[10, 8\]"
    ):
        optimizers[1].step()


@pytest.mark.parametrize("name", ["means", "squares", "grads", "table"])
def test_a_lazy_step_checks_what_it_writes(name):
    tensors = {n: torch.zeros(4, 3) for n in ("table", "means", "squares")} | {"grads": torch.zeros(1, 3)}
    tensors[name] = torch.zeros(3, 4).t() if name != "grads" else torch.zeros(1, 2)
    ids = torch.tensor([3])
    with pytest.raises(ValueError, match=f"lazy_update: expected {name} contiguous"):
        RAW.lazy_update_adam(
            tensors["table"],
            tensors["means"],
            tensors["squares"],
            ids,
            tensors["grads"],
            0.9,
            0.999,
            0.1,
            1e-8,
        )
    for marks in (torch.zeros(3, dtype=torch.float64), torch.zeros(4)):
        with pytest.raises(ValueError, match="lazy_update: expected marks contiguous"):
            RAW.lazy_update_catch_up(torch.zeros(4, 3), marks, ids, 0.0)


def test_backward_checks_what_was_saved():
    users, items, ids = randn(3, 4), randn(5, 4), randint(0, 5, (3, 6))
    with pytest.raises(
        ValueError, match=r"gathered_inner_product: expected grad_scores .*\[3, 6\]; got .*\[3, 2\]"
    ):
        RAW.gathered_inner_product_backward(torch.zeros(3, 2), users, None, items, ids, None)
    scores, tail = randn(3, 6), randn(3, 2)
    with pytest.raises(ValueError, match=r"plackett_luce: expected slopes .*\[3, 6\]; got .*\[3, 5\]"):
        RAW.plackett_luce_backward(torch.ones(3), scores, tail, None, torch.zeros(3, 5), torch.zeros(3, 2))
    with pytest.raises(
        ValueError, match=r"embedding_plackett_luce: expected user_slopes .*\[3, 4\]; got .*\[2, 4\]"
    ):
        RAW.embedding_plackett_luce_backward(
            torch.ones(3), users, None, items, ids, torch.zeros(3, 6), torch.zeros(2, 4), None
        )


@pytest.mark.parametrize(("D", "dtype"), [(33_000, torch.float32), (17_000, torch.float64)])
def test_tables_of_any_width(D, dtype):
    users, items = randn(3, D, seed=1, dtype=dtype) / D**0.5, randn(5, D, seed=2, dtype=dtype)
    users.requires_grad_()
    found = catalogue_log_mass(users, items)
    wanted = (users.double() @ items.double().t()).logsumexp(1)
    assert torch.allclose(found.double(), wanted, rtol=1e-5)
    found.sum().backward()
    (expected,) = torch.autograd.grad(wanted.sum(), users)
    budget = (1e-14 if dtype == torch.float64 else 2e-6) * (users.norm() * items.norm() + 10).item()
    assert torch.allclose(users.grad.double(), expected.double(), rtol=0, atol=budget)
    assert bool(
        catalogue_plackett_luce(users.detach(), items, torch.tensor([[0], [1], [2]])).isfinite().all()
    )


def test_nothing_of_no_width():
    assert inner_product_topk(randn(2, 0), randn(0, 0), 2).lengths.tolist() == [0, 0]
    assert plackett_luce(torch.empty(0, 10**12)).shape == (0,)
    table = torch.empty(0, 4)
    assert embedding_plackett_luce(
        table, table, torch.empty(0, 10**9, dtype=torch.int64), list_size=10**9
    ).shape == (0,)
    student = randn(3, 0).requires_grad_()
    loss = relation_distance(randn(3, 2), student, "squared_distance")
    loss.backward()
    assert loss.item() > 0


def test_tables_are_prepared_where_they_are():
    """Whatever device new tensors go to."""
    users, items = randn(3, 4, seed=1), randn(600, 4, seed=2)
    with torch.device("meta"):
        prepared = prepare_items(items)
    assert inner_product_topk(users, prepared, 5).indices.equal(inner_product_topk(users, items, 5).indices)


@pytest.mark.parametrize("fused", [torch.optim.SGD, torch.optim.Adam])
def test_a_fused_step_is_noticed(fused):
    """It raises no version of the table."""
    items = torch.nn.Parameter(randn(1000, 4, seed=2))
    prepared = prepare_items(items)
    version = items._version
    items.grad = torch.ones_like(items)
    fused([items], lr=0.1, fused=True).step()
    assert items._version == version, "expected a step that torch does not count"
    with pytest.raises(ValueError, match="expected items as they were when prepared"):
        inner_product_topk(randn(2, 4), prepared, 3)
    broken = torch.full((4, 3), torch.nan)
    inner_product_topk(randn(2, 3), prepare_items(broken), 3)  # and NaN is as it was


def test_an_indptr_that_wraps_around_is_refused():
    users, items = randn(5, 2), randn(3, 2)
    exclude = torch.tensor([0, 2**62, -(2**63), -(2**62), 0, 1]), torch.tensor([0])
    with pytest.raises(ValueError, match="expected exclude indptr that never descends"):
        inner_product_topk(users, items, 2, exclude)


def test_ids_of_any_stride_are_checked():
    ids = torch.tensor([0, 9, 1, 9, 2, 77])
    assert checks.first_out_of_range(ids[::2], 0, 3) == -1
    assert checks.first_out_of_range(ids[1::2], 0, 10) == 2
    assert checks.first_out_of_range(torch.tensor(2).expand(10**6), 0, 3) == -1


def test_listed_ids_beyond_the_catalogue_exclude_nothing():
    users, listed = torch.arange(2), torch.tensor([[1, 900], [-1, 5]], dtype=torch.int32)
    found = complement_sample(users, 6, 3, listed=listed, seed=1)
    assert found.equal(complement_reference(users, None, 6, 3, None, None, listed, 1, 0, 0))


@pytest.mark.parametrize("loss", [pair_distance_huber, triplet_angle_huber])
def test_one_row_that_is_not_finite(loss):
    rows = torch.tensor([[torch.nan, 1.0]])
    assert bool(loss(rows, torch.ones(1, 2)).isnan())
    assert bool(loss(torch.ones(1, 2), rows).isnan())
    assert loss(torch.ones(1, 2), torch.ones(1, 2)).item() == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([[1, 2, 3]] * 2000, r"list \[\[1, 2, 3\], .*\.\.\.\]"),
        (np.zeros((900, 3)), r"ndarray of float64 \[900, 3\]"),
        ("long" * 900, "str 'longlong.*'"),
        ({"rows": [np.arange(9000.0).reshape(-1, 3)]}, "dict .*"),
        (range(2), r"range range\(0, 2\)"),
    ],
)
def test_errors_stay_short_whatever_comes(value, shown):
    topk = lambda: inner_product_topk(torch.ones(2, 3), torch.ones(4, 3), 1, value)
    for call in (lambda: CSR.from_any(value), lambda: CSR.empty(value, 2), topk):
        with pytest.raises((TypeError, ValueError), match=f"got {shown}$") as error:
            call()
        assert len(str(error.value)) < 300
        assert "\n" not in str(error.value)
