"""What has no part in a row leaves no trace in it: padding, excluded items, rows whose loss is not asked for."""

from __future__ import annotations

import pytest
import torch

from rankdistill import (
    catalogue_log_mass,
    catalogue_plackett_luce,
    embedding_plackett_luce,
    gathered_inner_product,
    inner_product_topk,
    pair_distance_huber,
    plackett_luce,
    prepare_items,
    relation_distance,
)
from rankdistill.ops.registration import CHOICES
from rankdistill.reference import catalogue_log_mass as reference
from rankdistill.sharded import ShardedTable
from rankdistill.sharded import scores as sharded_scores
from tests.case import randint, randn

LENGTHS = torch.tensor([2, 0, 4])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("padding", ["another item", "an item that is not finite", "no item", "out of range"])
def test_padding_of_lists_of_embeddings(padding, sparse):
    users, items = randn(3, 5, seed=1), randn(8, 5, seed=2)
    items[7] = torch.nan
    ids = randint(0, 7, (3, 6), seed=3)
    past = torch.arange(4) >= LENGTHS[:, None]
    found = []
    for value in (
        0,
        {"another item": 5, "an item that is not finite": 7, "no item": -1, "out of range": 10**6}[padding],
    ):
        given = ids.clone()
        given[:, :4][past] = value
        leaves = [t.clone().requires_grad_() for t in (users, items)]
        losses = embedding_plackett_luce(*leaves, given, lengths=LENGTHS, list_size=4, sparse_grad=sparse)
        losses.sum().backward()
        found.append((losses.detach(), *(leaf.grad.to_dense() for leaf in leaves)))
    for before, after in zip(*found):
        assert before.equal(after)
        assert bool(after.isfinite().all())


@pytest.mark.parametrize("padding", [7, 10**6, -1])
def test_padding_of_lists_of_divided_tables(padding):
    users, items = randn(3, 5, seed=1), randn(8, 5, seed=2)
    items[7] = torch.nan
    ids = randint(0, 7, (3, 6), seed=3)
    wanted = embedding_plackett_luce(users, items, ids, list_size=4, lengths=LENGTHS)
    ids[:, :4][torch.arange(4) >= LENGTHS[:, None]] = padding
    leaf = users.clone().requires_grad_()
    losses = sharded_scores.embedding_plackett_luce(leaf, ShardedTable(items), ids, 4, LENGTHS)
    losses.sum().backward()
    torch.testing.assert_close(losses, wanted)
    assert bool(leaf.grad.isfinite().all())


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_an_item_that_every_row_excludes(broken, backend):
    users, items = randn(3, 5, seed=1), randn(400, 5, seed=2)
    exclude = torch.arange(4), torch.full((3,), 7)

    def gradients(table):
        leaves = [t.clone().requires_grad_() for t in (users, table)]
        if backend == "native":
            assert CHOICES["catalogue_log_mass", "CPU"].backend == "native"
            masses = catalogue_log_mass(*leaves, exclude=exclude)
            masses.sum().backward()
            return masses.detach(), *(leaf.grad for leaf in leaves)
        with torch.no_grad():
            masses, tops, sums = reference.catalogue_log_mass_forward(users, table, *exclude, None, 0.0)
            return masses, *reference.catalogue_log_mass_backward(
                torch.ones(3), users, table, *exclude, None, tops, sums, 0.0
            )[:2]

    wanted = gradients(items)
    items[7, 2] = broken
    for before, after in zip(wanted, gradients(items)):
        assert before.equal(after)


def test_an_item_that_one_row_excludes_spoils_the_others_alone():
    users, items = randn(3, 5, seed=1).requires_grad_(), randn(400, 5, seed=2)
    items[7] = torch.nan
    catalogue_log_mass(users, items, exclude=(torch.tensor([0, 0, 1, 1]), torch.tensor([7]))).sum().backward()
    assert users.grad.isfinite().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("op", ["embedding", "catalogue"])
def test_a_row_that_is_not_asked_for(op):
    """torch.where over losses gives it a gradient of 0: shared tables stay clean."""
    users, items = randn(3, 5, seed=1), randn(8, 5, seed=2).requires_grad_()
    users[1] = torch.nan
    ids = torch.tensor([[0, 1], [2, 3], [4, 5]])
    losses = (
        embedding_plackett_luce(users, items, ids, list_size=2)
        if op == "embedding"
        else catalogue_plackett_luce(users, items, ids)
    )
    assert losses.isfinite().tolist() == [True, False, True]
    torch.where(losses.isfinite(), losses, 0).sum().backward(retain_graph=True)
    assert bool(items.grad.isfinite().all())
    (nothing,) = torch.autograd.grad((0 * losses[[0, 2]]).sum(), items)
    assert bool((nothing == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_item_whose_score_is_not_asked_for(dtype):
    """0 times an item that is no number adds 0 to its users, whatever the width."""
    for width in (1, 5, 16, 37):
        users = randn(3, width, seed=1, dtype=dtype).requires_grad_()
        items, ids = randn(8, width, seed=2, dtype=dtype), torch.tensor([[0, 7, 1], [7, 2, 3], [4, 5, 6]])
        items[7] = torch.nan
        scores = gathered_inner_product(users, items, ids)
        torch.where(scores.isfinite(), scores, 0).sum().backward()
        assert bool(users.grad.isfinite().all())


def test_scores_that_round_to_zero_from_either_side_tie():
    """Sums below 0 that round to -0.0 stand with +0.0, by id."""
    users, items = torch.full((30, 1), 1e-30), randn(1000, 1, seed=3) * 1e-30
    plain, prepared = (inner_product_topk(users, table, 17) for table in (items, prepare_items(items)))
    assert plain.indices.equal(prepared.indices)
    assert plain.indices[0].tolist() == list(range(17))


def other_order(tensor: torch.Tensor) -> torch.Tensor:
    """Equal values, the last axis first in memory."""
    return tensor if tensor.dim() < 2 else tensor.transpose(0, 1).contiguous().transpose(0, 1)


@pytest.mark.parametrize("op", ["plackett_luce", "embedding_plackett_luce"])
def test_saved_tensors_may_come_back_in_another_layout(op):
    def gradients():
        users, items = (randn(n, 5, seed=n).requires_grad_() for n in (3, 8))
        ids = randint(0, 8, (3, 6), seed=3)
        if op == "plackett_luce":
            losses = plackett_luce((users @ items.t())[:, :4], (users @ items.t())[:, 4:])
        else:
            losses = embedding_plackett_luce(users, items, ids, list_size=4)
        (losses * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        return users.grad, items.grad

    plain = gradients()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, other_order):
        for before, after in zip(plain, gradients()):
            assert before.equal(after)


@pytest.mark.parametrize("op", ["plackett_luce", "embedding", "relation_distance", "pair_distance_huber"])
def test_gradients_through_vmap(op):
    """What requires grad outside does not say so inside."""
    stacked = randn(2, 3, 4, seed=1).requires_grad_()
    teacher, ids = randn(3, 6, seed=2), torch.tensor([[0, 1], [2, 0], [1, 2]])
    functions = {
        "plackett_luce": plackett_luce,
        "embedding": lambda x: embedding_plackett_luce(x, x, ids, list_size=1),
        "relation_distance": lambda x: relation_distance(teacher, x),
        "pair_distance_huber": lambda x: pair_distance_huber(teacher, x),
    }
    function = functions[op]
    torch.vmap(function)(stacked).sum().backward()
    one = stacked.detach().clone().requires_grad_()
    sum(function(x).sum() for x in one).backward()
    assert torch.allclose(stacked.grad, one.grad, atol=1e-6)
