"""plackett_luce: values by eye, its invariances, its error budgets at every scale, released numbers of its variants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankdistill import embedding_plackett_luce, gathered_inner_product, plackett_luce
from rankdistill.reference import plackett_luce as reference
from tests.case import generator, randint, randn
from tests.conftest import GOLDEN


def with_gradients(scores, tail, lengths=None):
    scores, tail = scores.clone().requires_grad_(), tail.clone().requires_grad_()
    losses = plackett_luce(scores, tail, lengths)
    losses.sum().backward()
    return losses.detach(), scores.grad, tail.grad


def test_values_by_eye():
    for s, t in ((0.0, 0.0), (3.0, -2.0), (-50.0, 60.0)):
        loss = plackett_luce(
            torch.tensor([[s]], dtype=torch.float64), torch.tensor([[t]], dtype=torch.float64)
        )
        assert loss.item() == pytest.approx(max(t - s, 0) + math.log1p(math.exp(-abs(t - s))), rel=1e-13)
    for K, L in ((1, 0), (4, 0), (4, 5), (100, 1000)):
        expected = sum(math.log(K - k + L) for k in range(K))
        assert plackett_luce(torch.full((1, K), 7.5), torch.full((1, L), 7.5)).item() == pytest.approx(
            expected, rel=2e-6
        )
    without_tail = plackett_luce(torch.tensor([[0.0, -50.0, -120.0]])).item()
    assert without_tail == pytest.approx(math.exp(-50.0) + math.exp(-70.0), abs=1e-7)


def test_it_is_its_brute_force():
    scores, tail = randn(6, 7, seed=1, dtype=torch.float64), randn(6, 5, seed=2, dtype=torch.float64)
    for lengths in (None, torch.tensor([7, 0, 1, 3, 7, 2])):
        losses = plackett_luce(scores, tail, lengths)
        for b in range(6):
            n = 7 if lengths is None else int(lengths[b])
            mass = sum(math.exp(t) for t in tail[b].tolist())
            terms = [
                math.log(sum(math.exp(s) for s in scores[b, k:n].tolist()) + mass) - scores[b, k].item()
                for k in range(n)
            ]
            assert losses[b].item() == pytest.approx(sum(terms), rel=1e-13, abs=1e-13)


def hostile_rows(K: int, L: int, scale: float):
    """[rows, K] and [rows, L] fp32: random, ordered, tied, and with an outlier that the rest stand far below."""
    spread = min(80.0, scale)
    heads, tails = [randn(8, K, seed=1, scale=scale)], [randn(8, L, seed=2, scale=scale)]

    def add(head, tail):
        heads.append(head.float()[None])
        tails.append(tail.float()[None])

    ramp = torch.linspace(-scale, scale, K)
    flat, low = torch.zeros(K), torch.full((L,), -spread)
    add(ramp, low)
    add(-ramp, low)
    add(flat, torch.zeros(L))
    for place in (0, K // 2, K - 1):
        outlier = torch.full((K,), 0.3)
        outlier[place] = 0.3 + spread
        add(outlier, torch.full((L,), 0.3))
    if L:
        outlier = torch.full((L,), 0.3)
        outlier[L // 2] = spread
        add(torch.full((K,), 0.3), outlier)
    add(randn(K, seed=3) + scale, randn(L, seed=4) + scale)
    add(randn(K, seed=5) - scale, randn(L, seed=6) - scale)
    return torch.cat(heads), torch.cat(tails)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 10.0, 40.0, 100.0, 1e3, 1e4])
@pytest.mark.parametrize(("K", "L"), [(1, 0), (1, 1), (3, 2), (40, 40), (128, 1000), (1000, 24)])
def test_error_budgets(K, L, scale, dtype):
    scores, tail = (t.to(dtype) for t in hostile_rows(K, L, scale))
    losses, grad_scores, grad_tail = with_gradients(scores, tail)
    wide = scores.double(), tail.double(), None
    expected = reference.plackett_luce_forward(*wide)
    exact = dtype == torch.float64
    budget = (1e-12 if exact else 2e-6) * expected.abs() + (1e-13 if exact else 1e-7) * K
    assert losses.isfinite().all()
    assert ((losses.double() - expected).abs() <= budget).all()
    bound = 1e-11 if exact else 2e-6 if K <= 128 else 1e-5
    ones = torch.ones(len(scores), dtype=torch.float64)
    for found, wanted in zip(
        (grad_scores, grad_tail), reference.plackett_luce_backward(ones, *wide), strict=True
    ):
        assert found.isfinite().all()
        assert ((found.double() - wanted).abs() <= bound * (1 + wanted.abs())).all()


def test_gradcheck():
    scores, tail = (randn(4, n, seed=n, dtype=torch.float64).requires_grad_() for n in (6, 3))
    for lengths in (None, torch.tensor([6, 2, 0, 1])):
        assert torch.autograd.gradcheck(lambda s, t, n=lengths: plackett_luce(s, t, n), (scores, tail))


def test_invariances():
    scores, tail = randn(9, 12, seed=1, dtype=torch.float64), randn(9, 20, seed=2, dtype=torch.float64)
    losses, grad_scores, grad_tail = with_gradients(scores, tail)
    assert torch.allclose(plackett_luce(scores + 300.0, tail + 300.0), losses, rtol=1e-11)
    order = torch.randperm(20, generator=generator(3))
    torch.testing.assert_close(plackett_luce(scores, tail[:, order]), losses, rtol=1e-14, atol=0)
    assert (grad_scores.sum(1) + grad_tail.sum(1)).abs().max() < 1e-12
    log_mass = tail.logsumexp(1)
    torch.testing.assert_close(plackett_luce(scores, log_mass), losses, rtol=1e-13, atol=0)
    padded = torch.cat([tail, torch.full((9, 3), -torch.inf, dtype=torch.float64)], 1)
    torch.testing.assert_close(plackett_luce(scores, padded), losses, rtol=1e-14, atol=0)
    torch.testing.assert_close(plackett_luce(scores), plackett_luce(scores, tail[:, :0]), rtol=0, atol=0)


def test_padding_never_matters_and_length_truncates():
    scores, tail, lengths = randn(6, 30, seed=1), randn(6, 4, seed=2), torch.tensor([30, 0, 1, 17, 29, 5])
    clean = with_gradients(scores, tail, lengths)
    padding = torch.arange(30) >= lengths[:, None]
    for poison in (float("nan"), float("inf"), -3e38, 1e4):
        found = with_gradients(scores.masked_fill(padding, poison), tail, lengths)
        assert all(torch.equal(a, b) for a, b in zip(clean, found, strict=True))
    assert (clean[1][padding] == 0).all()
    assert clean[0][1] == 0 == clean[2][1].abs().sum()
    for b in range(6):
        n = int(lengths[b])
        alone = plackett_luce(scores[b : b + 1, :n], tail[b : b + 1])
        assert alone.item() == pytest.approx(clean[0][b].item(), rel=1e-6)


@pytest.mark.parametrize("place", ["list", "tail"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_row_stays_alone(place, value):
    scores, tail = randn(40, 10, seed=1), randn(40, 10, seed=2)
    clean = with_gradients(scores, tail)
    (scores if place == "list" else tail)[17, 3] = value
    found = with_gradients(scores, tail)
    others = torch.arange(40) != 17
    assert found[0][17].isnan()
    assert found[1][17].isnan().all()
    assert all(torch.equal(a[others], b[others]) for a, b in zip(clean, found, strict=True))


def test_an_impossible_order_has_infinite_loss():
    assert plackett_luce(torch.tensor([[-torch.inf, 0.0]])).item() == math.inf


def test_expanded_and_strided_gradients():
    both = randn(5, 12, seed=1).requires_grad_()
    plackett_luce(both[:, :7], both[:, 7:]).mean().backward()
    _, grad_scores, grad_tail = with_gradients(both.detach()[:, :7], both.detach()[:, 7:])
    torch.testing.assert_close(both.grad, torch.cat([grad_scores, grad_tail], 1) / 5)


def test_no_second_and_no_forward_mode_derivative():
    scores = randn(2, 3).requires_grad_()
    (grad,) = torch.autograd.grad(plackett_luce(scores).sum(), scores, create_graph=True)
    with pytest.raises(NotImplementedError, match="plackett_luce: expected a first derivative"):
        grad.sum().backward()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(randn(2, 3), randn(2, 3))
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            plackett_luce(dual)


def released(pattern):
    return [pytest.param(dict(np.load(p)), id=p.stem) for p in sorted(GOLDEN.glob(f"{pattern}.npz"))]


def check_released(golden, loss, tables):
    loss.backward()
    double = golden["S1"].dtype == np.float64
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-10 if double else 3e-5)
    for name, table in tables.items():
        wanted = golden[f"grad_{name}"]
        assert (
            np.abs(table.grad.numpy() - wanted).max() <= (1e-9 if double else 3e-4) * np.abs(wanted).max()
        ), name


def leaves(golden, *names):
    return {name: torch.from_numpy(golden[name]).requires_grad_() for name in names}


@pytest.mark.parametrize("golden", released("rrdclamp80_*"))
def test_released_clip_at_80(golden):
    tables = leaves(golden, "S1", "S2")
    check_released(golden, plackett_luce(*(t.clamp(max=80) for t in tables.values())).sum(), tables)


@pytest.mark.parametrize("golden", released("rrdccd_*"))
def test_released_clip_at_10_with_a_floor(golden):
    tables = leaves(golden, "S1", "S2")
    listed, tail = (t.clamp(max=10) for t in tables.values())
    floor = torch.full((len(tail), 1), math.log(1e-8), dtype=tail.dtype)
    check_released(golden, plackett_luce(listed, torch.cat([tail, floor], 1)).sum(), tables)


@pytest.mark.parametrize("golden", released("mrrd_*"))
def test_released_denominator_with_all_top_items(golden):
    tables = leaves(golden, "S1", "S2", "Stop")
    listed, tail, top = (t.clamp(max=80) for t in tables.values())
    rest = (top.exp().sum(1) - listed.exp().sum(1)).clamp_min(0)
    below = torch.stack(
        [tail.logsumexp(1) + math.log(golden["gamma"]), (float(golden["beta"]) * rest).log()], 1
    )
    check_released(golden, plackett_luce(listed, below).sum(), tables)


def test_from_embeddings_it_is_the_composition():
    users, items = randn(9, 12, seed=1).requires_grad_(), randn(50, 12, seed=2).requires_grad_()
    ids, user_ids = randint(0, 50, (14, 11), seed=3), randint(0, 9, (14,), seed=4)
    ids[2, 8:] = -1
    ids[5, 3:6] = -1
    lengths = randint(0, 7, (14,), seed=5)
    lengths[5] = 3
    grad = randn(14, seed=6)
    results = []
    for fused in (True, False):
        if fused:
            losses = embedding_plackett_luce(users, items, ids, 6, lengths, user_ids)
        else:
            scores = gathered_inner_product(users, items, ids, user_ids)
            losses = plackett_luce(scores[:, :6], scores[:, 6:], lengths)
        results.append((losses, *torch.autograd.grad(losses, (users, items), grad)))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(embedding_plackett_luce(users, items, ids, 6, lengths, user_ids), results[0][0])
    with pytest.raises(
        IndexError, match=r"expected listed item_ids in \[0, 50\); got -1 at position \[5, 3\]"
    ):
        embedding_plackett_luce(users, items, ids, 6, None, user_ids)
