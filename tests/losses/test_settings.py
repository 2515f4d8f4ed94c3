"""Settings and tables that do not fit a method are refused where it is made, in its own name."""

from __future__ import annotations

import pytest
import torch

from rankdistill import (
    Batch,
    CollaborativeDistillation,
    ConsensusLearning,
    DualCorrection,
    FrequencyDistillation,
    HeterogeneousCompression,
    HintRegression,
    ListwiseDistillation,
    MultiHeadFactorization,
    Rankings,
    RejuvenatedCrossEntropyDistillation,
    functional,
)
from rankdistill.data import CSR
from rankdistill.ops import weighted_sample
from rankdistill.sampling import shared_position_weights
from tests.case import randn
from tests.losses.vectors import D_S, D_T, N, U, make_batch, make_student, teacher_tables

RANKINGS = Rankings.from_scores(randn(U, N, seed=1), k=8)
NONE = Rankings.from_scores(randn(U, N, seed=1), k=0)
OTHER = CSR.empty(U, N + 1)

REFUSED = {
    "listwise, temperature": (lambda: ListwiseDistillation(RANKINGS, 4, temperature=0), "temperature above 0; got 0"),
    "rce_kd, temperature": (
        lambda: RejuvenatedCrossEntropyDistillation(RANKINGS, make_student(), 4, 4, 8, position_temperature=-1),
        "position_temperature above 0; got -1",
    ),
    "hetcomp, period": (
        lambda: HeterogeneousCompression([[RANKINGS]], CSR.empty(U, N), torch.full((U, 1), -1), 4, 3, period=0),
        "period of 1 or more; got 0",
    ),
    "cd, softness": (
        lambda: CollaborativeDistillation(RANKINGS, CSR.empty(U, N), softness=0.0), "softness above 0; got 0",
    ),
    "cd, exclude": (lambda: CollaborativeDistillation(RANKINGS, OTHER), f"exclude of {U} users × {N} items, as rankings"),
    "cd, no lists": (lambda: CollaborativeDistillation(NONE, CSR.empty(U, N)), "k of rankings of 1 or more; got 0"),
    "dcd, no lists": (lambda: DualCorrection(NONE), "k of rankings of 1 or more; got 0"),
    "dcd, item side": (lambda: DualCorrection(RANKINGS, RANKINGS), f"item_rankings of {U} users × {N} items, as rankings"),
    "freqd, train": (
        lambda: FrequencyDistillation(*teacher_tables(), OTHER, D_S), f"train of {U} users × {N} items, as the teacher's tables",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_where_it_is_made(what):
    make, told = REFUSED[what]
    with pytest.raises(ValueError, match=rf"\w+: expected {told}"):
        make()


def heads(dtype=torch.float32):
    train = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([3, 0]), n_rows=2, n_columns=5)
    student, method = MultiHeadFactorization(2, 5, width=8).to(dtype), ConsensusLearning(train, dropout=0.5)
    method.begin_epoch(0, student)
    return student, method


BATCH = Batch(torch.tensor([0, 1]), torch.tensor([3, 0]), torch.tensor([1, 2]))


def test_heads_of_float64_learn():
    student, method = heads(torch.float64)
    before = method.balance.weights.clone()
    method(student, BATCH).backward()
    assert bool(student.user_table.grad.isfinite().all())
    assert not method.balance.weights.equal(before), "the weights have made their step"


def test_heads_have_dropout_in_training_alone():
    student, method = heads()
    with torch.no_grad():
        assert len({method(student, BATCH).item() for _ in range(3)}) == 3
        method.eval()
        assert len({method(student, BATCH).item() for _ in range(3)}) == 1


def test_heads_need_negatives():
    student, method = heads()
    with pytest.raises(ValueError, match="ConsensusLearning: expected a batch with negatives"):
        method(student, BATCH._replace(negatives=None))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_hints_of_a_student_of_any_dtype(dtype):
    method = HintRegression(*teacher_tables(), D_S)
    assert method.teacher_width == D_T
    found = method(make_student().to(dtype), make_batch())
    wanted = method(make_student().to(dtype).float(), make_batch())
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_groups_may_have_any_ids():
    teacher, student = randn(6, 5, seed=1), randn(6, 3, seed=2)
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    losses = {
        functional.hierarchical_topology_distillation(teacher, student, ids).item()
        for ids in (groups, 7 - 6 * groups, 2 * groups - 1, -groups)
    }
    assert len(losses) == 1


def test_weights_of_shared_positions_stay_in_range():
    """Whatever the temperature: the likeliest position has weight 1, and none is beyond being drawn."""
    shared = torch.ones(1, 60, dtype=torch.bool)
    for temperature in (1e-4, 0.004, 1.0, 1e4):
        weights = shared_position_weights(shared, temperature)
        assert weights[0, 0] == 1
        assert bool(((weights > 0) & (weights <= 1)).all())
        assert int((weighted_sample(torch.zeros(1, dtype=torch.int64), weights, 60, seed=1) >= 0).sum()) == 60
    law = shared_position_weights(shared, 10.0)[
        0
    ]  # 40 and 20 of the top stand at or behind positions 20 and 40
    assert (law[20] / law[40]).log().item() == pytest.approx((40 - 20) / 10.0)
