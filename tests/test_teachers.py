"""Teachers of any origin: the lists of whatever ranks items are the lists of its own scores."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rankdistill import Factors, MatrixFactorization, Rankings, ScoreTeacher, as_teacher
from rankdistill.data import Dataset, generate
from rankdistill.losses import DistillationExperts
from rankdistill.methods import Given, make_method
from rankdistill.metrics import evaluate
from rankdistill.models.teachers import WRITTEN
from tests.case import randn

U, N, D = 30, 50, 4
USERS, ITEMS = randn(U, D, seed=1), randn(N, D, seed=2)
USER_BIAS, ITEM_BIAS = randn(U, seed=3), randn(N, seed=4)
PLAIN = USERS @ ITEMS.T
BIASED = PLAIN + ITEM_BIAS + USER_BIAS[:, None]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return generate(U, N, mean_interactions=8, min_interactions=5, n_groups=4, groups_per_user=1)


class LightFM:
    """The two methods of a trained LightFM model, with their shapes and dtypes."""

    def get_user_representations(self, features=None):
        return USER_BIAS.numpy(), USERS.numpy()

    def get_item_representations(self, features=None):
        return ITEM_BIAS.numpy(), ITEMS.numpy()


class GraphModel(nn.Module):
    """One table of users and items, as models of PyTorch Geometric have."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.cat([USERS, ITEMS]))
        self.user_embedding, self.item_embedding = nn.Embedding.from_pretrained(USERS), nn.Parameter(ITEMS)

    def item_table(self):
        return self.item_embedding


class OnDevice:
    """A matrix as implicit keeps them on a GPU."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return self.values.numpy()


def sources():
    yield "tensors", (USERS, ITEMS), PLAIN
    yield "arrays", [USERS.numpy(), ITEMS.numpy(), ITEM_BIAS.numpy()], PLAIN + ITEM_BIAS
    yield "dict", {"users": USERS, "items": ITEMS, "item_bias": ITEM_BIAS, "user_bias": USER_BIAS}, BIASED
    yield "implicit", SimpleNamespace(user_factors=USERS.numpy(), item_factors=ITEMS.numpy()), PLAIN
    yield "on a GPU", SimpleNamespace(user_factors=OnDevice(USERS), item_factors=OnDevice(ITEMS)), PLAIN
    yield "LightFM", LightFM(), BIASED
    yield "Factors", Factors(USERS, ITEMS, ITEM_BIAS), PLAIN + ITEM_BIAS
    yield "matrix", BIASED, BIASED
    yield "array of scores", BIASED.numpy(), BIASED
    yield "function", lambda users: BIASED[users], BIASED
    yield "function of arrays", lambda users: BIASED.numpy()[users.numpy()], BIASED


@pytest.mark.parametrize(("source", "scores"), [pytest.param(s, e, id=name) for name, s, e in sources()])
def test_lists_are_those_of_its_scores(source, scores, dataset):
    teacher = as_teacher(source, dataset)
    seen = dataset.train.csr()
    expected = scores.masked_fill(seen.to_dense().bool(), -torch.inf).topk(8)
    rankings = teacher.rankings(8, seen)
    assert torch.equal(rankings.indices.long(), expected.indices)
    torch.testing.assert_close(rankings.scores, expected.values)
    ids = torch.tensor([4, 0])
    torch.testing.assert_close(teacher.score(ids, torch.tensor([[3, -1], [0, 2]])),
                               torch.stack([scores[4, 3], torch.tensor(-torch.inf), scores[0, 0], scores[0, 2]]).view(2, 2))  # fmt: skip
    assert torch.equal(teacher.topk(ids, 8, seen.rows(ids)).indices, expected.indices[ids])
    held_out = dataset.test.csr(), dataset.held_out_exclude("test"), [5]
    matrix = ScoreTeacher(lambda users: scores[users], U, N)
    assert evaluate(teacher, *held_out) == evaluate(matrix, *held_out)


class Scorer(nn.Module):
    """A module that scores users and items, and knows no numbers of them."""

    def score(self, users, items):
        return BIASED[users[:, None], items]


def test_the_data_set_says_how_many_an_object_scores(dataset):
    teacher = as_teacher(Scorer(), dataset)
    assert repr(teacher) == "ScoreTeacher(30 users, 50 items)"
    assert torch.equal(teacher.rows(torch.tensor([4, 0])), BIASED[[4, 0]])
    with pytest.raises(TypeError, match="n_users and n_items or a dataset beside it.*; got Scorer"):
        as_teacher(Scorer())
    own = Scorer()
    own.n_users, own.n_items = U, N + 1
    with pytest.raises(ValueError, match="expected scores of 30 users × 50 items, .*; got 30 × 51"):
        as_teacher(own, dataset)


def test_a_model_of_ours_is_a_teacher(dataset):
    model = MatrixFactorization(U, N, D, init_std=1.0)
    rankings = as_teacher(model, dataset).rankings(5)
    assert torch.equal(rankings.indices, Rankings.from_vectors(model.user_table, model.item_table, 5).indices)
    assert not as_teacher(model).users.requires_grad


@pytest.mark.parametrize(
    "attributes", [("user_embedding", "item_embedding"), ["user_embedding", "item_table"], "embedding"]
)
def test_tables_of_other_names_are_named(attributes, dataset):
    teacher = as_teacher(GraphModel(), dataset, attributes=attributes)
    assert torch.equal(teacher.users, USERS)
    assert torch.equal(teacher.items, ITEMS)


def test_rows_in_another_order_come_with_their_ids(dataset):
    users, items = torch.randperm(U), torch.randperm(N)
    given = {"user_ids": dataset.users.ids[users], "item_ids": dataset.items.ids[items]}
    teacher = as_teacher((USERS[users], ITEMS[items], ITEM_BIAS[items]), dataset, **given)
    assert torch.equal(teacher.users, USERS)
    assert torch.equal(teacher.items, ITEMS)
    assert torch.equal(teacher.item_bias, ITEM_BIAS)


def test_the_order_that_rows_without_ids_are_taken_in_is_told(dataset, tmp_path, caplog):
    named = Dataset.from_arrays(([f"u{u}" for u in range(12)], [f"i{i % 3}" for i in range(12)]))
    users, items, ids = USERS[:12], ITEMS[:3], [f"i{i}" for i in range(3)]
    np.savez(tmp_path / "teacher.npz", users=users, items=items)
    order, both = "users u0, u1, u10, u11, …", "users u0, u1, u10, u11, … and items i0, i1, i2"
    implicit = SimpleNamespace(user_factors=users, item_factors=items)
    for source, given, told in (
        (implicit, {}, [both, "give user_ids= and item_ids="]),
        (tmp_path / "teacher.npz", {}, [both, "teacher.npz: rows without ids"]),
        (users @ items.T, {}, [both, "put its rows and columns"]),
        ((users, items), {"item_ids": ids}, [f"data set's order, {order}. If"]),
        ((users, items), {"user_ids": [f"u{u}" for u in range(12)], "item_ids": ids}, []),
    ):
        caplog.clear()
        as_teacher(source, named, **given)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * bool(told)
        assert all(text in caplog.text for text in told)
    caplog.clear()
    as_teacher((USERS, ITEMS), dataset)  # ids 0 … n-1 are their own rows
    assert not caplog.records


def test_scores_are_asked_for_in_blocks_of_users(dataset, monkeypatch):
    monkeypatch.setattr("rankdistill.models.teachers.SCORES", 7 * N)
    asked = []

    def function(users):
        asked.append(users.tolist())
        return BIASED[users]

    as_teacher(function, dataset).rankings(3)
    assert [len(users) for users in asked] == [7, 7, 7, 7, 2]
    assert [user for users in asked for user in users] == list(range(U))


IMPLICIT = {
    "AlternatingLeastSquares": {"factors": 6, "iterations": 2, "num_threads": 1},
    "BayesianPersonalizedRanking": {"factors": 6, "iterations": 5, "num_threads": 1},
    "LogisticMatrixFactorization": {"factors": 6, "iterations": 2, "num_threads": 1},
}


@pytest.mark.filterwarnings("ignore:OpenBLAS")
@pytest.mark.parametrize("name", IMPLICIT)
def test_a_model_of_implicit_recommends_the_same(name, dataset):
    implicit = pytest.importorskip(
        "implicit", reason="implicit is not installed: no model of it to compare with"
    )
    sparse = pytest.importorskip("scipy.sparse")
    train = dataset.train.csr()
    values = np.ones(len(train.indices), np.float32)
    matrix = sparse.csr_matrix((values, train.indices.numpy(), train.indptr.numpy()), shape=(U, N))
    modules = {"A": implicit.als, "B": implicit.bpr, "L": implicit.lmf}
    model = getattr(modules[name[0]], name)(random_state=1, **IMPLICIT[name])
    with pytest.raises(
        ValueError, match=f"expected a trained {name}; got one without user_factors: fit it first"
    ):
        as_teacher(model)
    model.fit(matrix, show_progress=False)
    items, scores = model.recommend(np.arange(U), matrix, N=6, filter_already_liked_items=True)
    rankings = as_teacher(model, dataset).rankings(6, train)
    torch.testing.assert_close(rankings.scores, torch.from_numpy(scores), rtol=1e-4, atol=1e-5)
    # Scores that differ in the last bit change places, so the items are compared by what the model gives them.
    own = model.user_factors @ model.item_factors.T
    ours, theirs = (np.take_along_axis(own, listed, 1) for listed in (rankings.indices.numpy(), items))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_is_no_teacher_is_a_clear_error(dataset):
    bad = [
        (3, {}, TypeError, "expected two tables .*; got int"),
        (GraphModel(), {}, TypeError, "attributes=.*; got GraphModel with embedding, item_embedding, user_embedding"),
        ((USERS, ITEMS[:, :3]), {}, ValueError, r"expected items of width 4, as users; got float32 \[50, 3\]"),
        ((USERS, ITEMS.long()), {}, TypeError, "expected items as a float32, .* tensor; got int64"),
        ((USERS, "items"), {}, TypeError, "expected items as a tensor or an array; got str 'items'"),
        ({"users": USERS, "item": ITEMS}, {}, ValueError, r"expected keys users, items .*; got \['item', 'users'\]"),
        ((USERS[:9], ITEMS), {}, ValueError, "expected rows of 30 users, as the data set generated; got 9"),
        (BIASED[:, :9], {}, ValueError, "expected scores of 30 users × 50 items, as the data set; got 30 × 9"),
        (BIASED, {"user_ids": range(U)}, ValueError, "expected ids of factors alone"),
        (BIASED[0], {}, ValueError, "expected a matrix of scores with 2 dimensions"),
        (GraphModel(), {"attributes": "weights"}, ValueError, "expected attributes that GraphModel has.*; got weights"),
        (GraphModel(), {"attributes": "item_embedding"}, ValueError, "expected item_embedding of 80 rows"),
        ((USERS, ITEMS), {"user_ids": [1] * U}, ValueError, "expected user_ids without repeats; got 1 twice"),
    ]  # fmt: skip
    for source, options, error, message in bad:
        with pytest.raises(error, match=message):
            as_teacher(source, dataset, **options)
    with pytest.raises(ValueError, match="expected a dataset beside a function of scores"):
        as_teacher(lambda users: BIASED[users])
    narrow = as_teacher(lambda users: BIASED[users, :7], dataset)
    with pytest.raises(
        ValueError, match=r"expected scores \[2, 50\] from the function; got float32 \[2, 7\]"
    ):
        narrow.topk(torch.tensor([0, 1]), 3)


def test_methods_say_what_they_need(dataset):
    scored = as_teacher(BIASED, dataset)
    rankings = scored.rankings(10, dataset.train.csr())
    message = "method de: expected a teacher with user and item vectors, .* users.npy,items.npy; got "
    with pytest.raises(ValueError, match=message + "a ScoreTeacher, which has none"):
        make_method("de", Given(dataset, rankings, 3, scored), {})
    with pytest.raises(ValueError, match=message + "none"):
        make_method("de", Given(dataset, rankings, 3), {})
    double = as_teacher((USERS.double(), ITEMS.double()), dataset)
    made = make_method("de", Given(dataset, rankings, 3, double), {"n_experts": 2})
    assert isinstance(made, DistillationExperts)
    assert made.teacher_users.dtype == torch.float32, "students are float32"


def test_item_side_lists_count_the_users_biases(dataset):
    teacher = as_teacher(LightFM(), dataset)
    listed = Given(dataset, teacher.rankings(10), 3, teacher).value("item_rankings")
    seen = dataset.train.csr().to_dense().bool()
    expected = BIASED.masked_fill(seen, -torch.inf).T.topk(5).indices
    assert torch.equal(listed.indices[:, :5].long(), expected)


class RecBole:
    """A general model of RecBole and its data set: numbers of its own, 0 is padding, scores in one row."""

    USER_ID, uid_field, iid_field = "user_id", "user_id", "item_id"

    def __init__(self, dataset):
        shuffle = torch.Generator().manual_seed(1)
        self.orders = {
            "user_id": torch.randperm(U, generator=shuffle),
            "item_id": torch.randperm(N, generator=shuffle),
        }
        names = {"user_id": dataset.users.ids, "item_id": dataset.items.ids}
        self.tokens = {
            field: {str(names[field][place]): 1 + n for n, place in enumerate(order.tolist())}
            for field, order in self.orders.items()
        }

    def token2id(self, field, tokens):
        assert isinstance(tokens, np.ndarray)
        return np.array([self.tokens[field][token] for token in tokens])

    def full_sort_predict(self, interaction):
        scores = torch.full((1 + U, 1 + N), 1e9)
        scores[1:, 1:] = PLAIN[self.orders["user_id"]][:, self.orders["item_id"]]
        return scores[interaction[self.USER_ID]].view(-1)


def test_what_numbers_its_rows_by_itself_is_told_what_to_write(dataset):
    r = model = RecBole(dataset)
    with pytest.raises(
        TypeError, match="expected a function of users: RecBole numbers .*; got a RecBole, which does not say"
    ):
        as_teacher(model, dataset)
    text = WRITTEN["full_sort_predict"]
    names = {"r": r, "model": model, "dataset": dataset, "torch": torch, "as_teacher": as_teacher}
    names["uid"] = eval(text[text.index("torch.as_tensor(") : text.index(", iid likewise")], names)
    names["iid"] = torch.as_tensor(r.token2id(r.iid_field, dataset.items.ids.astype(str)))
    teacher = eval(text[text.index("as_teacher(lambda") :], names)
    users = torch.tensor([3, 0, 7])
    assert torch.equal(teacher.rows(users), PLAIN[users])
    graph = SimpleNamespace(get_embedding=lambda edge_index: torch.cat([USERS, ITEMS]))
    with pytest.raises(TypeError, match=r"expected tables, as PyG numbers users .*; got a SimpleNamespace"):
        as_teacher(graph, dataset)
