"""Every model of the command line: values, gradients, files, resumes, rankings, and that it learns."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from rankdistill import Batch, Factors, MatrixFactorization, ScoreTeacher, Trainer, as_teacher, load_factors
from rankdistill.config import TrainingConfig
from rankdistill.data import Dataset, generate
from rankdistill.data.interactions import Interactions
from rankdistill.data.vocabulary import Vocabulary
from rankdistill.losses.whole_catalogue import catalogue_ranker
from rankdistill.methods import Given, make_method
from rankdistill.metrics import evaluate
from rankdistill.models.kinds import MODELS, model_settings
from rankdistill.models.ranked import seen_rankings, unseen_rankings
from rankdistill.models.saved import build_model, load_model, save_model
from rankdistill.models.self_attentive_recommendation import histories_of, latest
from tests.case import generator, randint

NAMES = tuple(MODELS)
every_model = pytest.mark.parametrize("name", NAMES)
OPTIONS = {"lightgcn": {"n_layers": 2}, "sasrec": {"length": 12, "n_heads": 2}, "multvae": {"latent": 5},
           "cml": {"margin": 0.5}, "neumf": {"n_layers": 2}, "item_autoencoder": {"dropout": 0.3}}  # fmt: skip
WITHOUT_VECTORS = ("neumf",)


@cache
def world() -> Dataset:
    """Users go through the items of their groups in the order of ids: sequences have something to learn."""
    data = generate(
        120, 90, mean_interactions=16, min_interactions=8, n_groups=5, groups_per_user=1,
        group_strength=10.0, popularity_exponent=0.5, seed=3,
    )  # fmt: skip
    return replace(data, train=replace(data.train, timestamps=torch.arange(len(data.train))))


def make(name: str, seed: int = 1) -> torch.nn.Module:
    return build_model(name, world(), 8, seed, OPTIONS.get(name))


def training(model, epochs: int, **settings) -> TrainingConfig:
    size = 128 if getattr(model, "batch_by", "interactions") == "interactions" else 30
    defaults = {"learning_rate": 0.02, "weight_decay": 1e-6, "n_negatives": 3, "evaluate_every": 2}
    return TrainingConfig(epochs=epochs, batch_size=size, keep_best=False, **(defaults | settings))


@cache
def trained(name: str) -> torch.nn.Module:
    model = make(name)
    Trainer(model, world(), training(model, 30, evaluate_every=0)).fit()
    return model


def a_batch(data: Dataset, n: int = 64, negatives: int = 3) -> Batch:
    rows = randint(0, len(data.train), (n,), seed=4)
    drawn = randint(0, data.n_items, (n, negatives), seed=5)
    return Batch(data.train.users[rows], data.train.items[rows], drawn)


def recall_of(model) -> float:
    data = world()
    found = evaluate(model, data.test.csr(), data.held_out_exclude("test"), [20], ["recall"])
    return found["recall@20"]


@pytest.mark.parametrize("name", [n for n in NAMES if n != "sasrec"])
def test_it_learns_more_than_what_is_popular(name):
    data = world()
    popular = torch.bincount(data.train.items, minlength=data.n_items).float()
    base = recall_of(Factors(torch.ones(data.n_users, 1), popular[:, None]))
    assert recall_of(trained(name)) > base + 0.1


def test_sequences_are_continued():
    """Users walk around a ring of items: the next one is the step that all took from there."""
    steps = torch.randint(0, 40, (150, 1), generator=generator(1)) + torch.arange(9)
    users, items = torch.arange(150).repeat_interleave(9), (steps % 40).flatten()
    last, times = torch.arange(9).repeat(150) == 8, torch.arange(9).repeat(150)
    parts = [
        Interactions(users[rows], items[rows], 150, 40, times[rows]) for rows in (~last, last & False, last)
    ]
    data = Dataset(*parts, Vocabulary(np.arange(150)), Vocabulary(np.arange(40)))
    model = build_model("sasrec", data, 16, options={"length": 7})
    Trainer(model, data, training(model, 15, evaluate_every=0)).fit()
    found = evaluate(model, data.test.csr(), data.held_out_exclude("test"), [3], ["recall"])
    assert found["recall@3"] > 0.9, "of what is popular 3 of 32"
    told = histories_of(data.train, 5)
    assert torch.equal(told, (steps % 40)[:, 3:8]), "the latest, in order"
    assert torch.equal(latest(torch.tensor([[4, 5, -1], [1, 2, 3]]), 2), torch.tensor([[4, 5], [2, 3]]))


@every_model
def test_rankings_are_the_best_of_its_own_scores(name):
    data, model = world(), trained(name)
    users, items = torch.arange(data.n_users), torch.arange(data.n_items)
    with torch.no_grad():
        scores = model.score(users, items.expand(len(users), -1)).double()
    teacher = as_teacher(model)
    assert isinstance(teacher, ScoreTeacher if name in WITHOUT_VECTORS else Factors)
    torch.testing.assert_close(
        teacher.score(users, items.expand(len(users), -1)).double(), scores, rtol=1e-4, atol=1e-4
    )
    scores[data.train.csr().to_dense()] = -torch.inf
    found = unseen_rankings(model, data, 10)
    best = scores.topk(10).values
    torch.testing.assert_close(scores.gather(1, found.indices.long()), best, rtol=1e-4, atol=1e-4)
    seen = seen_rankings(model, data, 3)
    assert data.train.csr().contains(users.repeat_interleave(3), seen.indices.long().flatten()).all()


@every_model
def test_scores_of_no_item_and_of_repeated_users(name):
    model = trained(name)
    users, items = torch.tensor([7, 2, 7]), torch.tensor([[3, -1, 4], [5, 6, 5], [4, 3, -1]])
    scores = model.score(users, items).detach()
    assert torch.equal(torch.isinf(scores), items < 0)
    torch.testing.assert_close(scores[0, [0, 2]], scores[2, [1, 0]])
    torch.testing.assert_close(scores[1, 0], scores[1, 2])


@every_model
def test_files_hold_the_model_its_settings_and_what_it_encodes(name, tmp_path):
    data, model = world(), trained(name)
    save_model(tmp_path / "model.safetensors", model, name, data)
    keep = torch.arange(len(data.train)) % 2 == 0
    fewer = Dataset(data.train.select(keep), data.valid, data.test, data.users, data.items, "fewer")
    items = torch.arange(90).expand(4, -1)
    for other in (data, fewer):
        again = load_model(tmp_path, other)
        assert {k: getattr(again, k) for k in model_settings(name)} == {
            k: getattr(model, k) for k in model_settings(name)
        }
        assert torch.equal(again.score(torch.arange(4), items), model.score(torch.arange(4), items))
    if name in WITHOUT_VECTORS:
        with pytest.raises(ValueError, match="expected a model with vectors; got neumf, which only scores"):
            load_factors(tmp_path)
    else:
        found = load_factors(tmp_path).score(torch.arange(4), items)
        torch.testing.assert_close(found, model.score(torch.arange(4), items).detach())


@every_model
def test_a_resumed_training_is_the_same_bits(name, tmp_path):
    def run(folder: str, epochs: int):
        model = make(name)
        Trainer(model, world(), training(model, epochs), folder=tmp_path / folder).fit()
        return model.state_dict()

    whole = run("whole", 5)
    run("parts", 3)
    parts = run("parts", 5)
    assert all(torch.equal(tensor, parts[key]) for key, tensor in whole.items())


@every_model
def test_gradients_are_those_of_differences(name):
    model = make(name).double()
    if name == "lightgcn":
        model.kept.forget()
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in parameters:
            p.add_(0.05 * torch.randn(p.shape, generator=generator(8), dtype=p.dtype))
    batch = a_batch(world(), 12)

    def loss():
        if hasattr(model, "begin_epoch"):
            model.begin_epoch(3)  # the same noise every time
        return model.loss(batch) + model.score(batch.users, batch.negatives).square().sum()

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    assert sum(g is not None for g in gradients) >= 2
    step = 1e-6
    for parameter, gradient in zip(parameters, gradients):
        if gradient is None:
            continue
        towards = torch.randn(parameter.shape, generator=generator(9), dtype=parameter.dtype)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * towards)
                values.append(loss())
                parameter.sub_(sign * step * towards)
        measured = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close((gradient * towards).sum(), measured, rtol=2e-3, atol=2e-3)


METHODS = {
    "rrd": {"n_interesting": 5, "n_uninteresting": 5}, "cd": {"guide": "student", "n_samples": 5},
    "rce_kd": {"n_ranked": 20, "n_listed": 5, "n_sampled": 5}, "bd": {}, "hint": {},
}  # fmt: skip


@every_model
@pytest.mark.parametrize("method", METHODS)
def test_methods_teach_it_or_say_what_it_has_not(name, method):
    data, student, teacher = world(), make(name), trained("mf")
    given = Given(data, unseen_rankings(teacher, data, 20), 8, teacher)
    made = make_method(method, given, METHODS[method])
    if name == "multi_head" and method == "hint":
        return  # its vectors are those of a head, of another width
    trainer = Trainer(student, data, training(student, 1), [(0.1, made)])
    if name in WITHOUT_VECTORS and method == "hint":
        with pytest.raises(
            TypeError, match="expected a student with user_vectors and item_vectors; got Neural"
        ):
            trainer.train_epoch(0)
        return
    before = [p.detach().clone() for p in student.parameters()]
    trainer.train_epoch(0)
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters()))


@every_model
def test_it_is_a_teacher_that_trains_along(name):
    data, student = world(), make("mf")
    method = make_method("bd", Given(data, None, 8, trained(name)), {})
    Trainer(student, data, training(student, 1), [(0.1, method)]).train_epoch(0)
    before, after = trained(name).state_dict(), method.trained_teacher.state_dict()
    assert any(not torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_copies_of_a_graph_model_score_alike():
    model = trained("lightgcn")
    model.score(torch.tensor([0]), torch.tensor([[1]]))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.user_table.mul_(2)
    pair = torch.tensor([0]), torch.tensor([[1]])
    assert not torch.equal(model.score(*pair), other.score(*pair))


@every_model
def test_bad_settings_are_named(name):
    data = world()
    with pytest.raises(ValueError, match=rf"build_model: expected options of .* for {name}; got 'n_layer'"):
        build_model(name, data, 8, options={"n_layer": 2})
    with pytest.raises(ValueError, match=r"expected width of \d or more; got 0"):
        build_model(name, data, 0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cml", {"margin": 0.0}, "expected margin above 0; got 0"),
        ("neumf", {"n_layers": 0}, "expected n_layers of 1 or more; got 0"),
        ("lightgcn", {"n_layers": -1}, "expected n_layers of 0 or more; got -1"),
        ("multvae", {"dropout": 1.0}, r"expected dropout in \[0, 1\); got 1.0"),
        ("item_autoencoder", {"dropout": -0.1}, r"expected dropout in \[0, 1\); got -0.1"),
        ("sasrec", {"n_heads": 3}, "expected width as a multiple of n_heads=3; got 8"),
    ],
)
def test_bad_values_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, world(), 8, options=options)


def test_sequences_need_timestamps():
    data = replace(world(), train=replace(world().train, timestamps=None))
    with pytest.raises(ValueError, match="sasrec: expected train interactions with timestamps"):
        build_model("sasrec", data, 8)


@pytest.mark.parametrize("name", ["multvae", "item_autoencoder", "sasrec"])
def test_noise_needs_an_epoch(name):
    with pytest.raises(RuntimeError, match="expected begin_epoch before the first batch; got none"):
        make(name).loss(a_batch(world()))


@every_model
def test_methods_rank_a_student_by_its_scores(name):
    """Item biases count, and a student without vectors is ranked too."""
    data, model = world(), trained(name)
    users, seen = torch.tensor([5, 0, 77]), data.train.csr()
    found = catalogue_ranker(model, 12, data.n_items)(users, seen.rows(users))
    scores = model.score(users, torch.arange(data.n_items).expand(3, -1)).detach().double()
    scores[seen.rows(users).to_dense()] = -torch.inf
    torch.testing.assert_close(scores.gather(1, found.indices), scores.topk(12).values, rtol=1e-4, atol=1e-4)


def test_a_students_items_are_read_once(monkeypatch):
    model, seen, reads = trained("item_autoencoder"), world().train.csr(), []
    encoded = model.item_vectors
    monkeypatch.setattr(model, "item_vectors", lambda ids=None: reads.append(ids) or encoded(ids))
    best = catalogue_ranker(model, 5, world().n_items)
    parts = torch.arange(30).split(10)
    found = torch.cat([best(users, seen.rows(users)).indices for users in parts])
    assert [ids for ids in reads if ids is None or len(ids) > 3] == [None]  # a few are compared with scores
    assert torch.equal(found, best(torch.arange(30), seen.rows(torch.arange(30))).indices)


@every_model
@pytest.mark.parametrize("user", [-1, world().n_users])
def test_a_user_that_there_is_not_is_no_row(name, user):
    model = make(name)
    for read in (
        [model.score] if name in WITHOUT_VECTORS else [model.score, lambda ids, _: model.user_vectors(ids)]
    ):
        with pytest.raises(IndexError, match=f"expected .* got .*{user}"):
            read(torch.tensor([user]), torch.tensor([[0]]))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_VECTORS])
@pytest.mark.parametrize("item", [-1, world().n_items])
def test_an_item_that_there_is_not_is_no_row(name, item):
    model = make(name)
    with pytest.raises(IndexError, match=f"expected .* got .*{item}"):
        model.item_vectors(torch.tensor([item]))


def test_an_id_below_zero_is_no_row_of_sparse_gradients():
    with pytest.raises(IndexError):
        MatrixFactorization(4, 20, 8, sparse_grad=True).item_vectors(torch.tensor([-1]))


class Offset(torch.nn.Module):
    """A model of one's own: vectors, and scores that they do not make."""

    def __init__(self, data: Dataset, offset: float) -> None:
        super().__init__()
        self.n_users, self.n_items = data.n_users, data.n_items
        self.tables = MatrixFactorization(data.n_users, data.n_items, 6, seed=1, init_std=0.5)
        self.own = torch.nn.Parameter(offset * torch.randn(data.n_items, generator=generator(2)))

    def user_vectors(self, ids=None):
        return self.tables.user_vectors(ids)

    def item_vectors(self, ids=None):
        return self.tables.item_vectors(ids)

    def score(self, users, items):
        return self.tables.score(users, items) + self.own[items]


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_vectors_that_do_not_make_the_scores_do_not_rank(offset):
    data, users = world(), torch.arange(20)
    model = Offset(data, offset)
    scores = model.score(users, torch.arange(data.n_items).expand(20, -1)).detach()
    found = catalogue_ranker(model, 5, data.n_items)(users)
    assert torch.equal(found.indices, scores.topk(5).indices)
    wanted = data.valid.csr()
    by_scores = ScoreTeacher(
        lambda ids: model.score(ids, torch.arange(data.n_items).expand(len(ids), -1)),
        data.n_users,
        data.n_items,
    )
    assert evaluate(model, wanted, data.train.csr()) == pytest.approx(
        evaluate(by_scores, wanted, data.train.csr())
    )
    if offset:
        with pytest.raises(ValueError, match="expected scores that are inner products of user_vectors"):
            as_teacher(model)
        return
    assert torch.equal(as_teacher(model).topk(users, 5).indices, found.indices)
    model.own.data += 3.0 * torch.randn(data.n_items, generator=generator(3))
    model.item_bias = model.own.data  # said, they may
    assert torch.equal(
        as_teacher(model).topk(users, 5).indices, catalogue_ranker(model, 5, data.n_items)(users).indices
    )


DROPPING = pytest.mark.parametrize("name", ["multvae", "item_autoencoder", "sasrec"])


@DROPPING
def test_dropout_drops_anew_in_every_epoch(name):
    losses = {}
    for dropout, epoch in ((0.0, 1), (0.5, 1), (0.5, 2), (0.5, 1)):
        options = {"dropout": dropout} | ({"kl_weight": 0.0} if name == "multvae" else {})
        model = build_model(name, world(), 8, 1, options)
        if name == "multvae":
            with torch.no_grad():  # no other noise
                model.moments.weight[model.latent :] = 0
                model.moments.bias[model.latent :] = -60.0
        model.begin_epoch(epoch)
        loss = model.loss(a_batch(world())).item()
        assert losses.setdefault((dropout, epoch), loss) == loss
    assert len(set(losses.values())) == 3


@DROPPING
def test_noise_belongs_to_the_seed(name):
    losses, state = [], build_model(name, world(), 8, 1, {"dropout": 0.5}).state_dict()
    for seed in (0, 1):
        model = build_model(name, world(), 8, seed, {"dropout": 0.5})
        model.load_state_dict(state)
        model.begin_epoch(1)
        losses.append(model.loss(a_batch(world())).item())
    assert losses[0] != losses[1]


@every_model
def test_another_seed_is_another_model(name):
    first, again, other = (make(name, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.items())
