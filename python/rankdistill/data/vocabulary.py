"""The mapping between external ids and 0 … n-1."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rankdistill.data.ids import IdColumn, as_ids, join_ids


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The ids of users or of items, in order; an id's index is its place.

    The order is numeric for integers and by code point for strings, so it does not depend on the order of a file,
    and integers 0 … n-1 are their own indices. 1 and "1" are the same id (see `rankdistill.data.ids`).

    Args:
        ids: [n] integers or strings, ascending and without repeats; `Vocabulary.from_ids` takes any.

    Raises:
        TypeError, ValueError: ids that are neither, in another order or with repeats; the error names the first.

    Cost:
        encode O(m log n) for m ids; decode O(m).

    Example:
        >>> vocabulary = Vocabulary.from_ids(["pear", "fig"], ["fig", "apple"])
        >>> vocabulary.encode(["fig", "pear"]), vocabulary.decode([0])
        (tensor([1, 2]), array(['apple'], dtype='<U5'))
    """

    ids: np.ndarray

    def __post_init__(self) -> None:
        ids = as_ids(self.ids, "Vocabulary")
        wrong = ids[1:] <= ids[:-1]
        if bool(wrong.any()):
            at = int(wrong.argmax())
            raise ValueError(
                "Vocabulary: expected ids ascending and without repeats; got "
                f"{ids[at].item()!r} before {ids[at + 1].item()!r} at position {at + 1}"
            )
        ids.setflags(write=False)
        object.__setattr__(self, "ids", ids)

    @classmethod
    def from_ids(cls, *arrays: object) -> Vocabulary:
        """The vocabulary of all ids in `arrays`, each [n] integers or strings in any order, with repeats."""
        return cls(np.unique(join_ids(_distinct(array) for array in arrays)))

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and np.array_equal(self.ids, other.ids)

    __hash__ = None

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} {'integers' if self.ids.dtype.kind == 'i' else 'strings'})"

    def encode(self, ids: object) -> Tensor:
        """The indices [m] int64 of `ids` [m]. KeyError naming the first id that is unknown."""
        wanted = _distinct(ids)
        known, sought = self.ids, wanted
        if sought.dtype.kind != known.dtype.kind:
            # Only a string vocabulary can hold an integer's spelling; an integer one holds no other strings.
            known, sought = known.astype(str), sought.astype(str)
            order = known.argsort() if self.ids.dtype.kind == "i" else np.arange(len(known))
        else:
            order = None
        places = np.searchsorted(known, sought, sorter=order)
        places = np.minimum(places, max(len(known) - 1, 0))
        if order is not None and len(known):
            places = order[places]
        missing = known[places] != sought if len(known) else np.ones(len(sought), bool)
        numbers = ids.numbers if isinstance(ids, IdColumn) else np.arange(len(wanted))
        if bool(missing.any()):
            at = int(missing[numbers].argmax())
            unknown = wanted[numbers[at]].item()
            raise KeyError(
                f"Vocabulary: expected one of {len(self)} known ids; got {unknown!r} at position {at}"
            )
        return torch.from_numpy(places.astype(np.int64)[numbers])

    def decode(self, indices: object) -> np.ndarray:
        """The ids, of the shape of `indices` (integers in [0, n)). IndexError naming the first out of range."""
        if isinstance(indices, Tensor):
            indices = indices.detach().cpu().numpy()
        indices = np.asarray(indices)
        if indices.dtype.kind not in "iu" and indices.size:
            raise TypeError(f"Vocabulary: expected indices as integers; got {indices.dtype}")
        indices = indices.astype(np.int64)
        bad = (indices < 0) | (indices >= len(self))
        if bool(bad.any()):
            raise IndexError(f"Vocabulary: expected indices in [0, {len(self)}); got {int(indices[bad][0])}")
        return self.ids[indices]

    @cached_property
    def sha256(self) -> str:
        """The hex digest of the ids in order: the digest of the file that `save` writes."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def _text(self) -> str:
        # One JSON value a line: an id with a line feed, a quote or a lone surrogate stays one line of ASCII.
        write = str if self.ids.dtype.kind == "i" else json.dumps
        return "".join(f"{write(value)}\n" for value in self.ids.tolist())

    def save(self, path: str | os.PathLike) -> None:
        """Write the ids as JSON lines: one integer or string a line, in order."""
        Path(path).write_bytes(self._text().encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Vocabulary:
        """Read what `save` wrote. ValueError naming file and line where that is not what the file holds."""
        values = []
        for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
            try:
                values.append(json.loads(line))
            except ValueError:
                values.append(None)
            if type(values[-1]) not in (int, str):
                raise ValueError(f"{path}:{number}: expected a JSON integer or string; got {line[:80]!r}")
        try:
            return cls(np.array(values, dtype=object))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _distinct(ids: object) -> np.ndarray:
    return ids.distinct if isinstance(ids, IdColumn) else as_ids(ids, "Vocabulary")
