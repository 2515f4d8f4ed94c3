"""What the ops over pairs of rows promise beyond their cases."""

from __future__ import annotations

import sys

import pytest
import torch

from rankdistill import (
    cross_relation_distance,
    grouped_relation_distance,
    pair_distance_huber,
    relation,
    relation_distance,
    routed_experts,
    triplet_angle_huber,
)
from tests.case import randint, randn

DOUBLE = torch.float64
LOSSES = {
    "relation_distance": relation_distance,
    "squared_distance": lambda t, s: relation_distance(t, s, "squared_distance"),
    "grouped": lambda t, s: grouped_relation_distance(t, s, torch.arange(len(s)) % 3),
    "grouped, positive only": lambda t, s: grouped_relation_distance(t, s, torch.arange(len(s)) % 3, True),
    "cross": lambda t, s: cross_relation_distance(
        t, t[:2] + t[2:4], s, s[:2] + s[2:4], torch.arange(len(s)) % 3
    ),
    "distances": pair_distance_huber,
    "angles": triplet_angle_huber,
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    teacher, student = randn(9, 5, seed=1, dtype=DOUBLE), randn(9, 3, seed=2, dtype=DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](teacher, s), student)


def test_gradcheck_of_what_is_no_loss():
    x, y = (randn(n, 3, seed=n, dtype=DOUBLE).requires_grad_() for n in (4, 5))
    for kind in ("cosine", "inner_product", "squared_distance"):
        assert torch.autograd.gradcheck(lambda a, b, kind=kind: relation(a, b, kind), (x, y))
        assert torch.autograd.gradcheck(lambda a, kind=kind: relation(a, None, kind), x)
    parts = tuple(
        randn(*shape, seed=3, dtype=DOUBLE).requires_grad_()
        for shape in ((2, 4, 3), (2, 4), (2, 5, 4), (2, 5))
    )
    shares = randn(4, 2, seed=4, dtype=DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(routed_experts, (x, shares, *parts))
    ids = torch.tensor([1, 0, 1, 1])
    assert torch.autograd.gradcheck(lambda a, *p: routed_experts(a, ids, *p), (x, *parts))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("where", ["teacher", "student"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_makes_the_loss_nan(name, where, bad):
    tables = {"teacher": randn(9, 5, seed=1), "student": randn(9, 3, seed=2)}
    assert LOSSES[name](*tables.values()).isfinite()
    tables[where][4, 1] = bad
    assert LOSSES[name](*tables.values()).isnan()


@pytest.mark.parametrize("name", LOSSES)
def test_a_second_derivative_is_refused(name):
    student = randn(9, 3, seed=2).requires_grad_()
    (grad,) = torch.autograd.grad(LOSSES[name](randn(9, 5, seed=1), student), student, create_graph=True)
    with pytest.raises(NotImplementedError, match="expected a first derivative"):
        grad.sum().backward()


def teacher_and_near_student(B, exponent, rotated):
    teacher = randn(B, 64, seed=1)
    noise = 10**-exponent * randn(B, 64, seed=2, dtype=DOUBLE)
    rotation = torch.eye(64, dtype=DOUBLE)
    if rotated:
        rotation = torch.linalg.qr(randn(64, 64, seed=3, dtype=DOUBLE))[0]
    return teacher, (teacher.double() @ rotation + noise).float()


@pytest.mark.parametrize("exponent", [1, 2, 3, 4])
@pytest.mark.parametrize("rotated", [False, True])
def test_the_value_keeps_its_digits_where_the_student_is_nearly_the_teacher(exponent, rotated):
    """At a size where sums in float32 have none left."""
    teacher, student = teacher_and_near_student(2000, exponent, rotated)
    cos = lambda x: torch.nn.functional.normalize(x.double()) @ torch.nn.functional.normalize(x.double()).t()
    expected = (cos(teacher) - cos(student)).square().sum().item()
    found = relation_distance(teacher, student).item()
    assert abs(found - expected) <= 5e-6 * expected + 1e-12 * 2000**2
    alone = grouped_relation_distance(teacher, student, torch.zeros(2000, dtype=torch.int64)).item()
    assert abs(alone - expected) <= 5e-6 * expected + 1e-12 * 2000**2


@pytest.mark.parametrize("B", [256, 2000])
@pytest.mark.parametrize("exponent", [1, 2, 3, 4])
@pytest.mark.parametrize("rotated", [False, True])
def test_distances_in_float32_keep_the_value_where_the_student_is_nearly_the_teacher(B, exponent, rotated):
    teacher, student = teacher_and_near_student(B, exponent, rotated)
    expected = pair_distance_huber(teacher.double(), student.double()).item()
    assert abs(pair_distance_huber(teacher, student).item() - expected) <= 5e-6 * expected + 1e-12 * B**2


@pytest.mark.parametrize("exponent", [1, 2, 3, 4])
def test_angles_in_float32_keep_the_value_where_the_student_is_nearly_the_teacher(exponent):
    teacher, student = teacher_and_near_student(64, exponent, rotated=True)
    expected = triplet_angle_huber(teacher.double(), student.double()).item()
    assert abs(triplet_angle_huber(teacher, student).item() - expected) <= 5e-6 * expected + 1e-12 * 64**3


OP = "pair_distance_huber"


def native_losses(op, student):
    """By the native kernel with products in float64 and in float32, as it returns them."""
    module, found = sys.modules[f"rankdistill.ops.{op}"], []
    kernel = getattr(module._native, op)
    anchors = () if op == OP else (torch.arange(20),)
    for single in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "in_single", lambda *_, single=single: single)
            patch.setattr(module._native, op, lambda *given: found.append(kernel(*given)) or found[-1])
            module.NATIVE["forward"](randn(300, 9, seed=1), student, *anchors, True)
    return found


@pytest.mark.parametrize("op", [OP, "triplet_angle_huber"])
def test_products_in_float32_are_what_runs(op):
    exact, single = native_losses(op, randn(300, 8, seed=2))
    assert exact != single
    assert single == pytest.approx(exact, rel=5e-6)


def test_crowded_rows_go_back_to_float64():
    crowded = randn(5, 8, seed=2)[torch.arange(300) % 5] + 1e-3 * randn(300, 8, seed=3)
    exact, single = native_losses(OP, crowded)
    assert exact == single


def value_and_gradient(loss, teacher, student):
    student = student.clone().requires_grad_()
    value = loss(teacher, student)
    value.backward()
    return value.item(), student.grad.double()


@pytest.mark.parametrize("sizes", [(256, 200, 20), (1000, 64, 8), (2900, 64, 8), (2900, 20, 2)])
@pytest.mark.parametrize("scale", [0.01, 1, 100])
def test_gradients_of_distances_in_float32_are_as_exact_as_what_they_sum(sizes, scale):
    B, D_t, D_s = sizes
    teacher, student = randn(B, D_t, seed=1), scale * randn(B, D_s, seed=2)
    value, grad = value_and_gradient(pair_distance_huber, teacher, student)
    expected, wanted = value_and_gradient(pair_distance_huber, teacher.double(), student.double())
    assert abs(value - expected) <= 5e-6 * expected
    terms = 2 * B / torch.pdist(student.double()).mean()
    assert ((grad - wanted).abs() <= 1e-5 * (1 + wanted.abs()) + 1e-7 * terms).all()


@pytest.mark.parametrize("sizes", [(64, 200, 20), (128, 20, 3), (300, 20, 8)])
@pytest.mark.parametrize("scale", [0.01, 1, 100])
def test_gradients_of_angles_in_float32_are_as_exact_as_what_they_sum(sizes, scale):
    B, D_t, D_s = sizes
    teacher, student = randn(B, D_t, seed=1), scale * randn(B, D_s, seed=2)
    value, grad = value_and_gradient(triplet_angle_huber, teacher, student)
    expected, wanted = value_and_gradient(triplet_angle_huber, teacher.double(), student.double())
    assert abs(value - expected) <= 5e-6 * expected
    distances = torch.cdist(student.double(), student.double()).fill_diagonal_(torch.inf)
    terms = 2 * B * (1 / distances).sum(1, keepdim=True)
    assert ((grad - wanted).abs() <= 1e-5 * (1 + wanted.abs()) + 1e-7 * terms).all()


def test_large_groups_go_by_gram_matrices_and_agree_with_tiles(monkeypatch):
    teacher, student = randn(300, 6, seed=1), randn(300, 4, seed=2)
    groups = randint(0, 12, (300,), seed=3).clamp(max=8)  # the last is large
    module = sys.modules["rankdistill.ops.grouped_relation_distance"]
    taken = []
    tiles = module.native_tiles
    monkeypatch.setattr(module, "native_tiles", lambda *a: taken.append(len(a[2])) or tiles(*a))
    by_gram = module.forward_native(teacher, student, groups, False, True)
    assert taken[0] < 9
    expected = module.REFERENCE["forward"](teacher.double(), student.double(), groups, False, True)
    for found, wanted in zip(by_gram, expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-6)


def test_distances_between_near_rows_far_from_the_others():
    """Inner products of such rows lose every digit of their distance."""
    student = torch.cat([1e4 + 1e-3 * randn(5, 3, seed=1, dtype=DOUBLE), randn(5, 3, seed=2, dtype=DOUBLE)])
    teacher = randn(10, 4, seed=3, dtype=DOUBLE)
    module = sys.modules["rankdistill.ops.pair_distance_huber"]
    native, reference = (
        getattr(module, name)["forward"](teacher, student, True) for name in ("NATIVE", "REFERENCE")
    )
    for found, wanted in zip(native, reference, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("gap", [1e-6, 1e-10])
def test_angles_at_near_neighbours_keep_their_digits(gap):
    """A difference of near rows has few digits of theirs, but all of these."""
    rows, teacher = randn(16, 4, seed=1, dtype=DOUBLE), randn(32, 5, seed=2, dtype=DOUBLE)
    student = torch.cat([rows, rows + gap * randn(16, 4, seed=3, dtype=DOUBLE)]).requires_grad_()

    def cosines(x):
        differences = x[None] - x[:, None]
        lengths = differences.square().sum(2, keepdim=True)
        units = differences / lengths.where(lengths > 0, 1).sqrt()
        return units @ units.transpose(1, 2)

    error = (cosines(student) - cosines(teacher)).abs()
    expected = torch.where(error <= 1, error**2 / 2, error - 0.5).sum()
    found = triplet_angle_huber(teacher, student)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    grads = [torch.autograd.grad(loss, student)[0] for loss in (found, expected)]
    assert ((grads[0] - grads[1]).abs() <= 1e-10 * (1 + grads[1].abs())).all()


@pytest.mark.parametrize("largest", [1e-300, 1e-165, 1.0, 8.9e307, 1.7e308])
def test_angles_do_not_depend_on_the_length_of_rows(largest):
    teacher, student = (randn(9, width, seed=width, dtype=DOUBLE) for width in (4, 3))
    wanted = triplet_angle_huber(teacher, student)
    for scaled in (
        (teacher, largest * (student / student.abs().max())),
        (largest * (teacher / teacher.abs().max()), student),
    ):
        torch.testing.assert_close(triplet_angle_huber(*scaled), wanted, rtol=1e-11, atol=0)


def test_results_are_contiguous_whatever_the_tables_are():
    """As the fakes promise, by which compiled graphs are made."""
    by_columns = lambda x: x.t().contiguous().t()
    rows, others, teacher = (by_columns(randn(9, width, seed=width)) for width in (3, 3, 4))
    for kind in ("cosine", "inner_product", "squared_distance"):
        for other in (None, others):
            grads = torch.ops.rankdistill.relation_backward(
                by_columns(randn(9, 9, seed=5)), rows, other, kind
            )
            assert all(grad.is_contiguous() for grad in grads), kind
    found = torch.ops.rankdistill.cross_relation_distance_forward(
        teacher, teacher[:4], rows, rows[:4], None, True
    )
    assert all(part.is_contiguous() for part in found)


def test_coincident_rows_have_no_gradient_of_their_own():
    student = randn(1, 3, seed=1).expand(6, 3).clone().requires_grad_()
    for name in ("distances", "angles"):
        LOSSES[name](randn(6, 4, seed=2), student).backward()
        assert (student.grad == 0).all()
