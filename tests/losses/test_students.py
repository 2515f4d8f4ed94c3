"""Students that are no model of the package: whatever shape they have, every method trains what they score."""

from __future__ import annotations

import contextlib
import copy
import inspect

import numpy as np
import pytest
import torch
from torch import nn

from rankdistill import Batch, as_teacher, plackett_luce, vector_scores
from rankdistill.losses import VectorDistillation
from rankdistill.losses.list_scores import teacher_scores
from rankdistill.methods import METHODS
from rankdistill.metrics import evaluate, evaluate_candidates
from rankdistill.vector_scores import evaluating, ranked_by_vectors
from tests.case import randn
from tests.losses.every_method import (
    N,
    U,
    begin,
    given_in,
    gradients,
    make,
    make_batch,
    make_student,
    objective,
    teacher_of,
    world,
)

WIDTH = 6
USERS, ITEMS = randn(U, WIDTH, seed=31), randn(N, WIDTH, seed=32)
BIASES = {"user_bias": randn(U, seed=33), "item_bias": randn(N, seed=34)}
LOOKS = [  # at students whose scores are inner products, or are not
    *((name, {}, products) for name in ("rce_kd", "dcd", "bd") for products in (True, False)),
    *(("cd", {"guide": "student"}, products) for products in (True, False)),
    ("dcd", {"among": "catalogue"}, True),
    ("hetcomp", {}, True),
]
OF_VECTORS = [name for name, method in METHODS.items() if issubclass(method, VectorDistillation)]
OF_SCORES_ALONE = ["rrd", "ir-rrd", "rd", "cd", "dcd", "listwise", "unkd", "bd", "rce_kd"]
OF_RANKINGS = ["rrd", "ir-rrd", "rd", "cd", "dcd", "listwise", "unkd", "rce_kd", "hetcomp"]
OF_SCORES = [name for name in METHODS if name != "concf"]  # which has a model of its own


class Student(nn.Module):
    """Two tables, with or without biases."""

    def __init__(self, *biases: str, says_so: bool = False) -> None:
        super().__init__()
        self.users, self.items = (
            nn.Embedding.from_pretrained(USERS, False),
            nn.Embedding.from_pretrained(ITEMS, False),
        )
        for name in biases:
            setattr(self, name, nn.Parameter(BIASES[name].clone()))
        self.biases, self.scores_are_inner_products = biases, says_so

    def user_vectors(self, ids=None):
        return self.users.weight if ids is None else self.users(ids)

    def item_vectors(self, ids=None):
        return self.items.weight if ids is None else self.items(ids)

    def score(self, users, items):
        scores = (self.users(users)[:, None] * self.items(items)).sum(-1)
        if "user_bias" in self.biases:
            scores = scores + self.user_bias[users][:, None]
        return scores + self.item_bias[items] if "item_bias" in self.biases else scores


def taught(name: str, student: nn.Module, **options) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch after some epochs, and the student's gradients."""
    method = make(name, **options)
    loss = objective(method, student, begin(method, student, 3))
    return loss.detach(), gradients(loss, student)


def assert_taught_alike(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for key, grad in expected[1].items():
        torch.testing.assert_close(found[1][key], grad, rtol=1e-4, atol=1e-5 * (1 + float(grad.abs().max())))


@pytest.mark.parametrize("biases", [("item_bias",), ("user_bias",)])
@pytest.mark.parametrize("name", OF_SCORES)
def test_a_bias_is_learned_whatever_the_student_says_of_its_scores(name, biases):
    assert_taught_alike(taught(name, Student(*biases, says_so=True)), taught(name, Student(*biases)))


def test_a_list_above_the_whole_catalogue_learns_item_biases():
    student, method = Student("item_bias", says_so=True), make("rrd", n_uninteresting=None)
    users = torch.unique(begin(method, student, 0).users)
    loss = method(student, users)
    items, lengths = method.drawn(users)
    scores = student.score(users, torch.arange(N).repeat(len(users), 1))
    listed = scores.gather(1, items.clamp_min(0)).masked_fill(items < 0, -torch.inf)
    tail = scores.masked_fill(method.known(users).to_dense(), -torch.inf)
    expected = plackett_luce(listed, tail, lengths).sum()
    assert_taught_alike(
        (loss.detach(), gradients(loss, student)), (expected.detach(), gradients(expected, student))
    )
    with pytest.raises(
        TypeError, match=r"inner products, .+ says so \(scores_are_inner_products\); got Student"
    ):
        method(Student("item_bias"), users)


class Noisy(Student):
    """Towers with dropout and batch statistics; its scores are no inner products, or are."""

    def __init__(self, by_products: bool) -> None:
        super().__init__()
        self.by_products = by_products
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH)) for _ in range(2)
        )
        self.towers[1][0].eval()  # a part that is frozen stays so

    def user_vectors(self, ids=None):
        return self.towers[0](super().user_vectors(ids))

    def item_vectors(self, ids=None):
        return self.towers[1](super().item_vectors(ids))

    def score(self, users, items):
        vectors = self.item_vectors(items.flatten()).unflatten(0, items.shape)
        scores = (self.user_vectors(users)[:, None] * vectors).sum(-1)
        return scores if self.by_products else scores.tanh()


class Scored(nn.Module):
    """A model seen through its scores alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.n_users, self.n_items = model, U, N

    def score(self, users, items):
        return self.model.score(users, items)


def modes(student: nn.Module) -> list[bool]:
    return [part.training for part in student.modules()]


@pytest.mark.parametrize(("name", "options", "by_products"), LOOKS)
def test_a_look_at_the_student_leaves_no_trace(name, options, by_products):
    """As one at a student in evaluation mode, drawing nothing and moving no statistic."""
    student = Noisy(by_products)
    before, state = modes(student), copy.deepcopy(student.state_dict())
    method, random = make(name, **options), torch.get_rng_state()
    for epoch in range(4):
        method.begin_epoch(epoch, student)
    assert torch.equal(torch.get_rng_state(), random)
    assert modes(student) == before
    assert all(torch.equal(tensor, state[key]) for key, tensor in student.state_dict().items())
    batch, calm = make_batch(method, 3), make(name, **options)
    student.eval()
    for epoch in range(4):
        calm.begin_epoch(epoch, student)
    assert torch.equal(objective(method, student, batch), objective(calm, student, batch))


@pytest.mark.parametrize("by_products", [True, False])
def test_a_measurement_leaves_no_trace(by_products):
    student, dataset = Noisy(by_products), world()
    student.n_users, student.n_items = U, N
    before, state = modes(student), copy.deepcopy(student.state_dict())
    found = evaluate(student, dataset.valid.csr(), dataset.train.csr())
    if by_products:
        teacher = as_teacher(student)
    else:
        teacher = as_teacher(Scored(student))
    assert modes(student) == before
    assert all(torch.equal(tensor, state[key]) for key, tensor in student.state_dict().items())
    student.eval()
    assert evaluate(student, dataset.valid.csr(), dataset.train.csr()) == found
    users, items = torch.arange(U), torch.arange(N).repeat(U, 1)
    torch.testing.assert_close(teacher.score(users, items), student.score(users, items))


def test_modes_come_back_after_an_error():
    student = Noisy(True)
    before = modes(student)
    with contextlib.suppress(RuntimeError), evaluating(student, None):
        assert not any(modes(student))
        raise RuntimeError
    assert modes(student) == before


def of_tables(name: str, users, items):
    """The method, of a teacher's tables as a user has them."""
    given = given_in(world())
    parts = {
        "teacher_users": users,
        "teacher_items": items,
        "rankings": given.rankings,
        "train": given.dataset.train.csr(),
    }
    parts |= {"student_width": WIDTH, "seed": 4}
    known = inspect.signature(METHODS[name]).parameters
    return METHODS[name](**{key: part for key, part in parts.items() if key in known})


@pytest.mark.parametrize("name", OF_VECTORS)
def test_a_teachers_tables_may_be_arrays_or_layers(name):
    users, items, student = randn(U, 8, seed=35), randn(N, 8, seed=36), Student()
    found = []
    for made in (
        torch.as_tensor,
        np.asarray,
        nn.Embedding.from_pretrained,
        lambda table: table.double().numpy(),
    ):
        method = of_tables(name, made(users), made(items))
        found.append(objective(method, student, begin(method, student, 1)).detach())
    assert torch.equal(found[1], found[0])
    assert torch.equal(found[2], found[0])
    torch.testing.assert_close(found[3].to(found[0]), found[0])
    kind = METHODS[name].__name__
    for table, error, got in (
        (users.tolist(), TypeError, "as a tensor, an array or an embedding layer; got list"),
        (users.long(), TypeError, "of floats; got torch.int64"),
        (users[0], ValueError, r"of two dimensions and one width; got \[8\]"),
    ):
        with pytest.raises(error, match=f"^{kind}: expected teacher_users {got}"):
            of_tables(name, table, items)


class OfLayers(Student):
    """Biases of users and items as layers, or as columns."""

    def __init__(self, kind: str) -> None:
        super().__init__("user_bias", "item_bias")
        for name in self.biases:
            column = getattr(self, name).detach()[:, None]
            delattr(self, name)
            setattr(
                self,
                name,
                nn.Embedding.from_pretrained(column, False) if kind == "layer" else nn.Parameter(column),
            )

    def score(self, users, items):
        of_users, of_items = (getattr(bias, "weight", bias) for bias in (self.user_bias, self.item_bias))
        products = (self.users(users)[:, None] * self.items(items)).sum(-1)
        return products + of_users[users] + of_items[items][..., 0]


@pytest.mark.parametrize("kind", ["layer", "column"])
def test_a_bias_may_be_a_layer_or_a_column(kind):
    """Not by `score` in its place: the same lists, losses and gradients as with vectors of biases."""
    student, plain = OfLayers(kind), Student("user_bias", "item_bias")
    with torch.no_grad():
        assert ranked_by_vectors(student, torch.arange(3), N)
    student.score_, student.score = student.score, None  # nothing of these asks for scores
    student.scores_are_inner_products = True
    dataset = world()
    parts = dataset.valid.csr(), dataset.train.csr()
    assert evaluate(student, *parts) == evaluate(plain, *parts)
    wanted, found = (as_teacher(each) for each in (plain, student))
    assert torch.equal(found.item_bias, wanted.item_bias)
    assert torch.equal(found.user_bias, wanted.user_bias)
    for name, options in (
        ("dcd", {"among": "catalogue"}),
        ("cd", {"guide": "student"}),
        ("rce_kd", {}),
        ("hetcomp", {}),
    ):
        student.score = None
        for method in (made := [make(name, **options) for _ in range(2)]):
            method.begin_epoch(0, student if method is made[0] else plain)
        student.score = student.score_
        batch = make_batch(made[0], 0)
        assert torch.equal(made[0](student, batch), made[1](plain, batch)), name
    (found, grads), (expected, wanted) = taught("hetcomp", student), taught("hetcomp", plain)
    assert torch.equal(found, expected)
    of_bias = next(grad for key, grad in grads.items() if "item_bias" in key)
    assert torch.equal(of_bias.squeeze(1), wanted["0.item_bias"])


@pytest.mark.parametrize(
    ("bias", "got"), [(True, "bool"), (nn.Embedding(N, 2), rf"\[{N}, 2\]"), (torch.zeros(()), r"\[\]")]
)
def test_a_bias_that_is_none_is_refused_by_name(bias, got):
    student = Student()
    student.item_bias = bias
    with pytest.raises(TypeError, match=f"^Student: expected item_bias as a tensor of items, .*; got {got}$"):
        evaluate(student, world().valid.csr(), world().train.csr())


class OfScores(nn.Module):
    """A student that has scores alone, and reads ids by a view of them; `asked` are the shapes of what it was handed."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = (
            nn.Embedding.from_pretrained(USERS, False),
            nn.Embedding.from_pretrained(ITEMS, False),
        )
        self.n_users, self.n_items, self.asked = U, N, []

    def score(self, users, items):
        self.asked.append(tuple(items.shape))
        vectors = self.items(items.view(-1)).view(*items.shape, WIDTH)
        return (self.users(users)[:, None] * vectors).sum(-1)


@pytest.mark.parametrize("pairs", [vector_scores.PAIRS, 7 * N + 3, 1])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_scores_of_whole_rows_are_asked_for_a_bounded_part_at_a_time(in_pieces, pairs, monkeypatch):
    monkeypatch.setattr(vector_scores, "PAIRS", pairs)
    student, dataset = OfScores(), world()
    student.scores_in_pieces = in_pieces
    parts = dataset.valid.csr(), dataset.train.csr()
    assert evaluate(student, *parts) == evaluate(Student(), *parts)
    found = as_teacher(student).rankings(5).indices
    assert torch.equal(found, as_teacher(Student()).rankings(5).indices)
    for name, options in (("rce_kd", {}), ("cd", {"guide": "student"}), ("bd", {})):
        make(name, **options).begin_epoch(0, student)
    most = U * N if in_pieces else max(N, pairs)
    assert max(rows * columns for rows, columns in student.asked) == min(U, most // N) * N


@pytest.mark.parametrize("name", OF_SCORES_ALONE)
def test_a_student_may_read_ids_by_a_view(name):
    assert_taught_alike(taught(name, OfScores()), taught(name, Student()))


@pytest.mark.parametrize("name", METHODS)
def test_ids_are_whole_numbers_of_any_size(name):
    options = {"form": "paper"} if name == "phr" else {}
    found = []
    for dtype in (torch.int64, torch.int32):
        method, student = make(name, **options), make_student(name)
        batch = begin(method, student, 3)
        negatives = method.negatives(3, batch.users.to(dtype), batch.positives.to(dtype))
        assert negatives is None or torch.equal(negatives, batch.negatives)
        read = Batch(*(part.to(dtype) for part in batch[:3]))
        found.append(objective(method, student, read).detach())
    assert torch.equal(*found)
    with pytest.raises(
        TypeError, match=r"^batch: expected users as a tensor of whole numbers; got torch\.float32"
    ):
        method(student, batch._replace(users=batch.users.float()))


@pytest.mark.parametrize("name", METHODS)
def test_a_student_may_be_of_bfloat16(name):
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        student, method = make_student(name).to(dtype), make(name)
        loss = objective(method, student, begin(method, student, 3))
        loss.backward()
        assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=3e-2)


class OfIds(Student):
    """Its vectors are asked for by ids alone."""

    def user_vectors(self, ids):
        return self.users(ids)

    def item_vectors(self, ids):
        return self.items(ids)


OF_IDS = [
    *((name, {}, says_so) for name in (*OF_RANKINGS, "bd", "ftd") for says_so in (False, True)),
    *((name, {key: value}, True) for name, key, value in (
        ("cd", "guide", "student"), ("dcd", "among", "catalogue"), ("rrd", "n_uninteresting", None),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "says_so"), OF_IDS)
def test_vectors_may_be_asked_for_by_ids_alone(name, options, says_so):
    student, plain = OfIds(says_so=says_so), Student(says_so=says_so)
    assert_taught_alike(taught(name, student, **options), taught(name, plain, **options))
    parts = world().valid.csr(), world().train.csr()
    assert evaluate(student, *parts) == evaluate(plain, *parts)


def made_directly(name: str, **options):
    """By the constructor, as a user's own loop makes it."""
    made = make(name)
    known = inspect.signature(METHODS[name]).parameters
    teacher, given = teacher_of(), given_in(world())
    tables = {
        "teacher_users": teacher.user_vectors().detach(),
        "teacher_items": teacher.item_vectors().detach(),
    }
    train, rankings = given.dataset.train.csr(), given.rankings
    parts = tables | {"rankings": rankings, "full_rankings": rankings, "train": train, "exclude": train}
    parts |= {"student_width": WIDTH, "teacher": teacher, "n_listed": 10, "n_ranked": 20, "n_sampled": 5}
    if name == "ir-rrd":
        parts["item_rankings"] = made.item_side.rankings
    return METHODS[name](**{key: part for key, part in (parts | options).items() if key in known})


SETTINGS = [
    *(("rrd", key) for key in ("temperature", "n_interesting", "n_uninteresting")),
    *(("ir-rrd", key) for key in ("temperature", "n_interesting_users")),
    *(("cd", key) for key in ("temperature", "softness", "n_samples")),
    *(("rd", key) for key in ("temperature", "n_listed", "n_sampled")),
    *(("unkd", key) for key in ("temperature", "n_pairs")),
    *(("bd", key) for key in ("teacher_temperature", "student_temperature", "n_negatives")),
    *(
        ("pckd", key)
        for key in ("position_temperature", "consistency_temperature", "n_preferred", "list_length")
    ),
    *(("rce_kd", key) for key in ("temperature", "n_listed", "n_ranked", "n_sampled")),
    *(("listwise", key) for key in ("temperature", "n_listed")),
    ("dcd", "period"),
]


@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_a_setting_that_is_none_is_refused_when_the_method_is_made(name, setting):
    assert made_directly(name)
    who = METHODS[name].__name__
    if setting.startswith("n_") or setting in ("period", "list_length"):
        with pytest.raises(TypeError, match=f"^{who}: expected {setting} as a whole number; got 4.5"):
            made_directly(name, **{setting: 4.5})
        return
    for value in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"^{who}: expected {setting} above 0; got {value}"):
            made_directly(name, **{setting: value})


@pytest.mark.parametrize("name", OF_RANKINGS)
def test_users_without_rankings_are_told(name):
    student, method = make_student(name), make(name)
    method.begin_epoch(0, student)
    who = METHODS[name].__name__
    for bad in (U + 7, -1):
        batch = Batch(*(torch.tensor([ids, 2]) for ids in (bad, 1)))
        with pytest.raises(
            IndexError, match=rf"^{who}: expected users in \[0, {U}\), as rankings; got {bad}$"
        ):
            method(student, batch)
    if name == "dcd":
        with pytest.raises(IndexError, match=rf"^{who}: expected items in \[0, {N}\), as rankings; got {N}$"):
            method(student, Batch(torch.tensor([1]), torch.tensor([N])))


def test_a_teacher_is_asked_in_evaluation_mode():
    """A module that its owner left in training mode: its scores have no dropout, and its mode stays."""

    class Noisy(Student):
        def score(self, users, items):
            return nn.functional.dropout(super().score(users, items), 0.5, self.training)

    teacher, users, items = Noisy().train(), torch.arange(4), torch.arange(12).view(4, 3)
    assert torch.equal(teacher_scores(teacher, users, items), Student().score(users, items))
    found, wanted = (evaluate_candidates(model, users, items[:, :1], items) for model in (teacher, Student()))
    assert all(torch.equal(found[0][name], wanted[0][name]) for name in wanted[0])
    assert teacher.training
