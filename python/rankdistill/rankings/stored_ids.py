"""External ids beside tensors: in .safetensors files, which have no strings, and found again in another numbering."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor

from rankdistill.data.ids import as_ids
from rankdistill.ops import checks
from rankdistill.rankings.safetensors_files import Entry

SIDES = ("user_ids", "item_ids")
LINES = "_lines"


def ids_as_tensor(name: str, ids: np.ndarray) -> dict[str, Tensor]:
    """Ids for a .safetensors file, by name."""
    if ids.dtype.kind == "i":
        return {name: torch.from_numpy(ids.copy())}
    text = "".join(f"{json.dumps(value)}\n" for value in ids.tolist())
    return {name + LINES: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def ids_as_tensors(
    op: str, n_users: int, n_items: int, user_ids: object, item_ids: object
) -> dict[str, Tensor]:
    """`ids_as_tensor` of both sides, as many as there are rows and items and each once."""
    found = {}
    for name, count, ids in zip(SIDES, (n_users, n_items), (user_ids, item_ids)):
        ids = as_ids(() if ids is None else ids, op, name)
        distinct = len(np.unique(ids))
        checks.expect(len(ids) == count, op, f"{count} {name}", f"{len(ids)}")
        checks.expect(distinct == count, op, f"{name} without repeats", f"{distinct} of {count}")
        found |= ids_as_tensor(name, ids)
    return found


def id_tensors(op: str, path: str, entries: dict[str, Entry]) -> dict[str, Tensor]:
    """What `ids_as_tensor` put among the tensors of a file."""
    found = {}
    for side in SIDES:
        for name, dtype in ((side, torch.int64), (side + LINES, torch.uint8)):
            if name in entries:
                kind = str(dtype).removeprefix("torch.")
                checks.expect(
                    entries[name].dtype == dtype, op, f"{name} as {kind}", f"{entries[name].dtype} in {path}"
                )
                found[name] = entries[name].tensor()
    return found


def ids_of(op: str, source: str, name: str, tensors: dict[str, Tensor]) -> np.ndarray | None:
    """The ids that `ids_as_tensor` named; None where there are none."""
    if name in tensors:
        return tensors[name].numpy()
    if name + LINES not in tensors:
        return None
    try:
        text = tensors[name + LINES].numpy().tobytes().decode("ascii")
        return as_ids([json.loads(line) for line in text.splitlines()], op, name)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{op}: expected {name}{LINES} as JSON strings, one a line; got {source}: {error}"
        ) from error


def are_row_numbers(ids: np.ndarray) -> bool:
    """Whether ids are 0 … n-1, which may be no more than places."""
    return np.array_equal(ids, np.arange(len(ids)))


def places_among(known: np.ndarray, sought: np.ndarray) -> Tensor:
    """[m] int64: where each of m ids stands among `known` (in any order, without repeats), -1 where it does not."""
    if known.dtype.kind != sought.dtype.kind:
        known, sought = known.astype(str), sought.astype(str)
    if not len(known):
        return torch.full((len(sought),), -1)
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, sought, sorter=order), len(known) - 1)]
    return torch.from_numpy(np.where(known[at] == sought, at, -1))
