"""Losses of scored lists against the released numbers, their definitions, and the ends of the range."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rankdistill import functional
from tests.case import generator, randn
from tests.losses.vectors import assert_golden, golden_tensors


def world(numbers):
    """Student and teacher tables of a golden file, and scores of listed items of its batch's users."""
    t = golden_tensors(numbers)
    names = ("student_user", "student_item") if "student_user" in t else ("user_emb", "item_emb")
    tables = [t[name].requires_grad_() for name in names]
    users = t["batch_user"]

    def scores(user_table, item_table, ids):
        return (user_table[users][:, None, :] * item_table[ids[users]]).sum(2)

    of_student = lambda ids: scores(*tables, ids)
    of_teacher = lambda ids: scores(t["teacher_user"], t["teacher_item"], ids)
    return t, dict(zip(("grad_user", "grad_item"), tables, strict=True)), of_student, of_teacher


@pytest.mark.parametrize("name", ["kdce_small", "kdce_small_tau10"])
def test_released_softmax_cross_entropy(name, golden):
    t, leaves, of_student, of_teacher = world(numbers := golden(name))
    loss = functional.list_net(of_teacher(t["topk"]), of_student(t["topk"]), float(numbers["tau"]))
    assert_golden(loss, numbers["loss"], leaves, numbers)


def test_released_two_places(golden):
    numbers = golden("listnet2_small")
    t = golden_tensors(numbers)
    student = t["S"].requires_grad_()
    loss = functional.list_net(t["T"], student, float(numbers["tau"]), top=2)
    assert_golden(loss, numbers["loss"], {"grad_S": student}, numbers)


def test_released_likelihood_with_a_margin(golden):
    numbers = golden("listmle_margin_small")
    t = golden_tensors(numbers)
    student = t["S"].requires_grad_()
    loss = functional.list_mle(t["T"], student, margin=True)
    assert_golden(loss, numbers["loss"], {"grad_S": student}, numbers)
    assert loss < functional.list_mle(t["T"], student), "a row lies below the margin"


@pytest.mark.parametrize("name", ["rd_static_f64", "rd_hybrid_f64"])
def test_released_ranking_distillation(name, golden):
    numbers = golden(name)
    t = golden_tensors(numbers)
    weights = functional.position_weights(int(numbers["K"]), float(numbers["lam"]))
    assert torch.allclose(weights[None], t["weight_static"], rtol=1e-6)
    candidate = t["candidate"].requires_grad_()
    if numbers["epoch"] > numbers["dynamic_start_epoch"]:
        found = functional.discrepancy_weights(
            candidate, t["dynamic"], int(numbers["num_items"]), float(numbers["mu"])
        )
        weights = found.float() * weights
    assert torch.allclose(weights.expand_as(t["weight"]), t["weight"], rtol=1e-5, atol=1e-7)
    loss = functional.ranking_distillation(candidate, t["weight"].expand_as(candidate))
    wanted = (numbers["loss"] - numbers["regular_loss"]) / numbers["alpha"]
    assert_golden(
        loss,
        wanted,
        {"grad": candidate},
        {"grad": t["grad_candidate"] / float(numbers["alpha"])},
    )


def test_released_ranking_distillation_of_later_code(golden):
    """Ranks from 1, weights of sum 1 per row, a sum over the batch."""
    t, leaves, of_student, _ = world(numbers := golden("rd_kds_small"))
    scores, k = of_student(t["teacher_topk"]), t["teacher_topk"].shape[1]
    static = functional.position_weights(k, float(numbers["T"]))
    assert torch.allclose(static[None], t["static_weights"], rtol=1e-6)
    sampled, n_items = of_student(t["dynamic_samples"]), int(numbers["num_items"])
    weights = static * functional.discrepancy_weights(scores, sampled, n_items, float(numbers["mu"]), 1)
    weights = weights / weights.sum(1, keepdim=True)
    assert torch.allclose(weights.float(), t["weights"], rtol=1e-5, atol=1e-7)
    loss = functional.ranking_distillation(scores, t["weights"].double(), reduction="sum")
    assert_golden(loss, numbers["loss"], leaves, numbers)


@pytest.mark.parametrize("name", ["cd_small_f64", "cd_temp_f64"])
def test_released_collaborative_distillation(name, golden):
    t, leaves, of_student, of_teacher = world(numbers := golden(name))
    samples = t["samples"]
    loss = functional.collaborative_distillation(
        of_teacher(samples), of_student(samples), float(numbers["t1"]), float(numbers["t2"])
    )
    # The released code adds 1e-10 inside its logarithms.
    assert loss.item() == pytest.approx(float(numbers["loss"]), rel=2e-9)
    loss.backward()
    for side, leaf in leaves.items():
        assert torch.allclose(leaf.grad, t[side], rtol=0, atol=1e-8 * t[side].abs().max().item())


def test_released_pairs_of_popularity_groups(golden):
    t, leaves, of_student, _ = world(numbers := golden("unkd_small_f64"))
    loss = functional.bayesian_personalized_ranking(
        of_student(t["pos_items"]), of_student(t["neg_items"]), "mean"
    )
    assert loss.item() == pytest.approx(float(numbers["loss"]), rel=2e-9)
    loss.backward()
    for side, leaf in leaves.items():
        assert torch.allclose(leaf.grad, t[side], rtol=0, atol=1e-8 * t[side].abs().max().item())


def test_released_rejuvenated_cross_entropy(golden):
    t, leaves, of_student, of_teacher = world(numbers := golden("rcekd_small"))
    users, K = t["batch_user"], int(numbers["K"])
    own, best, sampled = (t[name][users] for name in ("S_topk", "T_topk", "interesting"))
    found = (best[:, :, None] == sampled[:, None, :]).any(2)
    elsewhere = (best[:, :, None] == own[:, None, :]).any(2)
    counted = torch.cat([torch.ones_like(sampled, dtype=torch.bool), ~found & ~elsewhere], 1)
    wider = torch.cat([t["interesting"], t["T_topk"]], 1)
    loss = functional.rejuvenated_cross_entropy(
        of_teacher(t["S_topk"]), of_student(t["S_topk"]), of_teacher(wider), of_student(wider), counted,
        found.sum(1) / K, float(numbers["tau"]), float(numbers["beta"]),
    )  # fmt: skip
    # Its overlap is a float32.
    assert loss.item() == pytest.approx(float(numbers["loss"]), rel=1e-6)
    loss.backward()
    for name, leaf in leaves.items():
        assert torch.allclose(leaf.grad, t[name], rtol=0, atol=1e-6 * t[name].abs().max().item())


def test_released_list_of_a_language_model(golden):
    numbers = golden("dllm2rec_small_f64")
    t = golden_tensors(numbers)
    scores = t["scores"].requires_grad_()
    loss = float(numbers["lam"]) * functional.importance_aware_ranking_distillation(
        scores.gather(1, t["candidates"]), scores.gather(1, t["neg_item"])[:, 0], t["weight"]
    )
    assert_golden(loss, numbers["loss"], {"grad_scores": scores}, numbers)


def test_two_places_by_their_definition():
    teacher, student = randn(3, 5, seed=1).double(), randn(3, 5, seed=2).double()
    expected = []
    for t, s in zip(teacher.softmax(1).tolist(), student.softmax(1).tolist(), strict=True):
        pairs = itertools.permutations(range(5), 2)
        expected.append(-sum(t[i] * t[j] / (1 - t[i]) * math.log(s[i] * s[j] / (1 - s[i])) for i, j in pairs))
    found = functional.list_net(teacher, student, top=2, reduction="none")
    assert found.tolist() == pytest.approx(expected)


def test_the_estimated_rank_is_that_of_a_count():
    scores, sampled = randn(4, 6, seed=1).round(decimals=1), randn(4, 30, seed=2).round(decimals=1)
    found = functional.discrepancy_weights(scores, sampled, 1000, 0.001)
    above = (scores[:, :, None] < sampled[:, None, :]).sum(2)
    ranks = (999 * above / 30).floor()
    assert torch.allclose(found, (0.001 * (ranks - torch.arange(6))).tanh().clamp_min(0))


LOSSES = {
    "one place": lambda t, s: functional.list_net(t, s),
    "two places": lambda t, s: functional.list_net(t, s, top=2),
    "likelihood": lambda t, s: functional.list_mle(t, s),
    "ranking distillation": lambda t, s: functional.ranking_distillation(s, t.sigmoid()),
    "collaborative": lambda t, s: functional.collaborative_distillation(t, s),
    "of a language model": lambda t, s: functional.importance_aware_ranking_distillation(
        s, s[:, 0], t.sigmoid()
    ),
    "rejuvenated": lambda t, s: functional.rejuvenated_cross_entropy(
        t, s, t.flip(1), s.flip(1), s.detach() > s.detach().median(), torch.full((len(s),), 0.5)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name):
    teacher, student = randn(4, 5, seed=1).double(), randn(4, 5, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](teacher, s), student)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("K", [1, 2, 9])
def test_finite_for_finite_scores_and_blind_to_the_teacher(name, scale, K):
    teacher, student = (randn(4, K, seed=n, scale=scale).requires_grad_() for n in (1, 2))
    loss = LOSSES[name](teacher, student)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert teacher.grad is None


@pytest.mark.parametrize("name", LOSSES)
def test_no_rows(name):
    assert LOSSES[name](torch.zeros(0, 3), torch.zeros(0, 3)).item() == 0


@pytest.mark.parametrize("top", [1, 2])
def test_lengths_of_scored_lists(top):
    teacher, student = randn(4, 6, seed=1), randn(4, 6, seed=2)
    lengths = torch.tensor([6, 0, 1, 3])
    alone = [
        functional.list_net(teacher[b : b + 1, :n], student[b : b + 1, :n], top=top).item()
        for b, n in enumerate(lengths)
    ]
    teacher[3, 3:], student[2, 1:] = float("nan"), float("inf")
    student.requires_grad_()
    found = functional.list_net(teacher, student, top=top, lengths=lengths, reduction="none")
    assert found.tolist() == pytest.approx(alone, rel=1e-5)
    found.sum().backward()
    assert student.grad.isfinite().all()
    assert (student.grad[3, 3:] == 0).all()
    counted = int((lengths >= top).sum())
    mean = functional.list_net(teacher, student, top=top, lengths=lengths, reduction="mean")
    assert mean.item() == pytest.approx(sum(alone) / counted, rel=1e-5)


def test_lengths_leave_the_padding_out():
    scores = randn(3, 4, seed=1)
    lengths = torch.tensor([4, 0, 2])
    rows = functional.ranking_distillation(scores, None, lengths, "none")
    assert rows[1] == 0
    scores[2, 2:] = float("nan")
    assert torch.equal(functional.ranking_distillation(scores, None, lengths, "none"), rows)
    assert functional.ranking_distillation(scores, None, lengths).item() == pytest.approx(
        rows.sum().item() / 2
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: functional.list_net(s[:1], s), r"teacher of shape \[2, 3\], as student"),
        (lambda s: functional.list_net(s, s, 0.0), "a temperature above 0; got float 0.0"),
        (lambda s: functional.list_net(s, s, top=3), "top of 1 or 2; got int 3"),
        (lambda s: functional.list_mle(s, s[:, :1]), r"teacher of shape \[2, 1\], as student"),
        (lambda s: functional.ranking_distillation(s, s[:, :1]), r"weights of shape \[2, 3\] or its last"),
        (lambda s: functional.position_weights(3, -1.0), "a temperature above 0"),
        (lambda s: functional.discrepancy_weights(s, s[:, :0], 9), "at least one sampled score per row"),
        (lambda s: functional.collaborative_distillation(s, s, 0.0), "a temperature above 0"),
        (
            lambda s: functional.importance_aware_ranking_distillation(s, s[:, 0], s, "mine"),
            "form as one of released, paper",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(randn(2, 3))


def test_importance_in_the_papers_form():
    scores, negative = randn(4, 3, seed=1).double(), randn(4, seed=2).double()
    weights = torch.rand(4, 3, generator=generator(3)).double()
    expected = -(weights * (scores.sigmoid() * (1 - negative.sigmoid())[:, None]).log()).sum(1).mean()
    found = functional.importance_aware_ranking_distillation(scores, negative, weights, "paper")
    assert found.item() == pytest.approx(expected.item())
