"""Whatever ranks items, as a teacher: objects of other libraries, files, arrays, score functions. None is imported."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.data.dataset import Dataset
from rankdistill.metrics import SCORES
from rankdistill.models.factor_files import load_factors
from rankdistill.models.factors import Factors, warn_of_order
from rankdistill.ops import checks, masked_topk
from rankdistill.ops.masked_topk import MaskedTopK
from rankdistill.rankings import Rankings
from rankdistill.vector_scores import bias_of, evaluating, ranked_by_vectors, row_scores

OP = "as_teacher"
ACCEPTED = (
    "two tables (users, items[, item_bias]); a file of factors; an object with user_vectors() and item_vectors(), "
    "user_factors and item_factors (implicit), or get_user_representations() and get_item_representations() (LightFM); "
    "one with score(users, items), and n_users and n_items or a dataset beside it; "
    "any other with attributes=(users, items) naming its tables; a function of users [B] that gives scores [B, N]; or a "
    "matrix of scores [U, N]"
)

# By the method that tells such an object: what its owner writes instead, who knows the numbering.
WRITTEN = {
    "full_sort_predict": (  # RecBole's models
        "a function of users: RecBole numbers users and items by itself, from 1. Of a general model and its data set r: "
        "uid = torch.as_tensor(r.token2id(r.uid_field, dataset.users.ids.astype(str))), iid likewise of r.iid_field and "
        "dataset.items; as_teacher(lambda users: model.full_sort_predict({model.USER_ID: uid[users]})"
        ".view(len(users), -1)[:, iid], dataset)"
    ),
    "get_embedding": (  # PyG's LightGCN
        "tables, as PyG numbers users and items as nodes: e = model.get_embedding(edge_index).detach(); "
        "as_teacher((e[:n_users], e[n_users:]), dataset)"
    ),
}


class ScoreTeacher:
    """A teacher that scores whole rows: score(u, i) = function(users)[…, i]. It has no vectors.

    Args:
        function: users [B] int64 → scores [B, N] float, a tensor or an array.
        n_users, n_items: U and N.

    Example:
        >>> table = torch.tensor([[1., 3., 2.], [0., 1., 2.]])
        >>> ScoreTeacher(lambda users: table[users], 2, 3).rankings(k=2).indices
        tensor([[1, 2],
                [2, 1]], dtype=torch.int32)
    """

    def __init__(self, function: Callable[[Tensor], Tensor | np.ndarray], n_users: int, n_items: int) -> None:
        self.function, self.n_users, self.n_items = function, n_users, n_items

    def __repr__(self) -> str:
        return f"ScoreTeacher({self.n_users} users, {self.n_items} items)"

    def rows(self, users: Tensor) -> Tensor:
        """[B, N] scores of all items for users [B] int64."""
        with torch.no_grad():
            scores = torch.as_tensor(self.function(users))
        checks.expect_tensor("ScoreTeacher", "scores", scores, 2)
        shape = [len(users), self.n_items]
        checks.expect(
            list(scores.shape) == shape, "ScoreTeacher", f"scores {shape} from the function", scores
        )
        return scores

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """[B, K] scores of items [B, K] int64 (-1 scores -inf) for users [B] int64; a whole row is computed for each."""
        scores = self.rows(users)
        items = items.to(scores.device)
        return scores.gather(1, items.clamp_min(0)).masked_fill(items < 0, -torch.inf)

    def topk(self, users: Tensor, k: int, exclude: object = None) -> MaskedTopK:
        """The exact k best items of users [B] int64; `exclude` by row of them, as in `masked_topk`."""
        return masked_topk(self.rows(users), k, exclude)

    def rankings(
        self, k: int, exclude: CSR | None = None, *, batch_size: int | None = None, **options
    ) -> Rankings:
        """The top k of every user, some 2^24 scores at a time (of a `score` asked for by 2^20 pairs); options as in `Rankings.from_score_function`."""
        if batch_size is None:
            batch_size = max(1, SCORES // max(1, self.n_items))
        return Rankings.from_score_function(
            self.rows, self.n_users, self.n_items, k, exclude, batch_size=batch_size, **options
        )


def as_teacher(
    source: object,
    dataset: Dataset | None = None,
    *,
    user_ids: object = None,
    item_ids: object = None,
    attributes: str | Sequence[str] | None = None,
) -> Factors | ScoreTeacher:
    """A teacher (or a student) of anything that ranks items, recognised by what it offers.

    Args:
        source: tables (users [U, D], items [N, D]), with item_bias [N] as a third; a dict of them with the names of
            `Factors`; a file or folder (`load_factors`); an object with `user_vectors()` and `item_vectors()` (and
            `item_bias`, `user_bias`), with `user_factors` and `item_factors` (implicit), or with
            `get_user_representations()` and `get_item_representations()` that give biases and tables (LightFM), or with
            `score(users [B], items [B, N])` (and `n_users` and `n_items`, where no data set says them); a function of users [B] int64 that gives scores [B, N]; a matrix of scores [U, N].
        dataset: whose users and items the rows are, or become: rows with ids are found by them, others must be in its
            order, `dataset.users.ids` and `dataset.items.ids` (ascending; strings by code point, so u10 comes before
            u2). A warning names that order, unless the ids are 0 … n-1. Without a data set the rows stay as they are; a
            function needs it, and is asked for the users by their place in that order.
        user_ids, item_ids: [U], [N] the external ids of the rows, in any order; of rows in the data set's order
            `dataset.users.ids` and `dataset.items.ids`.
        attributes: the names of the users' and the items' table where the object has others, such as
            ("user_embedding", "item_embedding"), which may be embedding layers or methods; or one name of a table of
            users followed by items, which needs `dataset`. Only for tables whose inner products are the scores: of a
            graph model pass the propagated tables.

    Returns:
        `Factors`, or a `ScoreTeacher` of what has no vectors: both with `score`, `rankings(k, exclude)`.

    Raises:
        TypeError: nothing of these. ValueError: tables that do not fit each other or the data set.

    Example:
        >>> as_teacher((torch.ones(3, 2), torch.ones(5, 2)))
        Factors(3 users, 5 items, float32 of width 2)
    """
    name = type(source).__name__
    if attributes is not None:
        teacher = _of_attributes(source, name, attributes, dataset)
    elif isinstance(source, (Factors, ScoreTeacher)):
        teacher = source
    elif isinstance(source, (str, os.PathLike)):
        teacher = load_factors(source)
    elif isinstance(source, dict):
        keys = {"users", "items", "item_bias", "user_bias", "user_ids", "item_ids"}
        if not {"users", "items"} <= set(source) <= keys:
            raise ValueError(
                f"{OP}: expected keys users, items and the rest of {sorted(keys)}; got {sorted(source)}"
            )
        teacher = _factors(name, **source)
    elif isinstance(source, (tuple, list)) and len(source) in (2, 3):
        teacher = _factors(name, *source)
    elif isinstance(source, (Tensor, np.ndarray)):
        matrix = torch.as_tensor(source)
        checks.expect_tensor(OP, "a matrix of scores", matrix, 2)
        teacher = ScoreTeacher(lambda users: matrix[users], *matrix.shape)
    else:
        teacher = _of_object(source, name, dataset)
    if isinstance(teacher, Factors):
        given = {key: ids for key, ids in (("user_ids", user_ids), ("item_ids", item_ids)) if ids is not None}
        if given:
            known = {side: getattr(teacher, side) for side in ("user_ids", "item_ids")}
            tables = (teacher.users, teacher.items, teacher.item_bias, teacher.user_bias)
            teacher = Factors(*tables, **(known | given), source=teacher.source)
        return teacher if dataset is None else teacher.aligned(dataset)
    if user_ids is not None or item_ids is not None:
        raise ValueError(f"{OP}: expected ids of factors alone; got ids of a function or matrix of scores")
    if dataset is not None and (teacher.n_users, teacher.n_items) != (dataset.n_users, dataset.n_items):
        raise ValueError(
            f"{OP}: expected scores of {dataset.n_users} users × {dataset.n_items} items, as the data set; got "
            f"{teacher.n_users} × {teacher.n_items}"
        )
    if dataset is not None and isinstance(source, (Tensor, np.ndarray)):
        warn_of_order(f"{OP}(a matrix of scores)", dataset, cure="put its rows and columns into this one")
    return teacher


def _of_object(source: object, name: str, dataset: Dataset | None) -> Factors | ScoreTeacher:
    def has(*names: str) -> bool:
        return all(hasattr(source, part) for part in names)

    if has("user_vectors", "item_vectors"):
        with evaluating(source):
            biases = bias_of(source, "item"), bias_of(source, "user")
            users, items = source.user_vectors(), source.item_vectors()
        if not ranked_by_vectors(source, torch.arange(1), len(items)):
            expected = "scores that are inner products of user_vectors and item_vectors, but for item_bias and user_bias"
            cure = "Give a function of its scores, or the tables that make them"
            raise ValueError(f"{OP}: expected {expected}; got a {name} that scores otherwise. {cure}")
        return _factors(name, users, items, *biases)
    if has("user_factors", "item_factors"):
        if source.user_factors is None or source.item_factors is None:
            raise ValueError(f"{OP}: expected a trained {name}; got one without user_factors: fit it first")
        return _factors(name, source.user_factors, source.item_factors)
    if has("get_user_representations", "get_item_representations"):
        user_bias, users = source.get_user_representations()
        item_bias, items = source.get_item_representations()
        return _factors(name, users, items, item_bias, user_bias)
    sizes = source if has("n_users", "n_items") else dataset
    if has("score") and sizes is not None:
        items = torch.arange(sizes.n_items)
        scores = evaluating(source)(lambda users: row_scores(source, users, items))
        return ScoreTeacher(scores, sizes.n_users, sizes.n_items)
    if callable(source) and not isinstance(source, torch.nn.Module):
        if dataset is None:
            raise ValueError(
                f"{OP}: expected a dataset beside a function of scores, for the numbers of users and items; got none "
                "(Rankings.from_score_function takes the numbers)"
            )
        return ScoreTeacher(source, dataset.n_users, dataset.n_items)
    for method, written in WRITTEN.items():
        if has(method):
            raise TypeError(f"{OP}: expected {written}; got a {name}, which does not say whose its rows are")
    tables = [
        part for part in dir(source) if not part.startswith("_") and ("emb" in part or "factor" in part)
    ]
    named = f" with {', '.join(tables)}" if tables else ""
    raise TypeError(f"{OP}: expected {ACCEPTED}; got {name}{named}")


def _of_attributes(
    source: object, name: str, attributes: str | Sequence[str], dataset: Dataset | None
) -> Factors:
    names = [attributes] if isinstance(attributes, str) else list(attributes)
    missing = [part for part in names if not hasattr(source, part)]
    if missing or not 1 <= len(names) <= 2:
        raise ValueError(
            f"{OP}: expected attributes that {name} has, one or two; got {', '.join(missing or names)}"
        )
    tables = [_array(part, getattr(source, part)) for part in names]
    if len(tables) == 2:
        return _factors(name, *tables)
    checks.expect(dataset is not None, OP, f"a dataset, which says where {names[0]} ends with users", "none")
    whole = [dataset.n_users + dataset.n_items]
    checks.expect(
        list(tables[0].shape[:1]) == whole, OP, f"{names[0]} of {whole[0]} rows, users and items", tables[0]
    )
    return _factors(name, tables[0][: dataset.n_users], tables[0][dataset.n_users :])


def _factors(name: str, users, items, item_bias=None, user_bias=None, **ids) -> Factors:
    users, items = _array("users", users), _array("items", items)
    biases = [
        None if bias is None else _array(part, bias).reshape(-1).to(items.dtype)
        for part, bias in (("item_bias", item_bias), ("user_bias", user_bias))
    ]
    return Factors(users, items, *biases, source=f"{OP}({name})", **ids)


def _array(name: str, value: object) -> Tensor:
    """A tensor on the CPU of a tensor, an array, an embedding layer, or a method that gives one."""
    if not isinstance(value, Tensor) and hasattr(value, "weight"):
        value = value.weight
    if callable(value) and not isinstance(value, (Tensor, np.ndarray)):
        value = value()
    if hasattr(value, "to_numpy"):  # implicit's matrices of a GPU
        value = value.to_numpy()
    if not isinstance(value, (Tensor, np.ndarray)):
        raise TypeError(f"{OP}: expected {name} as a tensor or an array; got {checks.describe(value)}")
    return torch.as_tensor(value).detach().cpu()
