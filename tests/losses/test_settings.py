"""Settings and tables that do not fit a method are refused where it is made, in its own name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import rankdistill
from rankdistill import (
    Batch,
    BidirectionalDistillation,
    CollaborativeDistillation,
    CollaborativeMetricLearning,
    ConsensusLearning,
    DistillationExperts,
    DualCorrection,
    FrequencyDistillation,
    FullTopologyDistillation,
    HeterogeneousCompression,
    HierarchicalTopologyDistillation,
    HintRegression,
    ItemSideRankingRegularization,
    ListwiseDistillation,
    MatrixFactorization,
    MultiHeadFactorization,
    NeuralMatrixFactorization,
    PersonalizedHintRegression,
    PreferenceConsistentDistillation,
    RankingDistillation,
    Rankings,
    RejuvenatedCrossEntropyDistillation,
    RelaxedRankingDistillation,
    functional,
)
from rankdistill.data import CSR
from rankdistill.losses import Distillation
from rankdistill.ops import weighted_sample
from rankdistill.sampling import shared_position_weights
from tests.case import randn
from tests.losses.vectors import D_S, D_T, N, U, make_batch, make_student, teacher_tables

RANKINGS = Rankings.from_scores(randn(U, N, seed=1), k=8)
SWAPPED = Rankings.from_scores(randn(N, U, seed=1), k=3)
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
    "ftd, kind": (lambda: FullTopologyDistillation(*teacher_tables(), kind="cos"), "kind as one of cosine, inner_product, squared_distance; got 'cos'"),
    "pckd, form": (
        lambda: PreferenceConsistentDistillation(*teacher_tables(), RANKINGS, D_S, form="x"), "form as one of list, pair; got 'x'",
    ),
    "ir-rrd, users": (
        lambda: ItemSideRankingRegularization(RANKINGS, SWAPPED, CSR.empty(U, N), n_interesting_users=-1),
        "n_interesting_users of 0 or more; got -1",
    ),
    "ir-rrd, exclude": (
        lambda: ItemSideRankingRegularization(RANKINGS, SWAPPED, OTHER), f"exclude of {U} users × {N} items, as rankings",
    ),
    "concf, head": (lambda: ConsensusLearning(CSR.empty(U, N), recommends="x"), "recommends as one of ranking, metric, .*; got 'x'"),
    "bd, sharpness": (
        lambda: BidirectionalDistillation(make_student(), CSR.empty(U, N), teacher_sharpness=-1.0), "teacher_sharpness above 0; got -1.0",
    ),
    "hetcomp, looseness": (lambda: compression(looseness=None), "looseness as a number; got None"),
    "rd, start": (lambda: RankingDistillation(RANKINGS, 4, start_epoch=None), "start_epoch as a whole number; got None"),
    "rce_kd, sharpness": (
        lambda: RejuvenatedCrossEntropyDistillation(RANKINGS, make_student(), 4, 4, 8, sharpness=None),
        "sharpness as a number; got None",
    ),
    "phr, width": (
        lambda: PersonalizedHintRegression(*teacher_tables(), D_S, hidden_width=-1), "hidden_width of 1 or more; got -1",
    ),
    "de, half an expert": (
        lambda: DistillationExperts(*teacher_tables(), D_S, n_experts=2.5), "n_experts as a whole number; got 2.5",
    ),
    "de, no experts": (lambda: DistillationExperts(*teacher_tables(), D_S, n_experts=0), "n_experts of 1 or more; got 0"),
    "de, no epochs": (lambda: DistillationExperts(*teacher_tables(), D_S, n_epochs=0), "n_epochs of 1 or more; got 0"),
    "htd, no groups": (
        lambda: HierarchicalTopologyDistillation(*teacher_tables(), D_S, n_groups=0), "n_groups of 1 or more; got 0",
    ),
    "listwise, no temperature": (
        lambda: ListwiseDistillation(RANKINGS, 4, temperature=None), "temperature as a number; got None",
    ),
    "rrd, a word": (
        lambda: RelaxedRankingDistillation(RANKINGS, CSR.empty(U, N), n_interesting="3"), "n_interesting as a whole number; got '3'",
    ),
    "rrd, a truth": (
        lambda: RelaxedRankingDistillation(RANKINGS, CSR.empty(U, N), n_interesting=True), "n_interesting as a whole number; got True",
    ),
    "freqd, a word": (
        lambda: FrequencyDistillation(*teacher_tables(), CSR.empty(U, N), D_S, alpha="1"), "alpha as a number; got '1'",
    ),
}  # fmt: skip


def compression(observed=None, **settings):
    observed = torch.full((U, 1), -1) if observed is None else observed
    return HeterogeneousCompression([[RANKINGS]], CSR.empty(U, N), observed, 4, 3, **settings)


@pytest.mark.parametrize("what", REFUSED)
def test_refused_where_it_is_made(what):
    """By the method itself, not by what it is made of."""
    make, told = REFUSED[what]
    with pytest.raises((TypeError, ValueError), match=rf"^(\w+): expected {told}") as caught:
        make()
    assert issubclass(getattr(rankdistill, str(caught.value).split(":")[0]), Distillation)


def test_observed_items_may_be_an_array():
    observed = np.full((U, 1), 2)
    assert torch.equal(compression(observed).observed, compression(torch.from_numpy(observed)).observed)


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


MODELS = (MatrixFactorization, CollaborativeMetricLearning, NeuralMatrixFactorization)


@pytest.mark.parametrize("who", [*MODELS, BidirectionalDistillation, ConsensusLearning])
def test_a_batch_without_negatives_is_refused(who):
    if who in MODELS:
        loss = who(2, 5, width=8).loss
    elif who is ConsensusLearning:
        student, method = heads()
        loss = lambda batch: method(student, batch)
    else:
        student, method = MatrixFactorization(2, 5, 4), who(MatrixFactorization(2, 5, 8), CSR.empty(2, 5))
        method.begin_epoch(0, student)
        loss = lambda batch: method(student, batch)
    with pytest.raises(ValueError, match=f"^{who.__name__}: expected a batch with negatives, .*; got none$"):
        loss(BATCH._replace(negatives=None))
    if who is not BidirectionalDistillation:
        with pytest.raises(
            ValueError, match=f"^{who.__name__}: expected a batch with positives, .*; got none$"
        ):
            loss(BATCH._replace(positives=None))


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
