"""Pointwise, calibrated and preference-consistent losses: the released code's numbers and the module."""

from __future__ import annotations

import pytest
import torch

from rankdistill import PreferenceConsistentDistillation, Rankings, functional
from rankdistill.data import CSR
from tests.case import randn
from tests.losses.vectors import D_S, assert_golden, golden_tensors, make_batch, make_student, teacher_tables


def test_released_numbers_of_consistency(golden):
    numbers = golden("cpd_ce_f64")
    t = golden_tensors(numbers)
    projected = t["S"].requires_grad_()
    loss = functional.preference_consistency(projected, t["T"], float(numbers["tau"]))
    assert_golden(loss, numbers["loss"], {"grad_S": projected}, numbers)


def test_released_numbers_of_pointwise_losses(golden):
    numbers = golden("pointkd_f64")
    t = golden_tensors(numbers)
    student = t["student_logit"].requires_grad_()
    loss = functional.pointwise_distillation(t["teacher_logit"], student)
    loss.backward()
    assert loss.item() == pytest.approx(float(numbers["bce_loss"]), rel=3e-5), "released in float32"
    wanted = torch.from_numpy(numbers["grad_bce"])
    assert (student.grad - wanted).abs().max() <= 3e-4 * wanted.abs().max()
    student.grad = None
    loss = functional.calibrated_listwise_distillation(t["teacher_logit"], student)
    assert_golden(loss, numbers["clid_loss"], {"grad_clid": student}, numbers)


def test_no_gradient_reaches_what_is_held_fixed():
    teacher, student = randn(4, 3, seed=1).requires_grad_(), randn(4, 3, seed=2).requires_grad_()
    for function in (functional.pointwise_distillation, functional.calibrated_listwise_distillation):
        function(teacher, student).backward()
    functional.preference_consistency(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_pairs_agree_in_sign():
    projected, raw = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 2.0]])
    margins = torch.tensor([2.0, 2.0, -1.0])  # (0, 1), (0, 2), (1, 2)
    wanted = torch.nn.functional.softplus(-margins).sum()
    loss = functional.preference_consistency(projected, raw, form="pair")
    torch.testing.assert_close(loss, wanted)
    with pytest.raises(ValueError, match="form as one of list, pair; got 'triple'"):
        functional.preference_consistency(projected, raw, form="triple")


@pytest.mark.parametrize("form", ["list", "pair"])
def test_consistency_trains_the_experts_alone(form):
    tables, student, batch = teacher_tables(), make_student(), make_batch()
    rankings = Rankings.from_vectors(*tables, k=12)
    method = PreferenceConsistentDistillation(*tables, rankings, D_S, n_experts=3, form=form)
    with pytest.raises(RuntimeError, match="expected begin_epoch before the first batch"):
        method(student, batch)
    method.begin_epoch(0)
    term = method.consistency(student, batch)
    term.backward()
    assert student.user_table.grad is None
    assert (method.user.experts.weight_in.grad != 0).any()
    assert (method.item.weight.grad != 0).any()
    preferred = method._preferred
    lists = rankings.indices.long()
    assert ((preferred[:, :, None] == lists[:, None]).any(2)).all(), "drawn from the teacher's list"
    method.begin_epoch(0)
    whole = method(student, batch).item()
    method.begin_epoch(0)
    method.beta = 0.0
    assert whole == pytest.approx(method(student, batch).item() + 0.1 * term.item(), rel=5e-6)


def test_consistency_is_its_definition():
    tables, student, batch = teacher_tables(), make_student(), make_batch()
    method = PreferenceConsistentDistillation(
        *tables, Rankings.from_vectors(*tables, k=12), D_S, n_experts=1, n_preferred=4
    )
    method.begin_epoch(2)
    expected = 0.0
    one = torch.ones(1, 1)
    for user in batch.users.unique().tolist():
        items = method._preferred[user]
        u = method.user.experts(student.user_table[user][None], one)[0]
        projected = torch.stack([method.item.experts(student.item_table[i][None], one)[0] @ u for i in items])
        raw = student.item_table[items] @ student.user_table[user]
        expected -= ((raw / 0.1).softmax(0) * (projected / 0.1).log_softmax(0)).sum().item()
    assert method.consistency(student, batch).item() == pytest.approx(expected, rel=2e-5)


def test_users_with_short_lists_have_no_consistency():
    tables, student, batch = teacher_tables(), make_student(), make_batch()
    users, items = (len(table) for table in tables)
    all_but_two = torch.cartesian_prod(torch.arange(users), torch.arange(items - 2)).unbind(1)
    rankings = Rankings.from_vectors(*tables, k=5, exclude=CSR.from_pairs(*all_but_two, users, items))
    method = PreferenceConsistentDistillation(*tables, rankings, D_S, n_experts=2)
    method.begin_epoch(0)
    assert method.consistency(student, batch).item() == 0
    with pytest.raises(
        ValueError, match=r"expected n_preferred in \[1, 3\], as list_length and rankings; got 5"
    ):
        PreferenceConsistentDistillation(*tables, rankings, D_S, list_length=3)
    with pytest.raises(ValueError, match="expected rankings of 20 users × 7 items"):
        PreferenceConsistentDistillation(tables[0], tables[1][:7], rankings, D_S)


def preference_consistent(**options):
    tables = teacher_tables()
    rankings = Rankings.from_vectors(*tables, k=12)
    method = PreferenceConsistentDistillation(*tables, rankings, D_S, **{"n_experts": 3} | options)
    method.begin_epoch(0)
    return method


@pytest.mark.parametrize("options", [{"list_length": 5}, {"position_temperature": 1e-3}])
def test_preferences_are_of_the_top_that_was_asked_for(options):
    method = preference_consistent(**options)
    assert torch.equal(method._preferred, method.rankings.indices[:, :5].long())
    assert not torch.equal(preference_consistent()._preferred, method._preferred)


def test_preferences_have_noise_of_their_own():
    method, drawn = preference_consistent(), []
    real = method.noise
    method.noise = lambda *args, **options: drawn.append(real(*args, **options)) or drawn[-1]
    method(make_student(), make_batch())
    assert not torch.equal(drawn[0], drawn[2]), "two terms, two draws"


def test_the_temperature_of_consistency():
    found = []
    for temperature in (0.1, 5.0):
        method = preference_consistent(n_experts=1, consistency_temperature=temperature)
        found.append(method.consistency(make_student(), make_batch()).item())
    assert found[0] != pytest.approx(found[1], rel=0.01)
