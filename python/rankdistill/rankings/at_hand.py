"""Lists that are at hand, as the tensors of rankings: matrices, or nested lists of unequal lengths."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rankdistill.ops import checks

OP = "Rankings.from_lists"


def lists_at_hand(
    indices: object, scores: object, lengths: object, n_items: int
) -> tuple[Tensor, Tensor, Tensor]:
    """[U, K] int32 indices, float32 scores and [U] lengths of lists as `Rankings.from_lists` takes them, checked."""
    items, ends = _rows("indices", indices, "iu", torch.int64)
    if lengths is not None:
        ends = _numbers("lengths", lengths, "iu", torch.int64)
        checks.expect(ends.shape == items.shape[:1], OP, f"{len(items)} lengths, as indices", ends)
    elif ends is None:
        ends = (items >= 0).long().cumprod(1).sum(1)
    U, K = items.shape
    checks.expect(bool(((ends >= 0) & (ends <= K)).all()), OP, f"lengths in [0, {K}]", ends)
    listed = torch.arange(K) < ends[:, None]
    _refuse(listed & ((items < 0) | (items >= n_items)), items, f"items in [0, {n_items})")
    _refuse(~listed & (items >= 0) & (lengths is None), items, "no item after a list's first -1")
    items = items.masked_fill(~listed, -1)
    ordered, places = items.sort(dim=1, stable=True)
    again = torch.zeros_like(listed)
    again[:, 1:] = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    _refuse(torch.zeros_like(listed).scatter_(1, places, again), items, "an item once in a list")
    if scores is None:
        values = -torch.arange(K, dtype=torch.float32).expand(U, K)
    else:
        values, counts = _rows("scores", scores, "iuf", torch.float32)
        alike = values.shape == items.shape and (counts is None or torch.equal(counts, ends))
        checks.expect(alike, OP, f"scores {[U, K]}, as many in every list as indices", values)
        _refuse(listed & values.isnan(), values, "scores that are numbers")
        rises = torch.zeros_like(listed)
        rises[:, 1:] = listed[:, 1:] & (values[:, 1:] > values[:, :-1])
        _refuse(rises, values, "scores that do not ascend, the best item first")
    return items.int(), values.masked_fill(~listed, -torch.inf), ends.int()


def _refuse(wrong: Tensor, values: Tensor, expected: str) -> None:
    if bool(wrong.any()):
        user, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{OP}: expected {expected}; got {values[user, place].item()} for user {user} at place {place}"
        )


def _rows(name: str, values: object, kinds: str, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A matrix; of nested lists, which -1 fills up, also the length of each."""
    if isinstance(values, Tensor) or (isinstance(values, np.ndarray) and values.dtype.kind != "O"):
        matrix = _numbers(name, values, kinds, dtype)
        checks.expect(matrix.dim() == 2, OP, f"{name} with 2 dimensions", values)
        return matrix, None
    rows = [_numbers(name, row, kinds, dtype) for row in values]
    for row in rows:
        checks.expect(row.dim() == 1, OP, f"{name} as lists of lists", row)
    counts = torch.tensor(list(map(len, rows)), dtype=torch.int64)
    matrix = torch.full((len(rows), max(counts.tolist(), default=0)), -1, dtype=dtype)
    matrix[torch.arange(matrix.shape[1]) < counts[:, None]] = torch.cat([torch.empty(0, dtype=dtype), *rows])
    return matrix, counts


def _numbers(name: str, values: object, kinds: str, dtype: torch.dtype) -> Tensor:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in kinds and array.size:
        what = "numbers" if "f" in kinds else "integers"
        raise TypeError(f"{OP}: expected {name} as {what}; got {checks.describe(array)}")
    return torch.from_numpy(array.astype(np.int64 if dtype == torch.int64 else np.float32))
