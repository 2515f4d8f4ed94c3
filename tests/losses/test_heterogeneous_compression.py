"""HetComp as a module: a student of several teachers, from their easy checkpoints to the last, in a user's loop."""

from __future__ import annotations

import math

import pytest
import torch

from rankdistill import (
    Batch,
    HeterogeneousCompression,
    MatrixFactorization,
    NeuralMatrixFactorization,
    Rankings,
    functional,
)
from rankdistill.data import CSR, generate
from rankdistill.models.saved import build_model
from rankdistill.rankings.ensemble import ensemble_rankings
from tests.case import generator, randn

U, N, M, V = 24, 90, 2, 3


@pytest.fixture(scope="module")
def train():
    return CSR.from_any(torch.rand(U, N, generator=generator(1)) < 0.05)


@pytest.fixture(scope="module")
def checkpoints(train):
    """Two teachers of low rank, whose early checkpoints are noisier."""
    truth = [(randn(U, 4, seed=m), randn(N, 4, seed=10 + m)) for m in range(M)]
    noise = [2.0, 0.7, 0.0]
    return [
        [Rankings.from_vectors(u + s * randn(U, 4, seed=v), i, 30, train) for v, s in enumerate(noise)]
        for u, i in truth
    ]


def make(checkpoints, train, **options):
    observed = torch.full((U, 3), -1)
    for user in range(U):
        seen = train.rows(torch.tensor([user])).indices[:3]
        observed[user, : len(seen)] = seen
    return HeterogeneousCompression(
        checkpoints, train, observed, **{"n_listed": 20, "n_compared": 10, "period": 2} | options
    )


def student():
    return MatrixFactorization(U, N, 12, seed=5, init_std=0.1)


def run(method, model, epochs, start=0):
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    versions, losses = [], []
    for epoch in range(start, start + epochs):
        method.begin_epoch(epoch, model)
        for users in torch.arange(U).split(8):
            loss = method(model, users)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        versions.append(method.knowledge.versions.sum().item())
    return versions, losses


def test_users_advance_until_all_is_learned_in_order(checkpoints, train):
    method, model = make(checkpoints, train), student()
    versions, losses = run(method, model, 40)
    assert versions == sorted(versions), "nobody goes back"
    assert versions[:5] == [0] * 5, "the first comparison, after epoch 2, only measures"
    assert versions[-1] == M * U * (V - 1)
    assert method.knowledge.is_last
    assert all(math.isfinite(loss) for loss in losses)
    truth = ensemble_rankings(
        torch.stack([teacher[-1].indices[:, :20].long() for teacher in checkpoints]), 20
    )
    found = method.knowledge.student_lists(model)
    shared = (found[:, :, None] == truth[:, None, :10]).any(2).float().mean()
    assert shared > 0.6, "what the ensemble ranks best, the student does"


def test_the_loss_changes_with_the_phase(checkpoints, train):
    method, model = make(checkpoints, train), student()
    method.begin_epoch(0, model)
    easy = method(model, torch.arange(U)).item()
    method.knowledge.versions.fill_(V - 1)
    method._top = None
    method.begin_epoch(1, model)
    assert method.knowledge.is_last
    hard = method(model, torch.arange(U)).item()
    whole = make(checkpoints, train, ordered_weight=1.0)
    whole.load_state_dict(method.state_dict())
    whole.begin_epoch(1, model)
    assert whole(model, torch.arange(U)).item() == pytest.approx(2 * hard)
    assert easy != hard


def test_a_resumed_run_goes_on_exactly(checkpoints, train):
    torch.manual_seed(0)
    method, model = make(checkpoints, train), student()
    run(method, model, 9)
    copy, again = make(checkpoints, train), student()
    copy.load_state_dict(method.state_dict())
    again.load_state_dict(model.state_dict())
    assert run(method, model, 6, start=9) == run(copy, again, 6, start=9)
    assert torch.equal(method.knowledge.versions, copy.knowledge.versions)
    assert torch.equal(method._top, copy._top)


def test_an_ensemble_by_its_definition():
    lists = torch.stack(
        [
            torch.stack([torch.randperm(30, generator=generator(9 * m + u))[:8] for u in range(5)])
            for m in range(3)
        ]
    )
    lists[1, 2, 5:] = -1
    lists[:, 4] = -1
    lists[0, 4, 0] = 7
    found = ensemble_rankings(lists, 12, 3.0)
    for user in range(5):
        sums: dict[int, float] = {}
        for ranked in lists[:, user].tolist():
            for position, item in enumerate(ranked):
                if item >= 0:
                    sums[item] = sums.get(item, 0.0) + math.exp(-position / 3.0)
        wanted = sorted(sums, key=lambda item: (-round(sums[item], 12), item))[:12]
        assert found[user].tolist() == wanted + [-1] * (12 - len(wanted))


def biased(kind: str):
    """A student with biases: a metric one, an autoencoder, or one of a user's own; all of their numbers learn."""
    data = generate(
        U, N, mean_interactions=9, min_interactions=6, n_groups=3, groups_per_user=2, width=8, seed=5
    )
    model = build_model(kind, data, 8, seed=2)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter += 0.3 * randn(*parameter.shape, seed=number)
    return model.eval()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["mf", "cml", "multvae", "item_autoencoder"])
def test_scores_are_the_students_whatever_its_kind(checkpoints, train, kind, last):
    """The loss and its gradients are those of what `score` says of the whole catalogue."""
    model, method, users = biased(kind), make(checkpoints, train, ordered_weight=1.0), torch.arange(0, U, 2)
    method.knowledge.versions.fill_((V - 1) * last)
    method.begin_epoch(0, model)
    scores = model.score(users, torch.arange(N).expand(len(users), -1))
    expected = functional.heterogeneous_compression(
        scores.double(), torch.eye(N, dtype=torch.float64), method.observed[users], method._top[users],
        train.rows(users), last, "sum",
    )  # fmt: skip
    loss = method(model, users)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    wanted, found = (torch.autograd.grad(of, parameters, allow_unused=True) for of in (expected, loss))
    for mine, theirs in zip(found, wanted, strict=True):
        largest = 0 if theirs is None else theirs.abs().max()
        mine, theirs = (torch.zeros(1) if grad is None else grad for grad in (mine, theirs))
        assert (mine - theirs).abs().max() <= 1e-4 * largest + 1e-5


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_student_of_layers_under_autocast(checkpoints, train, with_bias):
    """Its vectors are in half precision, its biases are not."""

    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inputs = torch.nn.ParameterList([randn(n, 8, seed=n) for n in (U, N)])
            self.layers = torch.nn.ModuleList([torch.nn.Linear(8, 6) for _ in range(2)])
            self.item_bias = torch.nn.Parameter(randn(N, seed=3)) if with_bias else None

        def user_vectors(self, ids=None):
            return self.layers[0](self.inputs[0] if ids is None else self.inputs[0][ids])

        def item_vectors(self, ids=None):
            return self.layers[1](self.inputs[1] if ids is None else self.inputs[1][ids])

        def score(self, users, items):
            products = torch.einsum("bd,bkd->bk", self.user_vectors(users), self.item_vectors()[items])
            return products if self.item_bias is None else products + self.item_bias[items]

    method, model = make(checkpoints, train), Layers()
    with torch.autocast("cpu", torch.bfloat16):
        method.begin_epoch(0, model)
        method(model, torch.arange(U)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_method_that_goes_back_teaches_what_it_taught_there(checkpoints, train):
    method, model = make(checkpoints, train), student()
    method.begin_epoch(0, model)
    before, expected = method.state_dict(), method(model, torch.arange(U))
    before = {key: tensor.clone() for key, tensor in before.items()}
    method.knowledge.versions.fill_(V - 1)
    method.load_state_dict(method.state_dict())
    method.begin_epoch(1, model)
    assert not torch.equal(method(model, torch.arange(U)), expected)
    method.load_state_dict(before)
    with pytest.raises(RuntimeError, match="expected begin_epoch before the first batch"):
        method(model, torch.arange(U))
    method.begin_epoch(1, model)
    assert torch.equal(method(model, torch.arange(U)), expected)


def test_a_student_that_scores_otherwise_is_refused(checkpoints, train):
    model = student()
    model.scores_are_inner_products = False
    method = make(checkpoints, train)
    method.begin_epoch(0, model)  # its scores are those products, whatever it says
    model.score = lambda users, items: MatrixFactorization.score(model, users, items).tanh()
    with pytest.raises(
        TypeError, match="HeterogeneousCompression: expected a student whose scores are inner"
    ):
        method.begin_epoch(1, model)
    with pytest.raises(TypeError, match=r"HeterogeneousCompression: .*; got NeuralMatrixFactorization"):
        method.begin_epoch(1, NeuralMatrixFactorization(U, N, 4))


def test_bad_settings(checkpoints, train):
    for name in ("period", "n_listed", "n_compared"):
        with pytest.raises(ValueError, match=f"expected {name} of 1 or more; got 0"):
            make(checkpoints, train, **{name: 0})
    with pytest.raises(ValueError, match="gain as one of student, teacher; got 'mine'"):
        make(checkpoints, train, gain="mine")
    with pytest.raises(ValueError, match=r"as many checkpoints of each teacher; got \[3, 2\]"):
        make([checkpoints[0], checkpoints[1][:2]], train)
    with pytest.raises(ValueError, match="31 items each; got 24 × 90, 30 each"):
        make(checkpoints, train, n_listed=31)
    with pytest.raises(ValueError, match=r"observed of 24 rows, as exclude; got \[3, 2\]"):
        HeterogeneousCompression(checkpoints, train, torch.zeros(3, 2).long(), 20, 10)
    with pytest.raises(ValueError, match="reduction as one of sum, mean; got 'none'"):
        make(checkpoints, train, reduction="none")
    with pytest.raises(RuntimeError, match="expected begin_epoch before the first batch"):
        make(checkpoints, train)(student(), torch.tensor([0]))
    short = [[Rankings.from_scores(torch.rand(U, N), 20)] * V for _ in range(M)]
    for teacher in short:
        for rankings in teacher:
            rankings.indices[3, 4:] = -1
    method = make(short, train)
    with pytest.raises(
        ValueError, match="20 items that some teacher lists for every user; got .* for user 3"
    ):
        method.begin_epoch(0, student())


def test_one_user_of_300_does_not_hold_back_the_phase():
    """As released, means of versions are rounded to two decimals."""
    lists = [Rankings.from_scores(randn(300, 20, seed=v), 10) for v in range(2)]
    observed = torch.full((300, 1), -1)
    method = HeterogeneousCompression([lists], CSR.empty(300, 20), observed, n_listed=10, n_compared=10)
    method.knowledge.versions.fill_(1)
    method.knowledge.versions[0, 0] = 0
    assert method.knowledge.is_last
    method.knowledge.versions[0, :2] = 0
    assert not method.knowledge.is_last


def test_the_students_lists_are_without_train_items(checkpoints, train):
    found = make(checkpoints, train).knowledge.student_lists(student())
    assert not train.contains(torch.arange(U).repeat_interleave(10), found.flatten()).any()


def test_the_ensemble_has_its_temperature(checkpoints, train):
    method = make(checkpoints, train, position_temperature=0.5)
    method.begin_epoch(0, student())
    lists = torch.stack([teacher[0].indices[:, :20].long() for teacher in checkpoints])
    assert torch.equal(method._top, ensemble_rankings(lists, 20, 0.5))
    assert not torch.equal(method._top, ensemble_rankings(lists, 20))


def test_the_threshold_falls_with_every_comparison(checkpoints, train, monkeypatch):
    told, real = [], functional.advance_checkpoints
    monkeypatch.setattr(functional, "advance_checkpoints", lambda *args: told.append(args[4:]) or real(*args))
    method = make(checkpoints, train, period=3, looseness=1.3, decay=0.9)
    for epoch in range(11):
        method.begin_epoch(epoch, student())
    assert told == [(step, 1.3, 0.9, "student") for step in (1, 2, 3)]


def test_a_mean_is_over_different_users(checkpoints, train):
    model, users = student(), torch.tensor([3, 5, 3, 9, 9, 9, 1])
    mean, whole = make(checkpoints, train, reduction="mean"), make(checkpoints, train)
    for method in (mean, whole):
        method.begin_epoch(0, model)
    for batch in (users, Batch(users, users)):
        assert 4 * mean(model, batch).item() == pytest.approx(whole(model, batch).item())


def test_of_observed_items_a_tenth_of_the_list_counts(checkpoints, train):
    losses = []
    for width in (3, 2):
        observed = torch.arange(3).expand(U, 3)[:, :width]
        method = HeterogeneousCompression(checkpoints, train, observed, n_listed=20, n_compared=10, period=2)
        method.begin_epoch(0, student())
        losses.append(method(student(), torch.arange(U)).item())
    assert losses[0] == losses[1]


def test_rows_are_caught_up_before_they_are_read(checkpoints, train):
    method, model, users = make(checkpoints, train), student(), torch.tensor([3, 5])
    method.begin_epoch(0, model)
    read = {id(model.user_table): set(), id(model.item_table): set()}
    model.before_reading = lambda table, ids: read[id(table)].update(ids.flatten().tolist())
    method(model, users)
    assert read[id(model.user_table)] == {3, 5}
    assert read[id(model.item_table)] == set(method._top[users].flatten().tolist())
