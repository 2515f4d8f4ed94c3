"""Consensus learning: released numbers, heads, balance and consensus by their definitions, resumed runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from rankdistill import (
    Batch,
    ConsensusLearning,
    MatrixFactorization,
    MultiHeadFactorization,
    Term,
    Trainer,
    functional,
)
from rankdistill.config import TrainingConfig
from rankdistill.data import CSR, generate
from rankdistill.losses.head_balance import HeadBalance
from rankdistill.losses.head_objectives import listed_scores, own_loss, touched
from rankdistill.models.multi_head_factorization import HEADS
from tests.case import generator, randint, randn
from tests.losses.vectors import golden_tensors

U, N, K = 9, 30, 6
RELEASED = dict(zip("ABCDE", HEADS)) | {"sub": "item_multinomial"}


@pytest.fixture(scope="module")
def train():
    """User 3 has nothing, user 4 all but two items."""
    dense = torch.rand(U, N, generator=generator(1)) < 0.15
    dense[3], dense[4, 2:] = False, True
    return CSR.from_any(dense)


def make_student(dtype=torch.float32, seed=2):
    return MultiHeadFactorization(U, N, 16, seed=seed, init_std=1.0).to(dtype)


def make(train, **options):
    return ConsensusLearning(train, **{"n_listed": K, "period": 2, "n_states": 2, "dropout": 0.0} | options)


def make_batch(train, count=25):
    users, positives = train.pairs()
    rows = randint(0, len(users), (count,), seed=3)
    return Batch(users[rows], positives[rows], randint(-1, N, (count,), seed=4))


def released_model(golden):
    numbers = golden("concf_cl_small_f64")
    t = golden_tensors(numbers)
    model = MultiHeadFactorization(len(t["user_emb"]), len(t["item_emb"]), t["user_emb"].shape[1]).double()
    state = {"user_table": t["user_emb"], "item_table": t["item_emb"], "recommending": torch.tensor(0)}
    for name, value in t.items():
        if name.startswith("param__"):
            where, layer, kind = name.removeprefix("param__").rsplit("__", 2)
            head, part = where.split("_", 1)
            prefix = f"bottom_{kind}_{'in' if layer == '0' else 'out'}" if "bottom" in part else kind
            state[f"heads.{RELEASED[head]}.{prefix}"] = value
    model.load_state_dict(state)
    return numbers, t, model


def test_released_losses_and_gradients(golden):
    numbers, t, model = released_model(golden)
    lists = torch.full((len(t["user_emb"]), t["items"].shape[1]), -1)
    lists[t["batch_user"].unique()] = t["items"]
    some = torch.zeros_like(t["batch_user"])
    read = touched(model, Batch(t["batch_user"], some, some), lists)
    vectors = lambda head, side, ids: model.head_vectors(head, side, ids, getattr(read, f"{side}_rows"))
    scores = torch.stack(
        [
            listed_scores(h, read, vectors(h, "user", read.users), vectors(h, "item", read.items))
            for h in HEADS[:5]
        ]
    )
    K = t["items"].shape[1]
    args = scores, t["head_weights"].float().double(), K // 2  # the authors' are float32, whatever the model
    losses = functional.consensus_learning(*args, reduction="none")
    torch.testing.assert_close(losses, t["losses"], rtol=1e-10, atol=0)
    loss = functional.consensus_learning(*args)
    assert loss.item() == pytest.approx(float(numbers["loss"]), rel=1e-10)
    loss.backward()
    for table, name in ((model.user_table, "grad_user"), (model.item_table, "grad_item")):
        assert (table.grad - t[name]).abs().max() <= 1e-9 * t[name].abs().max()


def test_gradients():
    scores = randn(3, 2, 5, seed=1).double().requires_grad_()
    weights, lengths = torch.tensor([0.1, 1.0, 9.0]).double(), torch.tensor([2, 1])
    f = lambda s: functional.consensus_learning(s, weights, 2, lengths)
    assert torch.autograd.gradcheck(f, scores)
    expected = 0.0
    for h, weight in enumerate((0.5, 1.0, 2.0)):
        for b, length in enumerate((2, 1)):
            s = scores[h, b].tolist()
            for k in range(length):
                expected += weight * (math.log(sum(map(math.exp, s[k:length] + s[2:]))) - s[k])
    assert f(scores).item() == pytest.approx(expected)
    assert functional.consensus_learning(scores[:, :0], weights, 2).item() == 0
    assert functional.consensus_learning(scores, weights, 0).item() == 0
    giant = torch.tensor([[[900.0, -900.0]]])
    assert functional.consensus_learning(-giant, torch.ones(1), 1).isfinite()
    for change, message in (
        ({"weights": weights[:2]}, r"weights of shape \[3\]"),
        ({"n_interesting": 6}, r"n_interesting in \[0, 5\]"),
        ({"reduction": "mean"}, "reduction as one of sum, none"),
    ):
        with pytest.raises(ValueError, match=message):
            functional.consensus_learning(
                **{"scores": scores, "weights": weights, "n_interesting": 2} | change
            )


def test_heads_by_their_definitions(train):
    model = make_student(torch.float64)
    users, items = model.user_table, model.item_table
    for head in HEADS:
        made = model.heads[head]
        bottom = lambda rows, made=made: (
            (rows @ made.bottom_weight_in.T + made.bottom_bias_in).relu() @ made.bottom_weight_out.T
            + made.bottom_bias_out
        )
        u, i = bottom(users), bottom(items)
        if head in ("ranking", "metric"):
            u, i = (h @ made.weight.T + made.bias for h in (u, i))
        if head == "ranking":
            expected = u @ i.T
        elif head == "metric":
            u, i = (normalize(h, eps=1) for h in (u, i))
            assert (u.norm(dim=1) < 0.99).any(), "some stand inside the ball"
            expected = -10 * (u[:, None] - i).square().sum(2)
        elif head in ("binary", "squared"):
            expected = (u[:, None] * i) @ made.weight[0] + made.bias
        elif head == "multinomial":
            expected = u @ made.weight.T + made.bias
        else:
            expected = (i @ made.weight.T + made.bias).T
        model.recommend_by(head)
        torch.testing.assert_close(model.user_vectors() @ model.item_vectors().T, expected)
        ids = torch.tensor([[4, 0, -1], [1, 1, 7]])
        found = model.score(torch.tensor([5, 2]), ids)
        assert found[0, 2] == -torch.inf
        torch.testing.assert_close(found[0, :2], expected[5, ids[0, :2]])
        torch.testing.assert_close(found[1], expected[2, ids[1]])


def plain_objective(model, head, batch, train):
    """A head's own loss, from the whole matrix of its scores."""
    seen, kept = train.to_dense(), batch.negatives >= 0
    scores = model.head_vectors(head, "user") @ model.head_vectors(head, "item").T
    positive, negative = (scores[batch.users, i][kept] for i in (batch.positives, batch.negatives))
    if head == "ranking":
        return -logsigmoid(positive - negative).sum()
    if head == "metric":
        return (1 - positive / 10 + negative / 10).clamp_min(0).sum()
    if head == "binary":
        return -(positive.sigmoid().log() + (1 - negative.sigmoid()).log()).sum()
    if head == "squared":
        return ((positive - 1) ** 2 + negative**2).sum()
    if head == "multinomial":
        users = batch.users.unique()
        return -scores.log_softmax(1)[users][seen[users]].sum()
    items = batch.positives.unique()
    return -scores.log_softmax(0)[:, items][seen[:, items]].sum()


def plain_lists(model, batch, consensus):
    """What every head but the last loses on the users' consensus, from the whole matrix of its scores."""
    users, lists = batch.users.unique(), []
    for head in HEADS[:5]:
        scores = model.head_vectors(head, "user") @ model.head_vectors(head, "item").T
        scores = scores[users].gather(1, consensus[users].long())
        if head in ("ranking", "multinomial"):
            scores = scores.clamp(-40, 40)
        lists.append(sum((scores[:, k:].logsumexp(1) - scores[:, k]).sum() for k in range(K // 2)))
    return torch.stack(lists)


def test_objectives_by_their_definitions(train):
    model, batch = make_student(torch.float64), make_batch(train)
    read = touched(model, batch, torch.full((U, K), -1))
    assert (batch.negatives < 0).any()
    for head in HEADS:
        vectors = (
            model.head_vectors(head, s, ids) for s, ids in (("user", read.users), ("item", read.items))
        )
        found = own_loss(model, head, read, *vectors, (train, train.transposed()))
        expected = plain_objective(model, head, batch, train)
        assert found.item() == pytest.approx(expected.item(), rel=1e-9), head


def test_the_balance_is_gradnorms(train):
    """Against second derivatives by autograd of Σ|G − target|, consensus terms among them, and torch's Adam."""
    method, model, batch = make(train, consensus_weight=0.7), make_student(torch.float64), make_batch(train)
    method.begin_epoch(0, model)
    method.queue.consensus[:] = torch.rand(U, N, generator=generator(5)).argsort(1)[:, :K].int()
    method.balance.weights.copy_(torch.tensor([0.3, 1.0, 2.5, 0.6, 1.1, 0.5]))
    method.balance.reference.copy_(torch.tensor([3.0, 1.0, 8.0, 2.0, 9.0, 5.0]))
    method._epoch = 50
    start = method.balance.weights.clone()
    weights = torch.nn.Parameter(start.clone())
    own = torch.stack([plain_objective(model, h, batch, train) for h in HEADS])
    lists = plain_lists(model, batch, method.queue.consensus)
    norms = []
    for h in range(6):
        whole = weights[h] * own[h] + (0.7 * weights[h].clamp(0.5, 2) * lists[h] if h < 5 else 0)
        gradients = torch.autograd.grad(
            whole, (model.user_table, model.item_table), create_graph=True, allow_unused=True
        )
        parts = [0.0 if g is None else g.norm() for g in gradients]
        norms.append(parts[0] + parts[1] / 2)
    norms = torch.stack(norms)
    targets = functional.balanced_gradient_norms(norms, own.detach() / method.balance.reference)
    adam = torch.optim.Adam([weights], lr=0.01)
    (norms - targets).abs().sum().backward(inputs=[weights])
    adam.step()
    expected = (6 * weights / weights.sum()).clamp_min(0.01)
    loss = method(model, batch)
    torch.testing.assert_close(method.balance.weights, expected.detach(), rtol=1e-9, atol=1e-12)
    clipped = start.clamp(0.5, 2)
    assert loss.item() == pytest.approx((start * own).sum().item() + 0.7 * (clipped[:5] * lists).sum().item())
    with torch.no_grad():
        method(model, batch)
    torch.testing.assert_close(method.balance.weights, expected.detach(), rtol=1e-9, atol=1e-12)


class Stretched(MultiHeadFactorization):
    """Whose shared vectors, and one head's, go through a parameter of its own."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.stretch = torch.nn.Parameter(torch.linspace(0.5, 1.5, sizes[2]))

    def rows(self, side, ids=None):
        return super().rows(side, ids) * self.stretch

    def head_vectors(self, head, side, ids=None, rows=None, dropout=None):
        vectors = super().head_vectors(head, side, ids, rows, dropout)
        return vectors * self.stretch[0] if (head, side) == ("squared", "user") else vectors


@pytest.mark.parametrize("agreed", [True, False], ids=["with a consensus", "before there is one"])
def test_gradients_reach_all_parameters(agreed, train):
    """Those of the plain sum, by tables, heads and whatever a model adds; none for what is frozen."""
    method, batch = make(train, consensus_weight=0.7), make_batch(train)
    model = Stretched(U, N, 16, seed=2, init_std=1.0).double()
    model.heads["binary"].weight.requires_grad_(False)
    method.begin_epoch(0, model)
    if agreed:
        method.queue.consensus[:] = torch.rand(U, N, generator=generator(5)).argsort(1)[:, :K].int()
    start = torch.tensor([0.3, 1.0, 2.5, 0.6, 1.1, 0.5]).double()
    method.balance.weights.copy_(start)
    whole = (start * torch.stack([plain_objective(model, h, batch, train) for h in HEADS])).sum()
    if agreed:
        whole = (
            whole + 0.7 * (start.clamp(0.5, 2)[:5] * plain_lists(model, batch, method.queue.consensus)).sum()
        )
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    expected = torch.autograd.grad(whole, learned.values(), allow_unused=True)
    (3 * method(model, batch)).backward()
    assert model.heads["binary"].weight.grad is None
    for (name, parameter), wanted in zip(learned.items(), expected, strict=True):
        found = parameter.grad
        if wanted is None:
            assert found is None or not found.any(), name
        else:
            torch.testing.assert_close(found, 3 * wanted, rtol=1e-9, atol=1e-9, msg=name)


def test_a_loss_of_zero_is_no_reference():
    """A hinge over a few pairs may be 0: all later losses of its head would be infinitely large beside it."""
    weights = []
    for last in (1.0, 0.0, 1e-9):
        balance = HeadBalance(3, 0.01, 0.15, 10)
        balance.step(9, torch.tensor([2.0, 1.0, 3.0]), torch.ones(3), torch.ones(3))
        balance.step(10, torch.tensor([2.0, last, 3.0]), torch.ones(3), torch.ones(3))
        assert balance.reference.tolist() == [2.0, 1.0, 3.0]
        for _ in range(200):
            balance.step(11, torch.tensor([1.0, 0.5, 1.5]), torch.ones(3), torch.ones(3))
        weights.append(balance.weights)
    for other in weights[1:]:
        assert (weights[0] - other).abs().max() < 0.15, "else about 2"


def test_the_balances_adam_is_torchs():
    balance, weights = HeadBalance(3, 0.05, 0.15, 10), torch.nn.Parameter(torch.ones(3).double())
    adam = torch.optim.Adam([weights], lr=0.05)
    for step in range(6):
        losses, norms, slopes = (randn(3, seed=10 * step + i).double().abs() for i in range(3))
        balance.step(step, losses, norms, slopes)
        assert torch.equal(balance.reference, losses), "until epoch 10 they are the latest"
        weights.grad = (norms - norms.mean()).sign() * slopes
        adam.step()
        with torch.no_grad():
            weights.copy_((3 * weights / weights.sum()).clamp_min(0.01))
    torch.testing.assert_close(balance.weights, weights.detach(), rtol=1e-10, atol=0)
    balance.step(11, losses * 2, norms, slopes)
    assert torch.equal(balance.reference, losses)


def ranks_of(model, head, train):
    """[U, N] by sorting; train items last."""
    model.recommend_by(head)
    with torch.no_grad():
        scores = (model.user_vectors() @ model.item_vectors().T).masked_fill(train.to_dense(), -torch.inf)
    return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_the_consensus_by_its_definition(train, form):
    """Whole matrices of ranks, as the authors' code has them, of a model that changes between rankings."""
    method = make(train, form=form, n_states=3, period=1)
    history, seen = [], train.to_dense()
    for epoch in range(9):
        model = make_student(torch.float64, seed=20 + epoch)
        method.begin_epoch(epoch, model)
        if epoch > 0:
            history.append(torch.stack([ranks_of(model, h, train) for h in HEADS]))
        count = len(history)
        if count <= 3:
            assert (method.queue.consensus == -1).all()
            continue
        latest, states = history[-1], history[-3:]
        if form == "released":  # built before the new ranks are queued; deviations once, of rankings 1 to 3
            latest, states = history[-2], history[1:4] if count > 4 else [latest] * 3
        deviations = torch.stack(states).double().std(0, correction=0)
        near = (latest < K) & ~seen
        weight = torch.where(near, (-latest / 10.0).exp() + (-deviations / 100).exp(), 0.0).sum(0)
        for user in range(U):
            found = method.queue.consensus[user].tolist()
            best = weight[user].sort(descending=True).values[:K].tolist()
            ids = [i for i in found if i >= 0]
            assert len(set(ids)) == len(ids) == sum(w > 0 for w in best)
            assert [weight[user, i].item() for i in ids] == pytest.approx(best[: len(ids)], rel=1e-12)
    assert method.queue.consensus[4].tolist()[2:] == [-1] * (K - 2), "only two items are not train items"


def test_short_lists_and_users_without_train_items(train):
    method, model = make(train), make_student()
    for epoch in range(8):
        method.begin_epoch(epoch, model)
    assert (method.queue.consensus[3] >= 0).all()
    users = torch.tensor([3, 4, 4])
    batch = Batch(users, torch.tensor([0, 5, 6]), torch.tensor([[1, -1], [-1, -1], [0, 1]]))
    loss = method(model, batch)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    nothing = torch.arange(0)
    assert method(model, Batch(nothing, nothing, nothing)).item() == 0
    assert method.balance.weights.isfinite().all()


def test_dropout_belongs_to_seed_and_epoch(train):
    model, batch = make_student(), make_batch(train)
    found = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        method = make(train, dropout=0.5, seed=seed, period=9)
        method.begin_epoch(epoch, model)
        loss = method(model, batch).item()
        assert found.setdefault((seed, epoch), loss) == loss
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n_listed": 1}, "n_listed of 2 or more; got 1"), ({"period": 0}, "period of 1 or more; got 0"),
     ({"position_temperature": 0}, "position_temperature above 0; got 0"), ({"form": "own"}, "form as one of released, paper; got 'own'"), ({"dropout": 2}, r"dropout in \[0, 1\]; got 2")],
)  # fmt: skip
def test_bad_settings(train, options, message):
    with pytest.raises(ValueError, match=f"ConsensusLearning: expected {message}"):
        make(train, **options)


def test_wrong_students(train):
    method = make(train)
    with pytest.raises(TypeError, match="expected a student with heads, .*; got MatrixFactorization"):
        method.begin_epoch(0, MatrixFactorization(U, N, 4))
    with pytest.raises(RuntimeError, match="expected begin_epoch before the first batch"):
        method(make_student(), make_batch(train))
    with pytest.raises(ValueError, match="head as one of ranking, metric, .*; got 'best'"):
        make_student().recommend_by("best")
    with pytest.raises(ValueError, match="expected width of 4 or more; got 3"):
        MultiHeadFactorization(2, 2, 3)


CONFIG = TrainingConfig(
    epochs=9, batch_size=256, learning_rate=0.01, weight_decay=1e-5, evaluate_every=2, metric="recall@20"
)


@pytest.fixture(scope="module")
def dataset():
    return generate(120, 90, mean_interactions=15, min_interactions=8, n_groups=5, groups_per_user=2, seed=3)


def trainer(dataset, epochs=CONFIG.epochs, **options):
    method = ConsensusLearning(
        dataset.train.csr(),
        n_listed=20,
        period=2,
        n_states=2,
        **{"consensus_weight": 0.05} | options.pop("method", {}),
    )
    model = MultiHeadFactorization(dataset.n_users, dataset.n_items, 16, seed=1)
    config = replace(CONFIG, epochs=epochs)
    return Trainer(model, dataset, config, [Term(1.0, method)], base_weight=0.0, **options)


def test_all_heads_learn(dataset):
    made = trainer(dataset, 20)
    untrained = made.evaluate()["valid/recall@20"]
    made.fit()
    for head in HEADS[:5]:
        made.model.recommend_by(head)
        assert made.evaluate()["valid/recall@20"] > 1.2 * untrained, head
    weights = made.terms[0].method.balance.weights
    assert weights.std() > 0.01
    assert weights.sum().item() == pytest.approx(6, abs=0.1)


def test_resume_is_bit_identical(dataset, tmp_path):
    whole = trainer(dataset, folder=tmp_path / "whole")
    whole.fit()
    trainer(dataset, 5, folder=tmp_path / "parts").fit()
    resumed = trainer(dataset, folder=tmp_path / "parts")
    resumed.fit()
    for ours, theirs in zip(whole.parameters, resumed.parameters, strict=True):
        assert torch.equal(ours, theirs)
    states = [made.terms[0].method.state_dict() for made in (whole, resumed)]
    assert states[0].keys() == states[1].keys() >= {"queue.states", "queue.consensus", "balance.weights"}
    assert (states[0]["queue.consensus"] >= 0).any()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_no_gradient_reaches_weights_and_norms():
    weights = torch.ones(3, requires_grad=True)
    functional.consensus_learning(randn(3, 2, 5, seed=1).requires_grad_(), weights, 2).backward()
    assert weights.grad is None
    norms, relative = (torch.ones(3, requires_grad=True) for _ in range(2))
    assert not functional.balanced_gradient_norms(norms, relative).requires_grad


def test_no_dropout_where_nothing_trains(train):
    model, batch, found = make_student(), make_batch(train), []
    for method in (make(train, dropout=0.5).eval(), make(train, dropout=0.0)):
        method.begin_epoch(0, model)
        found.append(method(model, batch).item())
    assert found[0] == found[1]


def test_the_reference_is_of_the_last_such_epoch():
    balance = HeadBalance(3, 0.05, 0.15, 2)
    for epoch in (0, 2, 3):
        balance.step(epoch, torch.full((3,), 1.0 + epoch).double(), torch.ones(3), torch.ones(3))
    assert balance.reference.tolist() == [3.0] * 3


def test_listed_scores_are_clamped_in_two_heads(train):
    """As released."""
    model, lists = make_student(torch.float64), torch.rand(U, N, generator=generator(5)).argsort(1)[:, :K]
    read = touched(model, make_batch(train), lists)
    for head in HEADS[:5]:
        ids = ("user", read.users), ("item", read.items)
        vectors = [100 * model.head_vectors(head, side, of) for side, of in ids]
        largest = listed_scores(head, read, *vectors).abs().max()
        assert (largest == 40) == (head in ("ranking", "multinomial")), head
