"""Functions of scores at their edges: half precision, padding, lengths and shapes that do not fit, the largest scores."""

from __future__ import annotations

import pytest
import torch

from rankdistill import functional
from rankdistill.functional.latent import unit_rows
from tests.case import randn

B, K = 5, 4
LENGTHS = torch.tensor([4, 0, 2, 1, 3])


def importance(scores):
    return functional.importance_aware_ranking_distillation(
        scores, scores[:, 0], torch.ones_like(scores), "paper"
    )


def rejuvenated(teacher, student):
    counted = torch.ones(student.shape, dtype=torch.bool)
    return functional.rejuvenated_cross_entropy(
        teacher, student, teacher, student, counted, torch.ones(len(student))
    )


# Each of scores [B, K] of a teacher and a student.
LOSSES = {
    "bpr": functional.bayesian_personalized_ranking,
    "rd": lambda t, s: functional.ranking_distillation(s, (t > 0).to(t)),
    "list_net": functional.list_net,
    "list_net_2": lambda t, s: functional.list_net(t, s, top=2),
    "list_mle": functional.list_mle,
    "rejuvenated": rejuvenated,
    "pointwise": functional.pointwise_distillation,
    "collaborative": functional.collaborative_distillation,
    "bidirectional": functional.bidirectional_distillation,
    "importance": lambda t, s: importance(s),
    "calibrated": functional.calibrated_listwise_distillation,
    "preference": lambda t, s: functional.preference_consistency(s, t),
    "preference pairs": lambda t, s: functional.preference_consistency(s, t, form="pair"),
    "metric": functional.metric_learning,
    "unordered": lambda t, s: functional.unordered_ranking_distillation(s, t[:, 0]).sum(),
    "relaxed": lambda t, s: functional.relaxed_ranking_distillation(s, t.to(s)),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_worked_in_float32(loss, dtype):
    """Against the float64 loss of the same numbers: no sum of the loss is in half precision."""
    teacher, student = (40 * randn(300, K, seed=seed).to(dtype) for seed in (1, 2))
    student.requires_grad_()
    found = loss(teacher, student)
    wanted = loss(teacher.double(), student.detach().double())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=5e-6)
    found.backward()
    assert student.grad.dtype == dtype
    assert bool(student.grad.isfinite().all())


@every_loss
def test_a_teacher_in_half_precision_teaches_a_student_in_float32(loss):
    teacher, student = 4 * randn(B, K, seed=1).half(), randn(B, K, seed=2)
    assert loss(teacher, student).item() == pytest.approx(loss(teacher.float(), student).item(), rel=1e-6)


@every_loss
@pytest.mark.parametrize("size", [200.0, 1e4])
@pytest.mark.parametrize("sign", [-1, 1])
def test_large_scores_of_one_sign_are_finite(loss, size, sign):
    """All sigmoids under- or overflow together."""
    student = (sign * size * torch.ones(B, K)).requires_grad_()
    found = loss(-student.detach(), student)
    found.backward()
    assert bool(found.isfinite())
    assert bool(student.grad.isfinite().all())


LISTED = {
    "list_net": lambda s, lengths: functional.list_net(
        torch.zeros(B, K), s, lengths=lengths, reduction="none"
    ),
    "rd": lambda s, lengths: functional.ranking_distillation(s, None, lengths, "none"),
    "unordered": lambda s, lengths: functional.unordered_ranking_distillation(s, torch.zeros(B), lengths),
    "relaxed": lambda s, lengths: functional.relaxed_ranking_distillation(s, None, lengths, "none"),
}
every_list = pytest.mark.parametrize("loss", LISTED.values(), ids=LISTED)


@every_list
@pytest.mark.parametrize("padding", [torch.nan, torch.inf, -torch.inf, 7.0])
def test_what_stands_in_the_padding_never_matters(loss, padding):
    scores, padded = randn(B, K, seed=1), torch.arange(K) >= LENGTHS[:, None]
    found = []
    for value in (0.0, padding):
        leaf = scores.masked_fill(padded, value).requires_grad_()
        losses = loss(leaf, LENGTHS)
        losses.sum().backward()
        found.append((losses.detach(), leaf.grad))
    assert found[0][0].equal(found[1][0])
    assert found[0][1].equal(found[1][1])
    assert found[0][0][1] == 0
    assert bool((found[0][1][padded] == 0).all())


def test_no_mass_in_the_rest_has_no_gradient():
    listed, rest = (
        torch.tensor([[1.0, -torch.inf]], requires_grad=True),
        torch.tensor([-torch.inf], requires_grad=True),
    )
    functional.unordered_ranking_distillation(listed, rest, torch.tensor([1])).sum().backward()
    assert rest.grad.tolist() == [0]
    assert listed.grad.tolist() == [[0, 0]]


@every_list
@pytest.mark.parametrize(("lengths", "got"), [([4, 9, 1, 0, 0], 9), ([4, 0, -1, 0, 0], -1)])
def test_lengths_out_of_range_are_named(loss, lengths, got):
    with pytest.raises(IndexError, match=rf"expected lengths in \[0, 5\); got {got} at position"):
        loss(torch.zeros(B, K), torch.tensor(lengths))


WRONG = {
    "lengths": lambda: functional.list_net(
        torch.zeros(B, K), torch.zeros(B, K), lengths=torch.zeros(B, 1).long()
    ),
    "weights": lambda: functional.hint_regression(
        torch.ones(B, 2), torch.zeros(B, 2), weights=torch.ones(B, 1)
    ),
    "overlap": lambda: functional.rejuvenated_cross_entropy(
        *4 * [torch.zeros(B, K)], torch.ones(B, K, dtype=torch.bool), torch.ones(B, 1)
    ),
    "wider_counted": lambda: functional.rejuvenated_cross_entropy(
        *4 * [torch.zeros(B, K)], torch.ones(B, 1, dtype=torch.bool), torch.ones(B)
    ),
    "rest": lambda: functional.unordered_ranking_distillation(torch.zeros(B, K), torch.zeros(B, 1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_rows_of_another_shape_do_not_broadcast(what):
    with pytest.raises(ValueError, match=rf"expected {what} (of shape|with 1 dimensions)"):
        WRONG[what]()


def test_rows_for_angles_are_checked():
    rows = torch.eye(3)
    with pytest.raises(IndexError, match=r"expected angle_rows in \[0, 3\); got -1 at position \[1\]"):
        functional.relational_knowledge_distillation(rows, rows, angle_rows=torch.tensor([0, -1]))


def test_a_teachers_infinite_score_has_the_whole_share():
    teacher = torch.tensor([[torch.inf, 3.0, 1.0], [torch.inf, torch.inf, 0.0]])
    student = torch.tensor([[1.0, 2.0, 3.0], [0.5, 1.0, 2.0]])
    logs = student.log_softmax(1)
    wanted = torch.stack([-logs[0, 0], -(logs[1, 0] + logs[1, 1]) / 2])
    for temperature in (0.5, 1.0, 7.0):
        found = functional.list_net(teacher, student * temperature, temperature, reduction="none")
        assert torch.allclose(found, wanted, atol=1e-5)
    assert bool(functional.list_net(teacher, student, top=2).isfinite())


def test_calibrated_shares_by_their_definition():
    teacher, student = randn(9, dtype=torch.float64, seed=1), randn(9, dtype=torch.float64, seed=2)
    p, q = (x.sigmoid() / x.sigmoid().sum() for x in (teacher, student))
    wanted = -(p * q.log() + (1 - p) * (1 - q).log()).mean()
    assert functional.calibrated_listwise_distillation(teacher, student).item() == pytest.approx(
        wanted.item(), rel=1e-12
    )
    lone = torch.zeros(1, requires_grad=True)
    functional.calibrated_listwise_distillation(torch.zeros(1), lone).backward()
    assert lone.grad.item() == 0
    assert functional.calibrated_listwise_distillation(torch.zeros(0), torch.zeros(0)).item() == 0


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e-13, 1.0, 1e30])
def test_directions_of_short_and_long_rows(size):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    short = (rows * size).requires_grad_()
    assert torch.allclose(unit_rows(short), rows / 5, atol=2e-5)
    assert functional.frequency_distillation(rows[:1], short[:1]).item() == pytest.approx(0, abs=2e-5)
    unit_rows(short).sum().backward()
    assert short.grad[1].tolist() == [0, 0]


def test_a_multinomial_in_half_precision():
    """The sum of 1,800 scores of 200 is beyond float16, and so is any one loss made of it."""
    users, items = torch.full((2, 2), 10.0).half(), torch.full((900, 2), 10.0).half()
    observed = torch.arange(0, 1801, 900), torch.arange(900).repeat(2)
    found = functional.multinomial_likelihood(users, items, observed)
    assert found.item() == pytest.approx(1800 * torch.tensor(900.0).log().item(), rel=1e-5)
