"""Losses keep their digits where little is left of them: saturated scores, students beside their teacher, rows far away."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
import torch

from rankdistill import functional, prepare_items
from rankdistill.ops import relation
from tests.case import randn


def decimal_cross_entropy(teacher: float, student: float) -> Decimal:
    share = lambda x: 1 / (1 + (-x).exp())
    t, s = Decimal(teacher), Decimal(student)
    return -(share(t) * share(s).ln() + share(-t) * share(-s).ln())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-7), (torch.float64, 1e-15)])
@pytest.mark.parametrize("score", [0.0, 1.0, 8.0, 12.0, 20.0, 40.0, -25.0])
def test_cross_entropy_of_saturated_scores(score, dtype, bound):
    teacher, student = torch.tensor([score], dtype=dtype), torch.tensor([0.9 * score], dtype=dtype)
    with localcontext(prec=60):
        exact = decimal_cross_entropy(float(teacher), float(student))
        found = functional.pointwise_distillation(teacher, student)
        assert abs(Decimal(float(found)) / exact - 1) <= bound


@pytest.mark.parametrize("margin", [19.0, 20.5, 25.0, 38.0, 41.0, 700.0])
def test_pairs_far_apart_in_float64(margin):
    negative, positive = torch.tensor([margin, -margin], dtype=torch.float64), torch.zeros(2).double()
    exact = -torch.nn.functional.logsigmoid(positive - negative)
    losses = functional.bayesian_personalized_ranking(positive, negative, "none")
    torch.testing.assert_close(losses, exact, rtol=1e-15, atol=0)
    easy = functional.unordered_ranking_distillation(positive[:, None], negative)
    torch.testing.assert_close(easy, exact, rtol=1e-15, atol=0)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-7), (torch.float64, 1e-10)])
@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("loss", ["frequency", "hint"])
def test_directions_close_to_the_teachers(loss, distance, dtype, bound):
    teacher = randn(50, 64, seed=1, dtype=dtype)
    student = (teacher + distance * randn(50, 64, seed=2, dtype=dtype)).requires_grad_()
    wide = [t.detach().double().requires_grad_() for t in (teacher, student)]
    exact = torch.sub(*(t / t.norm(dim=1, keepdim=True) for t in wide)).square().sum(1)
    if loss == "frequency":
        exact, found = exact / 2, functional.frequency_distillation(teacher, student, reduction="none")
    else:
        found = functional.hint_regression(teacher, student, True, "none")
    torch.testing.assert_close(found.double(), exact, rtol=bound, atol=0)
    assert found.dtype == dtype
    (slope,), (right,) = torch.autograd.grad(found.sum(), student), torch.autograd.grad(exact.sum(), wide[1])
    assert (slope.double() - right).abs().max() <= bound * right.abs().max()


def test_a_row_of_zeros_has_no_direction():
    teacher, student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), torch.zeros(3, 2)
    student[2, 1] = 3
    student.requires_grad_()
    losses = functional.frequency_distillation(teacher, student, reduction="none")
    assert losses.tolist() == [1, 1, 1]
    assert (torch.autograd.grad(losses.sum(), student)[0] == 0).all()


@pytest.mark.parametrize("away", [0.0, 1e6, 1e8])
def test_squared_distances_of_rows_far_from_the_origin(away):
    x = (randn(9, 7, seed=3, dtype=torch.float64) + away).requires_grad_()
    upstream = randn(9, 9, seed=4, dtype=torch.float64)
    (found,) = torch.autograd.grad(relation(x, kind="squared_distance"), x, upstream)
    (exact,) = torch.autograd.grad((x[:, None] - x[None]).square().sum(2), x, upstream)
    assert ((found - exact).abs() <= 1e-13 * (1 + exact.abs())).all()
    alike = torch.full((5, 3), 1e3 + away, dtype=torch.float64, requires_grad=True)
    matrix = relation(alike, kind="squared_distance")
    assert (torch.autograd.grad(matrix, alike, randn(5, 5, seed=5, dtype=torch.float64))[0] == 0).all()


@pytest.mark.parametrize("kind", ["cosine", "inner_product", "squared_distance"])
def test_a_row_that_no_gradient_asks_about_may_be_anything(kind):
    x = randn(5, 3, seed=6)
    x[2] = float("nan")
    x.requires_grad_()
    kept = torch.tensor([0, 1, 3, 4])
    (found,) = torch.autograd.grad(relation(x, kind=kind)[kept][:, kept].sum(), x)
    alone = x.detach()[kept].requires_grad_()
    (wanted,) = torch.autograd.grad(relation(alone, kind=kind).sum(), alone)
    torch.testing.assert_close(found[kept], wanted)
    assert (found[2] == 0).all()


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
@pytest.mark.parametrize("ordered", [True, False])
def test_an_observed_item_that_is_no_number_is_seen(score, ordered):
    users, items = randn(1, 4, seed=7).abs(), randn(30, 4, seed=8)
    items[1] = score
    exclude = torch.tensor([0, 2]), torch.tensor([0, 1])
    loss = functional.heterogeneous_compression(
        users, items, torch.tensor([[0, 1, -1]]), torch.arange(10, 20)[None], exclude, ordered
    )
    assert loss.isnan() or (not ordered and score > 0), (
        "a +inf item is above all others: the easy loss is finite"
    )


def test_personalised_maps_are_exact_under_autocast():
    network = [randn(*shape, seed=9) for shape in ((16, 8), (16,), (8 * 4, 16), (8 * 4,))]
    teacher, student = randn(20, 8, seed=10), randn(20, 4, seed=11)
    wanted = functional.personalized_hint_regression(teacher, student, network)
    with torch.autocast("cpu", torch.bfloat16):
        found = functional.personalized_hint_regression(teacher, student, network)
    assert torch.equal(found, wanted)


def test_wider_weights_do_not_widen_a_loss():
    scores, weights = randn(6, 4, seed=12), randn(6, 4, seed=13).abs().double()
    assert functional.ranking_distillation(scores, weights).dtype == torch.float32
    assert functional.hint_regression(scores, -scores, weights=weights[:, 0]).dtype == torch.float32
    every = torch.ones(6, 4, dtype=torch.bool)
    loss = functional.rejuvenated_cross_entropy(scores, scores, scores, scores, every, weights[:, 0])
    assert loss.dtype == torch.float32


def test_a_constant_student_is_at_the_margin_of_list_mle():
    for dtype in (torch.float32, torch.float64):
        for k in range(2, 60):
            student = torch.zeros(1, k, dtype=dtype)
            assert functional.list_mle(randn(1, k, seed=k), student, margin=True) > 0


def test_items_of_a_single_number_are_prepared():
    column = torch.arange(12.0).view(3, 4)[:1, 2]
    assert prepare_items(torch.ones(1, 4), column).tables()[1].item() == 2
    prepare_items(torch.zeros(1, 4)[:, ::2][:, :1])


@pytest.mark.parametrize("kind", ["cosine", "inner_product", "squared_distance"])
@pytest.mark.parametrize(("n", "m"), [(4, 0), (0, 4), (0, 0)])
def test_relations_of_no_rows_have_gradients(kind, n, m):
    x, y = (torch.ones(rows, 3, requires_grad=True) for rows in (n, m))
    grads = torch.autograd.grad(relation(x, y, kind).sum(), (x, y))
    assert [tuple(g.shape) for g in grads] == [(n, 3), (m, 3)]
    assert all((g == 0).all() for g in grads)
