"""What every method that the command line offers does with what does not fit: it counts nothing, or says what it needs."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest
import torch

from rankdistill import Batch, Rankings
from rankdistill.data import Dataset
from rankdistill.data.interactions import Interactions
from rankdistill.losses import VectorDistillation
from rankdistill.methods import METHODS, Given, make_method
from rankdistill.models.saved import build_model
from tests.losses.every_method import (
    D_S,
    D_T,
    NAMES,
    N,
    U,
    begin,
    given_in,
    gradients,
    make,
    make_batch,
    make_student,
    objective,
    options_of,
    teacher_of,
    without_train_items,
    world,
)

every_method = pytest.mark.parametrize("name", NAMES)
WORDED = re.compile(r"(?s)^[\w. ]+: expected .+; got .+")
OF_TABLES = [name for name, method in METHODS.items() if issubclass(method, VectorDistillation)]
SIZED = [name for name, method in METHODS.items() if "student_width" in inspect.signature(method).parameters]
WITHOUT_EPOCHS = ["listwise", "hint", "phr", "ftd"]
NEEDY = [name for name, method in METHODS.items() if method.needs]
OF_LISTS = [name for name, method in METHODS.items() if method.needs and method.needs <= {"rankings", "scores", "item_rankings"}
            and "full_rankings" not in inspect.signature(method).parameters]  # fmt: skip


def with_train_items(dataset: Dataset, user: int, count: int) -> Dataset:
    """The user has items 0 to `count` in its train items, and no others."""
    train, others = dataset.train, dataset.train.users != user
    users = torch.cat([train.users[others], torch.full((count,), user)])
    items = torch.cat([train.items[others], torch.arange(count)])
    empty = Interactions(users[:0], items[:0], U, N)
    return Dataset(Interactions(users, items, U, N), empty, empty, dataset.users, dataset.items, "full")


def result_or_refusal(name: str, dataset: Dataset, batch_of) -> tuple[torch.Tensor, dict] | None:
    """Loss and gradients, or None where the method refuses in so many words."""
    student = make_student(name)
    try:
        method = make(name, given_in(dataset))
        begin(method, student, 3)
        loss = objective(method, student, batch_of(method))
    except ValueError as error:
        assert WORDED.match(str(error)), error
        return None
    return loss, gradients(loss, student, method)


@every_method
@pytest.mark.parametrize("listed", [0, 3])
def test_lists_shorter_than_k(name, listed):
    """User 0 has seen all items but a few: its list is as short."""
    dataset = with_train_items(world(), 0, N - listed)
    assert int(given_in(dataset).rankings.lengths[0]) == listed

    def batch_of(method):
        batch = make_batch(method, 3, dataset)
        users, positives = (torch.cat([t, torch.tensor([at])]) for t, at in zip(batch, (0, 5)))
        chosen = method.negatives(3, users, positives)
        return Batch(users, positives, torch.full((len(users), 1), 7) if chosen is None else chosen)

    found = result_or_refusal(name, dataset, batch_of)
    if name == "hetcomp":  # whose ensemble has to fill its lists
        assert found is None
        return
    loss, grads = found
    assert loss.isfinite()
    assert not [key for key, grad in grads.items() if not grad.isfinite().all()]


@pytest.mark.parametrize("name", OF_LISTS)
def test_a_user_without_a_list_learns_nothing(name):
    dataset = with_train_items(world(), 0, N)
    batch_of = lambda method: Batch(torch.tensor([0, 0]), torch.tensor([5, 6]), torch.tensor([[7], [8]]))
    loss, grads = result_or_refusal(name, dataset, batch_of)
    assert loss.isfinite()
    assert not grads["0.user_table"][0].any()


@every_method
def test_users_without_train_items(name):
    dataset = without_train_items(world(), 5)
    batch_of = lambda method: Batch(torch.arange(5), torch.arange(5), torch.full((5, 1), 7))
    found = result_or_refusal(name, dataset, batch_of)
    if name == "bd":  # whose negatives belong to train interactions
        assert found is None
        return
    assert found[0].isfinite()
    assert all(grad.isfinite().all() for grad in found[1].values())


@every_method
def test_users_beyond_the_tables_are_refused(name):
    student, method = make_student(name), make(name)
    batch = begin(method, student, 3)
    users = batch.users.clone()
    users[2] = U
    with pytest.raises((IndexError, ValueError)):
        objective(method, student, batch._replace(users=users))


@every_method
def test_a_batch_of_another_kind_says_what_is_expected(name):
    """Users alone where they are enough; never what a DataLoader makes of columns."""
    student, method = make_student(name), make(name)
    batch = begin(method, student, 3)
    for given in (list(batch[:3]), tuple(batch[:3]), {"users": batch.users}):
        with pytest.raises(
            TypeError, match=r"^[\w. ]+: expected a Batch\(users, positives, negatives\).*; got "
        ):
            method(student, given)
    try:
        assert method(student, batch.users).isfinite()
    except TypeError as error:
        assert re.match(
            r"\w+: expected a Batch\(users, positives, negatives\), of which .*; got Tensor", str(error)
        )


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_EPOCHS])
def test_methods_that_have_not_begun_are_refused(name):
    student, method, train = make_student(name), make(name), world().train
    batch = Batch(train.users[:9], train.items[:9], train.items[9:18, None])
    with pytest.raises(
        RuntimeError,
        match=f"^{type(method).__name__}: expected begin_epoch before the first batch; got none",
    ):
        method(student, batch)


@pytest.mark.parametrize("name", WITHOUT_EPOCHS)
def test_methods_that_draw_nothing_need_no_epoch(name):
    method = make(name)
    assert method(make_student(name), make_batch(method, 0)).isfinite()


@pytest.mark.parametrize("name", OF_TABLES)
def test_a_student_without_vectors_is_refused(name):
    method, student = make(name), build_model("neumf", world(), 8)
    method.begin_epoch(0, student)
    with pytest.raises(
        TypeError, match=r"expected a student with user_vectors and item_vectors; got NeuralMatrixFact"
    ):
        method(student, make_batch(method, 0))


def test_ranks_among_the_catalogue_are_of_scores_that_are_products():
    method, student = make("dcd", among="catalogue"), build_model("neumf", world(), 8)
    with pytest.raises(
        TypeError, match="^DualCorrection: expected a student whose scores are inner products"
    ):
        method.begin_epoch(0, student)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["dcd", "de", "rrd", "ftd"])
def test_a_method_in_another_dtype(name, dtype):
    student, method = make_student(name).to(dtype), make(name).to(dtype)
    assert objective(method, student, begin(method, student, 3)).isfinite()


@pytest.mark.parametrize("name", OF_TABLES)
def test_items_without_a_teachers_row_are_refused(name):
    given = replace(given_in(world()), teacher=teacher_of())
    student, method = make_student(name), make(name, given)
    batch = begin(method, student, 1)
    method.teacher_items = method.teacher_items[: N - 5]
    positives = batch.positives.clone()
    positives[0] = N - 1
    with pytest.raises(
        IndexError, match=rf"{type(method).__name__}: expected items in \[0, {N - 5}\), as teacher_items; got"
    ):
        method(student, batch._replace(positives=positives))


@pytest.mark.parametrize("name", OF_TABLES)
@pytest.mark.parametrize("side", ["user", "item"])
def test_only_negatives_may_be_none(name, side):
    student, method = make_student(name), make(name)
    batch = begin(method, student, 1)
    part = "users" if side == "user" else "positives"
    ids = getattr(batch, part).clone()
    ids[3] = -1
    message = rf"^{type(method).__name__}: expected {side}s in \[0, \d+\), as teacher_{side}s; got -1$"
    with pytest.raises(IndexError, match=message):
        method(student, batch._replace(**{part: ids}))
    none = batch._replace(negatives=torch.full_like(batch.negatives, -1))
    assert method(student, none).isfinite()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"teacher": teacher_of(n_items=N - 1)}, f"expected a teacher of {U} users × {N} items, as the data set; got {U} × {N - 1}"),
     ({"teacher": teacher_of(n_users=U - 1)}, f"got {U - 1} × {N}"),
     ({"rankings": Rankings.from_scores(torch.rand(U, N - 1), 9)}, f"expected a ranking of {U} users × {N} items, as the data set; got {U} × {N - 1}")],
)  # fmt: skip
def test_what_was_made_for_another_catalogue_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        given_in(world(), **changes)


@pytest.mark.parametrize("name", SIZED)
def test_a_student_of_another_width_is_refused(name):
    method = make(name)
    student = make_student(name, width=D_S + 1)
    with pytest.raises(
        ValueError,
        match=rf"{type(method).__name__}: expected .* of width {D_S}, as student_width; got {D_S + 1}",
    ):
        objective(method, student, begin(method, student, 1))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SIZED])
def test_other_methods_take_students_of_any_width(name):
    for width in (1, D_T + 3) if name != "concf" else (4, D_T + 4):
        method, student = make(name), make_student(name, width=width)
        assert objective(method, student, begin(method, student, 1)).isfinite()


@pytest.mark.parametrize("name", OF_TABLES)
def test_teachers_tables_of_two_widths_are_refused(name):
    given = given_in(world())
    item_vectors = given.teacher.item_vectors
    given.teacher.item_vectors = lambda ids=None: item_vectors(ids)[:, 1:]
    with pytest.raises(
        ValueError, match=r"expected teacher_items of two dimensions and one width; got \[50, 11\]"
    ):
        make(name, replace(given, trajectories=()))


@pytest.mark.parametrize("name", NEEDY)
def test_a_method_says_what_it_needs_and_how_to_give_it(name):
    with pytest.raises(
        ValueError, match=rf"^method {name}: expected .+; got none\. Give .+ --\w+.+Given\(\w+=…\)"
    ):
        make_method(name, Given(world(), None, D_S), options_of(name))


class ByScores(torch.nn.Module):
    """A teacher that has scores alone."""

    def score(self, users, items):
        return (users[:, None] - items).float()


@pytest.mark.parametrize("name", [*OF_TABLES, "ir-rrd"])
def test_a_teacher_without_vectors_is_refused_where_they_are_needed(name):
    with pytest.raises(
        ValueError,
        match=rf"method {name}: expected .+; got a ByScores, which has none\. Give .+ --\w+.+Given\(\w+=…\)",
    ):
        make(name, given_in(world(), teacher=ByScores()))


def test_a_ranking_of_the_catalogue_says_what_a_teacher_may_be():
    with pytest.raises(TypeError, match=r"^as_teacher: expected two tables .+; got ByScores"):
        make("rce_kd", given_in(world(), teacher=ByScores()))


def test_a_teacher_without_vectors_serves_where_scores_are_enough():
    student, method = make_student("cd"), make("cd", given_in(world(), teacher=ByScores()), guide="student")
    assert objective(method, student, begin(method, student, 1)).isfinite()
    assert make("dcd", given_in(world(), teacher=ByScores())).item_side is None
