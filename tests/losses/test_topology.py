"""Topology and relations: the released code's numbers, the invariances, the modules."""

from __future__ import annotations

import pytest
import torch

from rankdistill import (
    FullTopologyDistillation,
    HierarchicalTopologyDistillation,
    RelationalKnowledgeDistillation,
    functional,
    relation,
)
from tests.case import randint, randn
from tests.losses.vectors import D_S, assert_golden, golden_tensors, make_batch, make_student, teacher_tables


@pytest.mark.parametrize("name", ["ftd_small_f64", "ftd_small_f32", "ftd_dup_antipodal_f64"])
def test_released_numbers_of_full_topology(name, golden):
    numbers = golden(name)
    t = golden_tensors(numbers)
    student = t["student"].requires_grad_()
    loss = functional.full_topology_distillation(t["teacher"], student)
    assert_golden(loss, numbers["loss"], {"grad_student": student}, numbers)


def test_where_the_released_code_has_nan_a_row_of_zeros_has_cosines_of_zero(golden):
    t = golden_tensors(golden("ftd_zero_row_f64"))
    assert t["loss"].isnan()
    assert t["grad_student"].isnan().any()
    student = t["student"].requires_grad_()
    functional.full_topology_distillation(t["teacher"], student).backward()
    zero = (student == 0).all(1)
    assert int(zero.sum()) == 1
    assert student.grad.isfinite().all()
    assert (student.grad[zero] == 0).all()
    assert (relation(student.detach())[zero] == 0).all()


@pytest.mark.parametrize("name", ["htd_small_f64", "htd_negpairs_f64", "htd_small_f32"])
@pytest.mark.parametrize(("term", "group_term"), [("td1", "groups"), ("td2", "entities")])
def test_released_numbers_of_hierarchical_topology(name, term, group_term, golden):
    numbers = golden(name)
    t = golden_tensors(numbers)
    student = t["student"].requires_grad_()
    loss = functional.hierarchical_topology_distillation(t["teacher"], student, t["group"], group_term)
    assert_golden(loss, numbers[f"{term}_loss"], {f"grad_{term}": student}, numbers)


def test_released_numbers_of_group_assignment(golden):
    """The whole loss: assignment by experts, topology, and their mixture."""
    numbers = golden("htd_small_f64")
    t = golden_tensors(numbers)
    n = int(numbers["n_users"])
    student, assignment, groups = t["student"].requires_grad_(), 0.0, []
    for side, rows, offset in (("user", slice(0, n), 0), ("item", slice(n, None), int(numbers["K"]))):
        logits = torch.nn.functional.linear(t["teacher"][rows], t[f"v_{side}_weight"], t[f"v_{side}_bias"])
        groups.append(logits.argmax(1) + offset)
        routing = functional.expert_routing(logits, t[f"gumbel_{side}"], float(numbers["temperature"]))
        parts = tuple(t[f"f_{side}_{k}"] for k in ("W1", "b1", "W2", "b2"))
        loss = functional.distillation_experts(t["teacher"][rows], student[rows], routing, parts)
        assert loss.item() == pytest.approx(float(numbers[f"ga_loss_{side}"]), rel=1e-10)
        assignment = assignment + loss
    groups = torch.cat(groups)
    assert torch.equal(groups, t["group"])
    (gradient,) = torch.autograd.grad(assignment, student, retain_graph=True)
    torch.testing.assert_close(gradient, t["grad_ga"], rtol=1e-9, atol=1e-10)
    topology = functional.hierarchical_topology_distillation(t["teacher"], student, groups)
    alpha = float(numbers["alpha"])
    assert (alpha * topology + (1 - alpha) * assignment).item() == pytest.approx(
        float(numbers["loss"]), rel=1e-10
    )


def test_released_numbers_with_the_papers_mask(golden):
    numbers = golden("htdmasked_small_f64")
    t = golden_tensors(numbers)
    student = t["student"].requires_grad_()
    loss = functional.hierarchical_topology_distillation(
        t["teacher"], student, t["group"], leave_out_own=True
    )
    assert_golden(loss, numbers["loss"], {"grad_student": student}, numbers)


def test_released_numbers_of_the_relation_loss_by_inner_products(golden):
    numbers = golden("pointkd_f64")
    t = golden_tensors(numbers)
    student = t["student_hidden"].requires_grad_()
    loss = functional.full_topology_distillation(t["teacher_hidden"], student, "inner_product", "mean")
    assert_golden(loss, numbers["rkd_gram_loss"], {"grad_rkd": student}, numbers)


def test_released_numbers_of_relations(golden):
    t = golden_tensors(golden("sim_f64"))
    torch.testing.assert_close(relation(t["A"], t["B"]), t["cos"], rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(relation(t["A"], t["B"], "inner_product"), t["inner"], rtol=1e-13, atol=1e-14)


def test_full_topology_does_not_see_rotations_nor_scales():
    teacher, student = randn(40, 9, seed=1, dtype=torch.float64), randn(40, 5, seed=2, dtype=torch.float64)
    rotation = torch.linalg.qr(randn(5, 5, seed=3, dtype=torch.float64))[0]
    scales = randn(40, 1, seed=4, dtype=torch.float64).exp()
    loss = functional.full_topology_distillation(teacher, student).item()
    for other in (student @ rotation, scales * student, 1e-200 * student, 1e200 * student):
        assert functional.full_topology_distillation(teacher, other).item() == pytest.approx(loss, rel=1e-12)
    assert functional.full_topology_distillation(student, student @ rotation).item() < 1e-12
    squares = functional.full_topology_distillation(student, student + 1e3, "squared_distance").item()
    assert squares < 1e-6, "distances do not see translations"


def test_the_teachers_term_is_a_constant():
    teacher, student = randn(40, 9, seed=1), randn(40, 5, seed=2).requires_grad_()
    results = []
    for exact in (True, False):
        loss = functional.full_topology_distillation(teacher, student, exact_value=exact)
        results.append((loss.item(), torch.autograd.grad(loss, student)[0]))
    assert torch.equal(results[0][1], results[1][1])
    own = relation(teacher.double()).square().sum().item()
    assert results[0][0] - results[1][0] == pytest.approx(own, rel=1e-5)
    by_mean = functional.full_topology_distillation(teacher, student, reduction="mean")
    assert by_mean.item() == pytest.approx(results[0][0] / 1600, rel=1e-6)
    with pytest.raises(ValueError, match="expected reduction sum or mean; got 'none'"):
        functional.full_topology_distillation(teacher, student, reduction="none")


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("leave_out", [True, False])
@pytest.mark.parametrize("positive", [True, False])
def test_hierarchical_topology_is_its_definition(positive, leave_out, detach):
    teacher, student = randn(30, 7, seed=1, dtype=torch.float64), randn(30, 4, seed=2, dtype=torch.float64)
    groups = 3 * randint(0, 5, (30,), seed=3)
    results = []
    for fused in (True, False):
        s = student.clone().requires_grad_()
        if fused:
            loss = functional.hierarchical_topology_distillation(
                teacher, s, groups, "entities", positive, leave_out, detach
            )
        else:
            cos = lambda x, y: torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).t()
            same = groups[:, None] == groups
            wanted = cos(teacher, teacher)
            counted = same & (wanted > 0) if positive else same
            loss = ((cos(s, s) - wanted).square() * counted).sum()
            for g in groups.unique():
                mean = s[groups == g].mean(0, keepdim=True)
                mean = mean.detach() if detach else mean
                difference = cos(s, mean) - cos(teacher, teacher[groups == g].mean(0, keepdim=True))
                others = (groups != g) | (not leave_out)
                loss = loss + (difference.square()[:, 0] * others).sum()
        results.append((loss.item(), torch.autograd.grad(loss, s)[0]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-11)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-11)


def test_group_term_over_groups_has_no_gradient_of_its_own_unless_means_have_one():
    teacher, student = randn(20, 6, seed=1), randn(20, 3, seed=2).requires_grad_()
    groups = randint(0, 4, (20,), seed=3)
    results = [
        torch.autograd.grad(
            functional.hierarchical_topology_distillation(teacher, student, groups, "groups", detach_means=d),
            student,
        )[0]
        for d in (True, False)
    ]
    from rankdistill import grouped_relation_distance

    within = torch.autograd.grad(grouped_relation_distance(teacher, student, groups, True), student)[0]
    torch.testing.assert_close(results[0], within)
    assert not torch.allclose(results[1], within, rtol=1e-3)


def test_group_means():
    x, groups = randn(11, 3, seed=1).requires_grad_(), torch.tensor([5, -2, 5, 9, 9, 9, 5, 0, 0, -2, 9])
    means, index = functional.group_means(x, groups)
    ids = groups.unique()
    assert torch.equal(ids[index], groups)
    torch.testing.assert_close(means, torch.stack([x[groups == g].mean(0) for g in ids]))
    (means * randn(4, 3, seed=2)).sum().backward()
    counts = torch.stack([(groups == g).sum() for g in ids])
    torch.testing.assert_close(x.grad, (randn(4, 3, seed=2) / counts[:, None])[index])
    assert functional.group_means(x[:0], groups[:0])[0].shape == (0, 3)


def test_rkd_is_its_definition():
    teacher, student = randn(14, 6, seed=1, dtype=torch.float64), randn(14, 3, seed=2, dtype=torch.float64)
    smooth = torch.nn.functional.smooth_l1_loss
    results = []
    for fused in (True, False):
        s = student.clone().requires_grad_()
        if fused:
            loss = functional.relational_knowledge_distillation(teacher, s)
        else:
            d, t = ((x[:, None] - x + torch.eye(14)[:, :, None] * 1e-300).norm(dim=2) for x in (s, teacher))
            d, t = d.masked_fill(torch.eye(14).bool(), 0), t.masked_fill(torch.eye(14).bool(), 0)
            loss = 25 * smooth(d / d[d > 0].mean(), t / t[t > 0].mean())
            angles = []
            for x in (s, teacher):
                e = torch.nn.functional.normalize(x - x[:, None], dim=2)
                angles.append(torch.bmm(e, e.transpose(1, 2)))
            loss = loss + 50 * smooth(*angles)
        results.append((loss.item(), torch.autograd.grad(loss, s)[0]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-11)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-11)
    rows, anchors = torch.tensor([3, 9, 1, 13]), torch.tensor([0, 2])
    sampled = functional.relational_knowledge_distillation(teacher, student, 0.0, 1.0, rows, anchors).item()
    few = [x[rows] for x in (student, teacher)]
    wanted = 0.0
    for a in (0, 2):
        units = [torch.nn.functional.normalize(x - x[a]) for x in few]
        wanted += smooth(units[0] @ units[0].t(), units[1] @ units[1].t(), reduction="sum").item()
    assert sampled == pytest.approx(wanted / 32, rel=1e-11)


METHODS = {
    "full": lambda **k: FullTopologyDistillation(*teacher_tables(), **k),
    "hierarchical": lambda **k: HierarchicalTopologyDistillation(*teacher_tables(), D_S, n_groups=3, **k),
    "rkd": lambda **k: RelationalKnowledgeDistillation(*teacher_tables(), **k),
}


@pytest.mark.parametrize("name", METHODS)
def test_modules_read_unique_entities(name):
    student, batch, method = make_student(), make_batch(), METHODS[name]()
    method.begin_epoch(0, student)
    method(student, batch).backward()
    users, items = batch.users.unique(), torch.cat([batch.positives, batch.negatives]).unique()
    for table, ids in ((student.user_table, users), (student.item_table, items[items >= 0])):
        touched = (table.grad != 0).any(1).nonzero()[:, 0]
        assert torch.equal(touched, ids)
    assert not any("teacher" in key for key in method.state_dict())


def test_full_topology_module_is_the_function():
    student, batch, tables = make_student(), make_batch(), teacher_tables()
    users, items = batch.users.unique(), torch.cat([batch.positives, batch.negatives]).unique()
    items = items[items >= 0]
    loss = FullTopologyDistillation(*tables)(student, batch)
    expected = functional.full_topology_distillation(
        torch.cat([tables[0][users], tables[1][items]]),
        torch.cat([student.user_table[users], student.item_table[items]]),
    )
    assert loss.item() == expected.item()


@pytest.mark.parametrize("form", ["released", "masked", "paper"])
@pytest.mark.parametrize("group_term", ["entities", "groups"])
def test_hierarchical_module_mixes_topology_and_assignment(form, group_term):
    student, batch = make_student(), make_batch()
    parts = []
    for gamma in (1.0, 0.0, 0.3):
        method = METHODS["hierarchical"](form=form, group_term=group_term, gamma=gamma)
        method.begin_epoch(5)
        parts.append(method(student, batch))
    assert parts[2].item() == pytest.approx(0.3 * parts[0].item() + 0.7 * parts[1].item(), rel=5e-6)
    parts[2].backward()
    assert (method.user.experts.weight_out.grad != 0).any()
    assert (method.item.weight.grad != 0).any()


def test_rkd_samples_angles_anew_for_every_batch_and_alike_in_an_epoch():
    student, batch = make_student(), make_batch()
    method = METHODS["rkd"](distance_weight=0.0, n_angle_entities=6)
    losses = []
    for epoch in (1, 2, 1):
        method.begin_epoch(epoch)
        losses.append([method(student, batch).item() for _ in range(2)])
    assert losses[0] == losses[2]
    assert len({*losses[0], *losses[1]}) == 4
    exact = METHODS["rkd"](n_angle_entities=None)
    exact.begin_epoch(0)
    exact = exact(student, batch)
    assert exact.item() > 0


def test_bad_input():
    with pytest.raises(ValueError, match="expected form as one of released, masked, paper; got 'exact'"):
        METHODS["hierarchical"](form="exact")
    with pytest.raises(ValueError, match=r"expected gamma in \[0, 1\]; got 2"):
        METHODS["hierarchical"](gamma=2)
    with pytest.raises(ValueError, match="expected group_term as one of entities, groups"):
        METHODS["hierarchical"](group_term="second")
    with pytest.raises(ValueError, match="expected n_angle_entities of 0 or more"):
        METHODS["rkd"](n_angle_entities=-1)
    with pytest.raises(ValueError, match="group_term as one of entities, groups"):
        functional.hierarchical_topology_distillation(
            randn(2, 2), randn(2, 2), torch.tensor([0, 1]), "second"
        )


def test_hierarchical_experts_are_half_as_wide_as_both_between_equal_widths_too():
    tables = randn(4, 8, seed=1), randn(5, 8, seed=2)
    experts = HierarchicalTopologyDistillation(*tables, 8, n_groups=3).user.experts
    assert experts.weight_in.shape == (3, 8, 8)


def test_samples_of_angles_belong_to_seed_and_epoch():
    student, batch, found = make_student(), make_batch(), {}
    for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1)):
        method = METHODS["rkd"](n_angle_entities=6, seed=seed)
        method.begin_epoch(epoch)
        loss = method(student, batch).item()
        assert found.setdefault((seed, epoch), loss) == loss
    assert len(set(found.values())) == 3


def test_users_and_items_have_groups_of_their_own():
    """With one group each there are two means."""
    student, batch = make_student(), make_batch()
    method = HierarchicalTopologyDistillation(*teacher_tables(), D_S, n_groups=1, gamma=1.0)
    method.begin_epoch(0, student)
    sides = method.together(student, batch)
    groups = torch.cat([torch.full((len(rows.ids),), at) for at, rows in enumerate(sides)])
    vectors = [torch.cat([getattr(rows, of) for rows in sides]) for of in ("teacher", "student")]
    expected = functional.hierarchical_topology_distillation(*vectors, groups)
    assert method(student, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_full_topology_passes_its_settings():
    tables, student, batch, found = teacher_tables(), make_student(), make_batch(), set()
    sides = FullTopologyDistillation(*tables).together(student, batch)
    vectors = [torch.cat([getattr(rows, of) for rows in sides]) for of in ("teacher", "student")]
    for options in ({}, {"reduction": "mean"}, {"exact_value": False}):
        loss = FullTopologyDistillation(*tables, **options)(student, batch).item()
        expected = functional.full_topology_distillation(*vectors, **options)
        assert loss == pytest.approx(expected.item())
        found.add(loss)
    assert len(found) == 3
