"""Losses over the whole catalogue, against torch on [B, N] scores and the released code's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rankdistill import functional
from rankdistill.data import CSR
from rankdistill.functional import (
    catalogue_cross_entropy,
    heterogeneous_compression,
    joined_log_mass,
    unordered_ranking_distillation,
)
from rankdistill.ops import catalogue_log_mass
from tests.case import generator, randn
from tests.catalogue_cases import tables

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str):
    """Tables whose inner products are the stored scores, and the rest of the inputs."""
    stored = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / f"{name}.npz").items()}
    scores = stored["score_mat"]
    assert scores.abs().max() < 40, "expected scores that the released clamp leaves alone"
    seen = stored["train_mask"].bool()
    exclude = torch.cat([torch.zeros(1).long(), seen.sum(1).cumsum(0)]), seen.nonzero()[:, 1]
    users = torch.eye(len(scores), dtype=scores.dtype)
    items = scores.t().contiguous().requires_grad_()
    return users, items, stored["pos_items"], stored["top_items"], exclude, stored


@pytest.mark.parametrize("name", ["hetcomp_small_f64", "hetcomp_small_f32", "hetcomp_cancel_f32"])
@pytest.mark.parametrize(("ordered", "phase"), [(False, "overall"), (True, "rank")])
def test_heterogeneous_compression_is_the_released_codes(name, ordered, phase):
    """In fp32 against the code run in float64: its own masses cancel."""
    users, items, observed, top, exclude, stored = golden(name)
    loss = heterogeneous_compression(users, items, observed, top, exclude, ordered=ordered)
    (grad,) = torch.autograd.grad(loss, items)
    wide = items.dtype == torch.float64
    key = "" if wide else "ref_"
    expected = stored[f"{key}{phase}_loss" + ("" if wide else "_f64")]
    wanted = stored[f"{key}grad_{phase}" + ("" if wide else "_f64")]
    tolerance = 1e-10 if wide else 1e-5
    torch.testing.assert_close(loss.double(), expected.double(), rtol=tolerance, atol=0)
    torch.testing.assert_close(grad.t().double(), wanted.double(), rtol=tolerance, atol=tolerance)


def test_cross_entropy_is_torchs():
    users, items, _ = tables(torch.float32, 40, 900, 16, 0, seed=1)
    users.requires_grad_(), items.requires_grad_()
    targets = torch.randint(-1, 900, (40,), generator=torch.Generator().manual_seed(2))
    targets[:5] = -1
    loss = catalogue_cross_entropy(users, items, targets)
    expected = torch.nn.functional.cross_entropy(users @ items.t(), targets, ignore_index=-1)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(
        torch.autograd.grad(loss, (users, items)), torch.autograd.grad(expected, (users, items)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    rows = catalogue_cross_entropy(users, items, targets, reduction="none")
    assert (rows[targets < 0] == 0).all()


def test_parts_of_a_catalogue_join():
    users, items, _ = tables(torch.float64, 9, 500, 8, 0, seed=3)
    parts = [catalogue_log_mass(users, part) for part in items.split(170)]
    torch.testing.assert_close(joined_log_mass(parts), catalogue_log_mass(users, items), rtol=1e-13, atol=0)
    nothing = torch.full((9,), -torch.inf, dtype=torch.float64, requires_grad=True)
    joined = joined_log_mass([nothing, nothing])
    assert (joined == -torch.inf).all()
    assert (torch.autograd.grad(joined.sum(), nothing)[0] == 0).all()


def test_unordered_lists_do_not_know_their_order():
    scores, rest = torch.tensor([[1.0, -2.0, 90.0]]), torch.tensor([0.5])
    expected = (1 + (rest - scores).exp()).log().sum(1)
    torch.testing.assert_close(unordered_ranking_distillation(scores, rest), expected)
    assert torch.equal(unordered_ranking_distillation(scores, rest, torch.tensor([0])), torch.zeros(1))
    assert unordered_ranking_distillation(-1e4 * scores, rest).isfinite().all()


def test_multinomial_likelihood_by_its_definition():
    users, items = (
        randn(*shape, seed=s).double().requires_grad_() for s, shape in ((1, (4, 3)), (2, (9, 3)))
    )
    dense = torch.rand(4, 9, generator=generator(3)) < 0.4
    dense[2] = False
    observed = CSR.from_any(dense)
    f = lambda u, i: functional.multinomial_likelihood(u, i, observed)
    expected = -(users @ items.T).log_softmax(1)[dense].sum()
    assert f(users, items).item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.autograd.gradcheck(f, (users, items))
    found, wanted = (torch.autograd.grad(loss, (users, items)) for loss in (f(users, items), expected))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (found[0][2] == 0).all(), "a user without items learns nothing"
    assert functional.multinomial_likelihood(users[:0], items, CSR.empty(0, 9)).item() == 0
    assert functional.multinomial_likelihood(400 * users, 400 * items, observed).isfinite()
    with pytest.raises(IndexError, match="multinomial_likelihood"):
        functional.multinomial_likelihood(users, items[:2], observed)
    with pytest.raises(
        ValueError, match="^multinomial_likelihood: expected observed as lists of items; got None"
    ):
        functional.multinomial_likelihood(users, items, None)


def test_metric_hinge_and_balance_refuse_other_shapes():
    pair = torch.ones(3), torch.ones(2)
    with pytest.raises(ValueError, match=r"^metric_learning: expected negative of shape \[3\]"):
        functional.metric_learning(*pair)
    with pytest.raises(ValueError, match="^balanced_gradient_norms: expected relative_losses as norms"):
        functional.balanced_gradient_norms(*pair)
    found = functional.balanced_gradient_norms(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 3.0]), 1.0)
    assert found.tolist() == [1.5, 4.5], "the mean of 3, times losses relative to their mean of 2"
