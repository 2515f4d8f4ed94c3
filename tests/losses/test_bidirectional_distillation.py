"""Bidirectional distillation: released numbers, the law of its draws, users at the edges, resumed runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rankdistill import (
    Batch,
    BidirectionalDistillation,
    MatrixFactorization,
    MultinomialAutoencoder,
    Term,
    Trainer,
    functional,
)
from rankdistill.config import TrainingConfig
from rankdistill.data import CSR, generate
from rankdistill.losses import discrepant_negatives
from rankdistill.sampling import bidirectional_weights
from tests.case import generator, randint, randn
from tests.losses.vectors import assert_golden, golden_tensors

U, N = 12, 40


class Tables(MatrixFactorization):
    """A model with given tables."""

    def __init__(self, users, items):
        super().__init__(*map(len, (users, items)), users.shape[1])
        self.user_table, self.item_table = map(torch.nn.Parameter, (users.clone(), items.clone()))


class ByScores(torch.nn.Module):
    """A model seen through `score` alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def score(self, users, items):
        return (self.model.user_table[users][:, None] * self.model.item_table[items]).sum(2)


@pytest.fixture(scope="module")
def train():
    """User 3 has nothing, user 4 all but one item, user 5 everything."""
    dense = torch.rand(U, N, generator=generator(1)) < 0.1
    dense[3], dense[4, 1:], dense[5] = False, True, True
    return CSR.from_any(dense)


def models():
    return Tables(randn(U, 8, seed=2), randn(N, 8, seed=3)), Tables(randn(U, 3, seed=4), randn(N, 3, seed=5))


def released(golden):
    numbers = golden("bd_small_f64")
    t = golden_tensors(numbers)
    teacher, student = Tables(t["T_user"], t["T_item"]), Tables(t["S_user"], t["S_item"])
    method = BidirectionalDistillation(
        teacher,
        CSR.from_any(t["train_matrix"].bool()),
        float(numbers["temp_T"]),
        float(numbers["temp_S"]),
        float(numbers["lamb_T"]),
        float(numbers["eps"]),
        float(numbers["eps_t"]),
    )
    method.begin_epoch(0, student)
    return numbers, t, method, student


def test_released_losses_and_gradients(golden):
    numbers, t, method, student = released(golden)
    batch = Batch(t["u"], t["pos"], t["neg_for_S"])
    term = method(student, batch)
    assert term.item() == pytest.approx(float(numbers["loss_S_KD"]), rel=1e-10)
    leaves = dict(zip(("grad_S_user", "grad_S_item"), student.tables()))
    assert_golden(student.loss(batch) + float(numbers["lamb_S"]) * term, numbers["loss"], leaves, numbers)
    assert all(table.grad is None for table in method.teacher.tables()), "its term is the student's alone"
    student.zero_grad()
    loss = method.loss_of_teacher(student, Batch(t["u"], t["pos"], t["neg_for_T"]))
    leaves = dict(zip(("grad_T_user", "grad_T_item"), method.teacher.tables()))
    assert_golden(loss, numbers["loss_T"], leaves, numbers)
    assert all(table.grad is None for table in student.tables())


def test_released_ranks_and_weights(golden):
    numbers, t, method, student = released(golden)
    users, N = torch.arange(4), t["T_item"].shape[0]
    found = [
        method.draws.ranks(model, users, method.draws.train_items) for model in (method.teacher, student)
    ]
    for ranks, name in zip(found, ("inv_rank_T", "inv_rank_S")):
        assert torch.equal(N - ranks, t[name])
    weights = bidirectional_weights(*found, float(numbers["eps"]), float(numbers["eps_t"]))
    expected = t["weights_T"] / t["weights_T"].amax(1, keepdim=True), t["weights_S"]
    for got, wanted in zip(weights, expected, strict=True):
        torch.testing.assert_close(got.float(), wanted, rtol=1e-6, atol=1e-7)


def test_gradients():
    partner, learner = randn(5, 3, seed=1).double(), randn(5, 3, seed=2).double().requires_grad_()
    f = lambda given: functional.bidirectional_distillation(partner, given, 3.0)
    assert torch.autograd.gradcheck(f, learner)
    wanted = (partner / 3).sigmoid()
    expected = -(wanted * learner.sigmoid().log() + (1 - wanted) * (1 - learner.sigmoid()).log()).sum()
    assert f(learner).item() == pytest.approx(expected.item())
    giant = torch.tensor([900.0, -900.0])
    assert functional.bidirectional_distillation(giant, -giant).isfinite()
    with pytest.raises(ValueError, match="a temperature above 0"):
        functional.bidirectional_distillation(partner, partner, 0)
    with pytest.raises(ValueError, match=r"learner of shape \[5, 3\]"):
        functional.bidirectional_distillation(partner, partner[:2])


def test_weights_of_far_ranks_do_not_overflow():
    places = torch.tensor([[0, 10**9, 5, -1]])
    mine, other = bidirectional_weights(places, places.flip(1), 1e-2, 1e-2)
    assert torch.equal(mine, torch.tensor([[0.0, 0.0, 1.0, 0.0]]).double())
    assert torch.equal(other, torch.tensor([[0.0, 1.0, 0.0, 0.0]]).double())
    assert [w.shape for w in bidirectional_weights(places[:, :0], places[:, :0])] == [(1, 0)] * 2
    nothing = bidirectional_weights(torch.full((1, 2), -1), torch.full((1, 2), -1))
    assert not any(w.any() for w in nothing)


@pytest.mark.parametrize("train_items", ["ranked", "excluded"])
def test_negatives_follow_the_weights(train, train_items):
    """Each learner's frequencies over many draws, against ranks by a loop of the definition."""
    teacher, student = models()
    method = BidirectionalDistillation(
        teacher, train, teacher_sharpness=0.1, n_negatives=50, period=40, train_items=train_items
    )
    method.begin_epoch(0, student)
    dense = train.to_dense()
    for user in (0, 7):
        ranks = []
        for model in (teacher, student):
            scores = (model.item_table @ model.user_table[user]).tolist()
            kept = [i for i in range(N) if train_items == "ranked" or not dense[user, i]]
            value = {i: 0.0 if dense[user, i] else scores[i] for i in kept}
            order = sorted(kept, key=lambda i: (-value[i], i))
            ranks.append({i: order.index(i) for i in kept})
        delta = {i: ranks[1][i] - ranks[0][i] for i in ranks[0]}
        laws = (
            [math.exp(0.1 * delta[i]) if i in delta else 0.0 for i in range(N)],
            [math.tanh(max(-0.01 * delta[i], 0)) if i in delta else 0.0 for i in range(N)],
        )
        entries = slice(*train.indptr[user : user + 2].tolist())
        for drawn, law in zip(method.draws.drawn[:, :, entries], laws, strict=True):
            counts = torch.bincount(drawn.flatten().long(), minlength=N).double()
            expected = torch.tensor(law, dtype=torch.float64) / sum(law)
            error = (counts / counts.sum() - expected).abs()
            assert (error <= 4.5 * (expected * (1 - expected) / counts.sum()).sqrt()).all()


def test_users_at_the_edges(train):
    teacher, student = models()
    users, positives = train.pairs()
    method = BidirectionalDistillation(teacher, train, n_negatives=3, train_items="excluded")
    method.begin_epoch(0, student)
    drawn = method.negatives(0, users, positives)
    assert (drawn[users == 5] == -1).all(), "nothing is left of a catalogue that is all train items"
    assert (drawn[users == 4] == -1).all(), "one item is ranked alike"
    rest = (users != 5) & (users != 4)
    assert (drawn[rest] >= 0).all()
    assert not train.contains(users[rest].repeat_interleave(3), drawn[rest].flatten()).any()
    batch = Batch(users, positives, drawn)
    student.zero_grad()
    loss = student.loss(batch) + method(student, batch)
    loss.backward()
    assert loss.isfinite()
    assert all(table.grad.isfinite().all() for table in student.tables())
    none = users == 5
    assert method(student, Batch(users[none], positives[none], drawn[none])).item() == 0
    assert method.teacher_loss(student, Batch(users, positives)).isfinite()
    nothing = users[:0]
    batch = Batch(nothing, nothing, method.negatives(0, nothing, nothing))
    assert method(student, batch).item() == method.teacher_loss(student, batch).item() == 0
    with pytest.raises(
        ValueError, match="^BidirectionalDistillation: expected interactions of train; got others"
    ):
        method.negatives(0, torch.tensor([3]), torch.tensor([0]))


def test_nothing_to_train_on():
    teacher, student = models()
    method = BidirectionalDistillation(teacher, CSR.empty(U, N))
    method.begin_epoch(0, student)
    assert method.negatives(0, torch.arange(0), torch.arange(0)).shape == (0, 1)


def test_draws_do_not_depend_on_blocks_or_on_the_form_of_the_model(train, monkeypatch):
    teacher, student = models()
    found = []
    for cells, forms in ((discrepant_negatives.CELLS, (teacher, student)), (3 * N, (teacher, student)),
                         (1, (ByScores(teacher), ByScores(student)))):  # fmt: skip
        monkeypatch.setattr(discrepant_negatives, "CELLS", cells)
        method = BidirectionalDistillation(forms[0], train, n_negatives=2, period=3)
        method.begin_epoch(6, forms[1])
        found.append(method.draws.drawn)
    assert torch.equal(found[0], found[1])
    assert (found[0] == found[2]).float().mean() > 0.999, "but for ties of rounded scores"
    assert not torch.equal(found[0][:, 0], found[0][:, 1]), "every epoch draws anew"


def test_it_ranks_again_after_a_period(train):
    teacher, student = models()
    method = BidirectionalDistillation(teacher, train, period=2)
    with pytest.raises(RuntimeError, match="expected begin_epoch before the first batch"):
        method(student, Batch(torch.tensor([0])))
    sinces = []
    for epoch in range(5):
        method.begin_epoch(epoch, student)
        sinces.append(int(method.draws.since))
    assert sinces == [0, 0, 2, 2, 4]
    for epoch in (3, 6):  # before and after what is drawn for
        with pytest.raises(
            RuntimeError, match=rf"expected begin_epoch\({epoch}, student\) before its negatives"
        ):
            method.negatives(epoch, *train.pairs())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"period": 0}, "period of 1 or more; got 0"), ({"n_negatives": 0}, "n_negatives of 1 or more; got 0"),
     ({"train_items": "kept"}, "train_items as one of ranked, excluded; got 'kept'")],
)  # fmt: skip
def test_bad_settings(train, options, message):
    with pytest.raises(ValueError, match=message):
        BidirectionalDistillation(models()[0], train, **options)


CONFIG = TrainingConfig(epochs=7, batch_size=128, learning_rate=0.02, evaluate_every=2, metric="recall@20")


@pytest.fixture(scope="module")
def dataset():
    return generate(120, 90, mean_interactions=15, min_interactions=8, n_groups=5, groups_per_user=2, seed=3)


def trainer(dataset, epochs=CONFIG.epochs, **options):
    shape = dataset.n_users, dataset.n_items
    teacher = MatrixFactorization(*shape, 12, seed=2)
    method = BidirectionalDistillation(teacher, dataset.train.csr(), period=3)
    config = replace(CONFIG, epochs=epochs)
    return Trainer(MatrixFactorization(*shape, 4, seed=1), dataset, config, [Term(0.5, method)], **options)


def test_both_learn(dataset):
    made = trainer(dataset, 25)
    teacher = made.terms[0].method.teacher
    before = Trainer(teacher, dataset, CONFIG).evaluate()["valid/recall@20"]
    history = made.fit()
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert Trainer(teacher, dataset, CONFIG).evaluate()["valid/recall@20"] > 1.5 * before


def test_resume_is_bit_identical_for_both_models(dataset, tmp_path):
    whole = trainer(dataset, folder=tmp_path / "whole")
    whole.fit()
    trainer(dataset, 5, folder=tmp_path / "parts").fit()  # in the middle of a period
    resumed = trainer(dataset, folder=tmp_path / "parts")
    resumed.fit()
    for ours, theirs in zip(whole.parameters, resumed.parameters, strict=True):
        assert torch.equal(ours, theirs)
    states = [made.terms[0].method.state_dict() for made in (whole, resumed)]
    assert states[0].keys() == states[1].keys() >= {"teacher.user_table", "draws.drawn", "draws.since"}
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_each_side_has_its_own_temperature():
    train = CSR.from_any(torch.rand(U, N, generator=generator(1)) < 0.1)
    teacher, student = models()
    method = BidirectionalDistillation(teacher, train, teacher_temperature=2.0, student_temperature=7.0)
    method.begin_epoch(0, student)
    users, positives = train.pairs()
    items = randint(0, N, (len(users), 1), seed=6)
    batch = Batch(users, positives, items)
    of_teacher, of_student = teacher.score(users, items), student.score(users, items)
    expected = functional.bidirectional_distillation(of_teacher, of_student, 2.0)
    assert method(student, batch).item() == pytest.approx(expected.item())
    expected = functional.bidirectional_distillation(of_student, of_teacher, 7.0)
    found = method.loss_of_teacher(student, batch) - teacher.loss(batch)
    assert found.item() == pytest.approx(0.5 * expected.item(), rel=1e-4)


def test_a_teacher_that_draws_begins_its_epoch():
    train = CSR.from_any(torch.rand(U, N, generator=generator(1)) < 0.1)
    teacher, student = MultinomialAutoencoder(train, 4), models()[1]
    method = BidirectionalDistillation(teacher, train)
    method.begin_epoch(3, student)
    assert teacher.begun == 3
    users, positives = train.pairs()
    assert method.teacher_loss(student, Batch(users, positives)).isfinite()


def test_negatives_belong_to_the_seed():
    train, drawn = CSR.from_any(torch.rand(U, N, generator=generator(1)) < 0.1), []
    teacher, student = models()
    for seed in (0, 1):
        method = BidirectionalDistillation(teacher, train, seed=seed)
        method.begin_epoch(0, student)
        drawn.append(method.draws.drawn)
    assert (drawn[0] != drawn[1]).double().mean() > 0.5
