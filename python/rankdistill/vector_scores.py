"""How a model is looked at: in evaluation mode, by its vectors where what it calls so makes its scores, else row by row."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

COMPARED = 3  # users, and items, of a model that does not say
PAIRS = (
    1 << 20
)  # of a user and an item, at a time: a model that gathers both vectors holds 2·D numbers for each


@contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Models in evaluation mode, where a look draws no dropout and moves no running statistics; each part's mode as it was
    afterwards. What is no module has no mode."""
    modules = [model for model in models if isinstance(model, nn.Module)]
    modes = [(part, part.training) for model in modules for part in model.modules()]
    try:
        for model in modules:
            model.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


def device_of(model: object) -> torch.device:
    """Where a model's parameters, buffers or tables are; the CPU where that is not known."""
    held = [getattr(model, "users", None)]
    if isinstance(model, nn.Module):
        held = chain(model.parameters(), model.buffers())
    return next((part.device for part in held if isinstance(part, Tensor)), torch.device("cpu"))


def bias_of(model: object, side: str) -> Tensor | None:
    """[N] a model's `item_bias` (`side` "item"), or [U] its `user_bias`: a vector, a column, an embedding layer of width 1; or
    None."""
    name = f"{side}_bias"
    found = getattr(model, name, None)
    if found is None:
        return None
    held = found if isinstance(found, (Tensor, np.ndarray)) else getattr(found, "weight", None)
    shape = getattr(held, "shape", ())
    if held is None or not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        got = type(found).__name__ if held is None else list(shape)
        raise TypeError(
            f"{type(model).__name__}: expected {name} as a tensor of {side}s, or an embedding layer of width 1; got {got}"
        )
    return torch.as_tensor(held).reshape(-1)


def has_whole_table(model: object, side: str) -> bool:
    """Whether a model's `user_vectors` or `item_vectors` may be called without ids, for the whole table."""
    parameters = inspect.signature(getattr(model, f"{side}_vectors")).parameters.values()
    return all(part.default is not part.empty for part in parameters)


def all_vectors(model: object, side: str, count: int) -> Tensor:
    """[count, D] a model's vectors of all users or items: its whole table where it gives that, else those of all ids."""
    read = getattr(model, f"{side}_vectors")
    return read() if has_whole_table(model, side) else read(torch.arange(count, device=device_of(model)))


def scores_are_products(model: object) -> bool:
    """Whether a model says that the inner products of its whole tables are its scores, and has no bias that these would leave out."""
    return getattr(model, "scores_are_inner_products", False) and all(
        bias_of(model, side) is None and has_whole_table(model, side) for side in ("item", "user")
    )


def row_scores(model: object, users: Tensor, items: Tensor) -> Tensor:
    """[B, n] a model's `score` of the same items [n] int64 for users [B] int64, asked for 2^20 pairs (or a row) at a time.

    Of a model whose `scores_in_pieces` is True, since its `score` bounds its memory by itself, all at once. Ids are handed over
    where the model is, contiguous, as those of a batch's lists are.
    """
    users, items = (ids.to(device_of(model)) for ids in (users, items))
    at_once = max(1, PAIRS // max(1, len(items)))
    if getattr(model, "scores_in_pieces", False):
        at_once = max(1, len(users))
    lists = items.repeat(min(at_once, len(users)), 1)
    return torch.cat([model.score(part, lists[: len(part)]) for part in users.split(at_once)])


@torch.no_grad()
def ranked_by_vectors(model: object, users: Tensor, n_items: int) -> bool:
    """Whether a model's scores are inner products of its vectors, and its `item_bias` and `user_bias` where it has these.

    Of a model whose `scores_are_inner_products` is True, or that has no `score`, vectors and biases are taken to be what it
    ranks by; of another the scores of a few of `users` for a few of its items are compared with them.
    """
    if not (hasattr(model, "user_vectors") and hasattr(model, "item_vectors")):
        return False
    if getattr(model, "scores_are_inner_products", False) or not hasattr(model, "score") or not len(users):
        return True
    users = users[:COMPARED].to(device_of(model))
    ids = torch.arange(0, n_items, max(1, n_items // COMPARED), device=users.device)
    with evaluating(model):
        rows, columns = model.user_vectors(users), model.item_vectors(ids)
        biases = bias_of(model, "item"), bias_of(model, "user")
        scores = row_scores(model, users, ids)
    products = rows.double() @ columns.double().T
    if biases[0] is not None:
        products = products + biases[0][ids].double()
    if biases[1] is not None:
        products = products + biases[1][users, None].double()
    sizes = rows.double().norm(dim=1)[:, None] * columns.double().norm(dim=1) + products.abs()
    narrow = min(part.element_size() for part in (rows, columns, scores)) < 4
    rounding = 2e-2 if narrow or torch.is_autocast_enabled(scores.device.type) else 1e-4
    # Numbers that are none, as a diverged model's, tell nothing.
    return not bool(((scores.double() - products).abs() > rounding * sizes + 1e-12).any())
