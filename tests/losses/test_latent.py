"""Hints, experts and hyper-networks: the released code's numbers, the laws, the modules."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import linear

from rankdistill import (
    Batch,
    DistillationExperts,
    HintRegression,
    PersonalizedHintRegression,
    functional,
    gumbel_noise,
    routed_experts,
)
from rankdistill.experts import Experts
from rankdistill.functional import latent
from rankdistill.functional.latent import routed
from tests.case import generator, randint, randn
from tests.losses.vectors import (
    D_S,
    D_T,
    assert_golden,
    golden_tensors,
    make_batch,
    make_student,
    teacher_tables,
)


@pytest.mark.parametrize("name", ["de_m1_f64", "de_small_f64", "de_t1e-3_f64"])
def test_released_numbers_of_experts(name, golden):
    numbers = golden(name)
    t = golden_tensors(numbers)
    leaves = {f"grad_{k}": t[k].requires_grad_() for k in ("W1", "b1", "W2", "b2")}
    leaves["grad_student"] = t["student_emb"].requires_grad_()
    if "grad_sel_weight" in t:
        leaves |= {f"grad_{k}": t[k].requires_grad_() for k in ("sel_weight", "sel_bias")}
    logits = linear(t["teacher_emb"], t["sel_weight"], t["sel_bias"])
    torch.testing.assert_close(logits.detach().softmax(1), t["alpha"], rtol=1e-12, atol=1e-14)
    routing = functional.expert_routing(logits, t["gumbel"], float(numbers["temperature"]))
    parts = t["W1"], t["b1"], t["W2"], t["b2"]
    loss = functional.distillation_experts(t["teacher_emb"], t["student_emb"], routing, parts)
    assert_golden(loss, numbers["loss"], leaves, numbers)


def test_released_temperatures(golden):
    numbers = golden("annealing_de")
    schedule = int(numbers["max_epoch"]), float(numbers["T0"]), float(numbers["T_end"])
    for epoch, wanted in zip(numbers["epoch"], numbers["T_after_epoch"], strict=True):
        assert functional.annealed_temperature(int(epoch), *schedule) == pytest.approx(
            float(wanted), rel=1e-12
        )
    method = DistillationExperts(*teacher_tables(), D_S, n_experts=2)
    used = []
    for epoch in (0, 1, 2):
        method.begin_epoch(epoch)
        used.append(method.temperature)
    assert used[0] == used[1] == 1.0
    assert used[2] == functional.annealed_temperature(1, 1000)
    with pytest.raises(ValueError, match="expected n_epochs of 1 or more"):
        functional.annealed_temperature(0, 0)


@pytest.mark.parametrize("name", ["fitnet_f64", "fitnet_norm_f64"])
def test_released_numbers_of_hints(name, golden):
    numbers = golden(name)
    t = golden_tensors(numbers)
    leaves = {f"grad_{k}": t[k].requires_grad_() for k in ("student", "W", "b")}
    predicted = linear(t["student"], t["W"], t["b"])
    loss = functional.hint_regression(t["teacher"], predicted, normalized=bool(numbers["norm"]))
    assert_golden(loss, numbers["loss"], leaves, numbers)


def test_released_numbers_of_the_hyper_network(golden):
    numbers = golden("phr_small_f64")
    t = golden_tensors(numbers)
    leaves = {f"grad_{k}": t[k].requires_grad_() for k in ("student", "W1", "b1", "W2", "b2")}
    network = t["W1"], t["b1"], t["W2"], t["b2"]
    loss = functional.personalized_hint_regression(t["teacher"], t["student"], network)
    assert_golden(loss, numbers["loss"], leaves, numbers)


def test_routing_turns_one_hot_and_its_floor_holds():
    logits, noise = randn(50, 6, seed=1), randn(50, 6, seed=2)
    cold = functional.expert_routing(logits, noise, 1e-10)
    best = (logits.log_softmax(1) + noise).argmax(1)
    assert torch.equal(cold, torch.nn.functional.one_hot(best, 6).float())
    # A share of 0 still competes as 1e-10: log α is at least −23.03.
    logits = torch.tensor([[0.0, -1000.0]], dtype=torch.float64)
    share = functional.expert_routing(logits)[0, 1].item()
    assert share == pytest.approx(1e-10 / (1 + 2e-10), rel=1e-9)
    assert functional.expert_routing(randn(3, 1), randn(3, 1), 0.1).tolist() == [[1.0]] * 3
    with pytest.raises(ValueError, match="a temperature above 0"):
        functional.expert_routing(logits, temperature=0.0)


def test_one_hot_rows_are_worked_alone_with_the_same_loss_and_gradients():
    """Rows that one expert serves, rows that several do, and both in one batch."""
    M, B = 4, 23
    experts = Experts(M, 5, 9, seed=1).double()
    chosen = randint(0, M, (B,), seed=2)
    one_hot = torch.nn.functional.one_hot(chosen, M).double()
    shares = randn(B, M, seed=3, dtype=torch.float64).softmax(1)
    half = torch.where((torch.arange(B) % 2 == 0)[:, None], one_hot, shares)
    for routing in (one_hot, half, shares):
        results = []
        for way in (routed_experts, None):
            x = randn(B, 5, seed=4, dtype=torch.float64).requires_grad_()
            z = routing.clone().requires_grad_()
            experts.zero_grad()
            out = routed(x, z, experts.parts()) if way is None else way(x, z, *experts.parts())
            (out * randn(B, 9, seed=5, dtype=torch.float64)).sum().backward()
            results.append([out.detach(), x.grad, *(p.grad for p in experts.parts())])
        for plain, split in zip(*results, strict=True):
            torch.testing.assert_close(plain, split, rtol=1e-12, atol=1e-12)


def test_rows_that_few_experts_serve_are_worked_expert_by_expert(monkeypatch):
    """Of 12 experts up to 3; the value and all gradients are those of the sum over experts, and what was asked of the op."""
    M, B = 12, 40
    experts = Experts(M, 5, 9, seed=1).double()
    counts = torch.arange(B) % 7 + 1  # experts of each row
    kept = torch.rand(B, M, generator=generator(2)).argsort(1).argsort(1) < counts[:, None]
    shares = randn(B, M, seed=3, dtype=torch.float64).masked_fill(~kept, -torch.inf).softmax(1)
    x = randn(B, 5, seed=4, dtype=torch.float64)
    calls, results = [], []
    op = latent.routed_experts
    monkeypatch.setattr(latent, "routed_experts", lambda *args: calls.append(args[1]) or op(*args))

    def as_defined(x, shares, weight_in, bias_in, weight_out, bias_out):
        hidden = (torch.einsum("bd,mhd->bmh", x, weight_in) + bias_in).relu()
        made = torch.einsum("bmh,moh->bmo", hidden, weight_out) + bias_out
        return (shares[..., None] * made).sum(1)

    for way in (lambda *args: routed(*args[:2], args[2:]), as_defined):
        leaves = x.clone().requires_grad_(), shares.clone().requires_grad_()
        experts.zero_grad()
        out = way(*leaves, *experts.parts())
        (out * randn(B, 9, seed=5, dtype=torch.float64)).sum().backward()
        used = leaves[1].grad.masked_fill(~kept, 0)  # zeros have none, as none passes through a softmax
        results.append([out.detach(), leaves[0].grad, used, *(p.grad.clone() for p in experts.parts())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    few = counts <= 3
    by_expert, mixed = sorted(calls, key=lambda asked: asked.dim())
    assert len(by_expert) == counts[few].sum()
    assert mixed.shape == ((~few).sum(), M)


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.03])
def test_shares_that_are_dropped_change_nothing_that_float32_can_hold(temperature):
    """Loss and gradients, of the selector too, against float64 with all shares."""
    M, B = 30, 200
    logits, noise, x = (
        randn(B, M, seed=1),
        -(-torch.rand(B, M, generator=generator(2)).log()).log(),
        randn(B, 5, seed=3),
    )
    target, results = randn(B, 9, seed=4), []
    for dtype in (torch.float32, torch.float64):
        experts = Experts(M, 5, 9, seed=5).to(dtype)
        leaf, rows = (t.detach().clone().to(dtype).requires_grad_() for t in (logits, x))
        if dtype == torch.float32:
            routing = functional.expert_routing(leaf, noise, temperature)
            assert (routing == 0).any() == (temperature < 0.5)
        else:
            routing = (((leaf.softmax(1) + 1e-10).log() + noise.double()) / temperature).softmax(1)
        loss = functional.distillation_experts(target.to(dtype), rows, routing, experts.parts())
        loss.backward()
        results.append([loss.detach(), leaf.grad, rows.grad, *(p.grad for p in experts.parts())])
    for found, expected in zip(*results, strict=True):
        scale = 1 + expected.abs().max()
        assert ((found.double() - expected).abs() <= 1e-5 * scale).all()


def test_a_cold_selector_gets_no_gradient_and_a_warm_one_does():
    tables, student, batch = teacher_tables(), make_student(), make_batch()
    for start, trains in ((1.0, True), (1e-12, False)):
        method = DistillationExperts(*tables, D_S, n_experts=3, start=start, end=1e-12)
        method.begin_epoch(0)
        method(student, batch).backward()
        gradient = method.user.weight.grad
        assert (gradient is not None and bool((gradient != 0).any())) == trains


def test_experts_module_is_its_definition():
    tables, student, batch = teacher_tables(), make_student(), make_batch()
    method = DistillationExperts(*tables, D_S, n_experts=3, seed=7)
    method.begin_epoch(4)
    loss = method(student, batch)
    expected = 0.0
    for side, table, vectors, streams in (
        ("user", tables[0], student.user_table, [(batch.users, 1.0)]),
        ("item", tables[1], student.item_table, [(batch.positives, 0.5), (batch.negatives, 0.5)]),
    ):
        selected = getattr(method, side)
        for part, (ids, weight) in enumerate(streams):
            for row in torch.unique(ids[ids >= 0]).tolist():
                noise = gumbel_noise(
                    torch.tensor([row]), 3, seed=7, epoch=4, step=0, stream=16 if side == "user" else 17,
                    parts=torch.tensor([part]),
                )[0]  # fmt: skip
                alpha = (selected.weight @ table[row] + selected.bias).softmax(0)
                z = (((alpha + 1e-10).log() + noise) / method.temperature).softmax(0)
                w1, b1, w2, b2 = selected.experts.parts()
                made = sum(z[m] * (w2[m] @ (w1[m] @ vectors[row] + b1[m]).relu() + b2[m]) for m in range(3))
                expected += weight * (table[row] - made).square().sum().item()
    assert loss.item() == pytest.approx(expected, rel=5e-6)


def test_noise_is_fresh_at_every_call_and_the_same_again():
    tables, student, batch = teacher_tables(), make_student(), make_batch()
    method = DistillationExperts(*tables, D_S, n_experts=3)
    losses = []
    for epoch in (2, 3, 2):
        method.begin_epoch(epoch)
        losses.append([method(student, batch).item() for _ in range(2)])
    assert losses[0] == losses[2]
    assert losses[0][0] != losses[0][1]
    noise = gumbel_noise(torch.arange(4000), 6, seed=1, epoch=2, step=3, stream=16)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.03)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.08)
    again = gumbel_noise(torch.tensor([17]), 6, seed=1, epoch=2, step=3, stream=16)
    assert torch.equal(again[0], noise[17])


def test_paper_form_is_the_norm_itself():
    teacher, student = randn(5, 6, seed=1), randn(5, 3, seed=2)
    experts = Experts(2, 3, 6)
    routing = randn(5, 2, seed=3).softmax(1)
    squared, plain = (
        functional.distillation_experts(teacher, student, routing, experts.parts(), form, "none")
        for form in ("released", "paper")
    )
    torch.testing.assert_close(squared.sqrt(), plain)
    exact = experts(student, routing).detach().requires_grad_()
    functional.distillation_experts(exact.detach(), student, routing, experts.parts(), "paper").backward()
    assert experts.weight_in.grad.isfinite().all()
    with pytest.raises(ValueError, match="form as one of released, paper; got 'plain'"):
        functional.distillation_experts(teacher, student, routing, experts.parts(), "plain")


def test_hint_module_is_its_definition():
    tables, student, batch = teacher_tables(), make_student(), make_batch()
    method = HintRegression(*tables, D_S, seed=3)
    users, positives, negatives = (torch.unique(ids[ids >= 0]) for ids in batch[:3])
    predicted = linear(student.user_table[users], method.user_weight, method.user_bias)
    expected = (tables[0][users] - predicted).square().sum()
    for ids in (positives, negatives):
        predicted = linear(student.item_table[ids], method.item_weight, method.item_bias)
        expected = expected + (tables[1][ids] - predicted).square().sum() / 2
    assert method(student, batch).item() == pytest.approx(expected.item(), rel=5e-6)


def test_hyper_network_is_conditioned_on_partners_in_the_papers_form():
    tables, student, batch = teacher_tables(), make_student(), make_batch()
    losses = []
    for form in ("released", "paper"):
        method = PersonalizedHintRegression(*tables, D_S, hidden_width=10, form=form)
        losses.append(method(student, batch).item())
    assert losses[0] != losses[1]
    rows = method.sides(student, batch)
    means = method.enriched(rows[0], batch)
    user = int(rows[0].ids[2])
    partners = tables[1][batch.positives[batch.users == user]].mean(0)
    torch.testing.assert_close(means[2], (tables[0][user] + partners) / 2)
    enriched = method.enriched(rows[1], batch)
    alone = ~torch.isin(rows[1].ids, batch.positives)
    assert torch.equal(enriched[alone], rows[1].teacher[alone])
    both = (rows[1].part == 1) & ~alone  # an item that is a negative too has its partners all the same
    assert both.any()
    assert not (enriched[both] == rows[1].teacher[both]).all(1).any()
    item = int(rows[1].ids[0])
    partners = tables[0][batch.users[batch.positives == item]].mean(0)
    torch.testing.assert_close(enriched[0], (tables[1][item] + partners) / 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HintRegression(*teacher_tables(), D_S),
        lambda: DistillationExperts(*teacher_tables(), D_S, n_experts=3),
        lambda: PersonalizedHintRegression(*teacher_tables(), D_S, hidden_width=6),
    ],
    ids=["hint", "experts", "hyper-network"],
)
def test_parts_train_and_are_stored_without_the_teacher(make):
    student, batch, method = make_student(), make_batch(), make()
    method.begin_epoch(0, student)
    method(student, batch).backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in method.parameters())
    assert student.user_table.grad.abs().sum() > 0
    assert student.item_table.grad.abs().sum() > 0
    assert not any("teacher" in name for name in method.state_dict())
    other = make()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(method.state_dict())
    other.begin_epoch(0, student)
    method.begin_epoch(0, student)
    assert other(student, batch).item() == method(student, batch).item()
    assert method(student, Batch(batch.users)).item() > 0, "users alone will do"
    assert method(student, Batch(batch.users[:0], batch.positives[:0], batch.negatives[:0])).item() == 0


def test_bad_input():
    users, items = teacher_tables()
    with pytest.raises(ValueError, match="expected teacher_items of two dimensions and one width"):
        HintRegression(users, items[:, :3], D_S)
    with pytest.raises(ValueError, match="expected form as one of released, paper; got 'both'"):
        PersonalizedHintRegression(users, items, D_S, form="both")
    with pytest.raises(ValueError, match="expected n_experts of 1 or more; got 0"):
        DistillationExperts(users, items, D_S, n_experts=0)
    with pytest.raises(ValueError, match="expected predictions of shape"):
        functional.hint_regression(users, users[:, :2])
    assert users.shape[1] == D_T


def test_a_temperature_stays_at_its_end():
    assert functional.annealed_temperature(25, 10, 1.0, 1e-4) == pytest.approx(1e-4)


@pytest.mark.parametrize("kind", [HintRegression, PersonalizedHintRegression])
def test_another_seed_begins_elsewhere(kind):
    first, other = (kind(*teacher_tables(), D_S, seed=seed).state_dict() for seed in (0, 1))
    assert not any(torch.equal(tensor, other[key]) for key, tensor in first.items())
