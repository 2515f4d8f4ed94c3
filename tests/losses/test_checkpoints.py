"""Ranking discrepancy and the choice of checkpoints against the released numbers and plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from rankdistill import functional
from rankdistill.functional.membership import is_in
from tests.case import generator, randint
from tests.losses.vectors import golden_tensors


def best_unseen(order, seen, k):
    """The first k items of each row of an order that are not seen."""
    return torch.stack([row[~mask[row]][:k] for row, mask in zip(order, seen.bool(), strict=True)])


@pytest.mark.parametrize("name", ["hetcomp_ndcg_k10", "hetcomp_ndcg_k50"])
def test_released_discrepancy(name, golden):
    numbers = golden(name)
    t, k = golden_tensors(numbers), int(numbers["k"])
    student = best_unseen(t["student_sorted"], t["train_mask"], k)
    found = functional.ranking_discrepancy(student, t["teacher_top"][:, :k])
    assert torch.allclose(found, t["discrepancy"], rtol=0, atol=1e-9)


def test_released_advances(golden):
    numbers = golden("hetcomp_dkc")
    t, k = golden_tensors(numbers), 50
    teachers = t["perms"][..., :k]
    versions, last = torch.zeros(teachers.shape[0], teachers.shape[2], dtype=torch.int64), None
    moved = 0
    for at, epoch in enumerate(numbers["epochs"].tolist()):
        student = best_unseen(t["student_sorted"][at], t["train_mask"], k)
        before = versions
        versions, last = functional.advance_checkpoints(
            versions, last, student, teachers, epoch // int(numbers["p"]), float(numbers["alpha"])
        )
        moved += int((versions != before).sum())
        assert torch.equal(versions, t["selection"][at]), epoch
        assert torch.allclose(last, t["last_dist"][at], rtol=0, atol=1e-9), epoch
    assert moved > 20


def test_discrepancy_by_its_definition():
    student, teacher = (
        torch.stack([torch.randperm(40, generator=generator(s + n))[:9] for n in range(6)]) for s in (1, 100)
    )
    gain = [(2 ** math.exp(-p / 10) - 1) / math.log2(p + 2) for p in range(9)]
    expected = [
        1 - sum(g for g, item in zip(gain, row, strict=True) if item in best) / sum(gain)
        for row, best in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    assert functional.ranking_discrepancy(student, teacher, decimals=None).tolist() == pytest.approx(expected)
    assert functional.ranking_discrepancy(student, student).tolist() == [0] * 6
    every_pair = functional.ranking_discrepancy(student[:, None], teacher[None])
    assert every_pair.shape == (6, 6)
    assert torch.equal(every_pair.diagonal(), functional.ranking_discrepancy(student, teacher))


def test_the_papers_gain_by_its_definition():
    """The relevance of an item belongs to the place that the teacher gives it."""
    student, teacher = (
        torch.stack([torch.randperm(30, generator=generator(s + n))[:9] for n in range(6)]) for s in (1, 100)
    )
    teacher[0, 4:] = -1
    gain, discount = lambda q: 2 ** math.exp(-q / 10) - 1, lambda p: math.log2(p + 2)
    ideal, expected = sum(gain(p) / discount(p) for p in range(9)), []
    for row, best in zip(student.tolist(), teacher.tolist(), strict=True):
        shared = [gain(best.index(item)) / discount(p) for p, item in enumerate(row) if item in best]
        expected.append(1 - sum(shared) / ideal)
    found = functional.ranking_discrepancy(student, teacher, decimals=None, gain="teacher")
    assert found.tolist() == pytest.approx(expected)
    assert found.tolist() != pytest.approx(
        functional.ranking_discrepancy(student, teacher, decimals=None).tolist()
    )
    assert functional.ranking_discrepancy(student, student, gain="teacher").tolist() == [0] * 6
    with pytest.raises(ValueError, match="gain as one of student, teacher; got 'both'"):
        functional.ranking_discrepancy(student, teacher, gain="both")


def test_no_items_are_in_no_list():
    nothing = torch.full((2, 3), -1)
    assert functional.ranking_discrepancy(nothing, nothing).tolist() == [1, 1]
    assert functional.ranking_discrepancy(nothing[:, :0], nothing[:, :0]).tolist() == [0, 0]


def test_equal_rankings_stay_and_the_last_checkpoint_is_the_end():
    teachers = randint(0, 50, (2, 3, 4, 6), seed=1)
    student = teachers[0, 1]
    versions, last = functional.advance_checkpoints(torch.zeros(2, 4).long(), None, student, teachers, 1)
    assert versions.sum() == 0
    assert last[0].tolist() == [0] * 4
    for step in range(2, 9):
        versions, last = functional.advance_checkpoints(versions, last, student, teachers, step)
    assert versions[0].tolist() == [0] * 4, "0/0 stays"
    assert versions.max() <= 2


def test_bad_arguments():
    with pytest.raises(ValueError, match="teacher of width 3, as student"):
        functional.ranking_discrepancy(randint(0, 9, (2, 3)), randint(0, 9, (2, 4)))
    with pytest.raises(ValueError, match=r"versions of shape \[2, 4\]"):
        functional.advance_checkpoints(
            torch.zeros(4, 2).long(), None, randint(0, 9, (4, 6)), randint(0, 9, (2, 3, 4, 6)), 1
        )


def test_membership_by_its_definition():
    ids, others = randint(-1, 12, (2, 5, 6), seed=1), randint(-1, 12, (5, 3), seed=2)
    found = is_in(ids, others)
    for at in torch.cartesian_prod(*map(torch.arange, ids.shape)).tolist():
        one = int(ids[tuple(at)])
        assert bool(found[tuple(at)]) == (one >= 0 and one in others[at[1]].tolist())
    assert not is_in(ids, others[:, :0]).any()
    assert is_in(ids[..., :0], others).shape == (2, 5, 0)


def test_the_threshold_falls_with_every_step():
    """A user stays while its discrepancy has shrunk by less than 1.05 · 0.995^step, which is below 1 after ten."""
    teachers = torch.stack([torch.randperm(50, generator=generator(n))[:6] for n in range(3)])[None, :, None]
    student, versions = teachers[0, 2], torch.zeros(1, 1).long()
    last = 1.02 * functional.ranking_discrepancy(student, teachers[0, 1])[None]
    for step, moved in ((1, 0), (10, 1)):
        assert functional.advance_checkpoints(versions, last, student, teachers, step)[0].item() == moved
