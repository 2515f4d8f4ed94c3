"""External ids: one array of integers, or one array of strings.

An id is its spelling: 1 and "1" are the same id, "01" is another. A collection of ids whose spellings are all
plain integers is held as int64; with one spelling that is not, all of them are strings. Files have no types, so
no other rule gives the same ids for a csv, a parquet file and an array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

INT64 = np.iinfo(np.int64)


def parse_ids(strings: Sequence[str]) -> np.ndarray:
    """int64 where every string is the usual spelling of such an integer; else the strings as they are."""
    try:
        integers = np.array(list(map(int, strings)), dtype=np.int64)
    except (ValueError, OverflowError):
        return np.array(strings, dtype=str)
    # No spelling of an integer is shorter than the usual one, so the joined texts agree only if every one does.
    usual = "".join(map(str, integers.tolist())) == "".join(strings)
    return integers if usual else np.array(strings, dtype=str)


def as_ids(values: object, op: str = "as_ids", name: str = "ids") -> np.ndarray:
    """Integers and strings of any container as an array of ids.

    Args:
        values: [n] integers or strings (which may be mixed): a sequence, a numpy array or a tensor.
        op: who asks, for errors.
        name: what the ids are, for errors.

    Returns:
        [n] int64, or strings (dtype kind U) if one of them is not the usual spelling of an int64.

    Raises:
        TypeError: a value that is neither an integer nor a string (floats and booleans are neither).
        ValueError: not one-dimensional; an empty string; a NUL character; an integer that int64 cannot hold.

    Example:
        >>> as_ids(["10", "2"]), as_ids(["10", "b"])
        (array([10,  2]), array(['10', 'b'], dtype='<U2'))
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=object)
    if array.ndim != 1:
        raise ValueError(f"{op}: expected {name} with 1 dimension; got shape {list(array.shape)}")
    if array.dtype.kind in "iu":
        if array.dtype.kind == "u" and len(array) and int(array.max()) > INT64.max:
            raise ValueError(f"{op}: expected {name} within int64 (or as strings); got {int(array.max())}")
        return array.astype(np.int64)
    if array.dtype.kind in "OT":
        array = _from_objects(array, op, name)
    if array.dtype.kind == "i":
        return array
    if array.dtype.kind != "U":
        raise TypeError(f"{op}: expected {name} as integers or strings; got {array.dtype} values")
    if len(array) and bool((array == "").any()):
        raise ValueError(
            f"{op}: expected {name} that are not empty; got '' at position {int((array == '').argmax())}"
        )
    return parse_ids(array.tolist())


def _from_objects(array: np.ndarray, op: str, name: str) -> np.ndarray:
    values = array.tolist()
    for kind in set(map(type, values)):
        if not issubclass(kind, (int, np.integer, str)) or kind is bool:
            bad = next(i for i, value in enumerate(values) if type(value) is kind)
            raise TypeError(
                f"{op}: expected {name} as integers or strings; got {values[bad]!r} at position {bad}"
            )
    strings = [str(value) for value in values]
    # numpy drops trailing NULs, so two ids would become one.
    for i, string in enumerate(strings):
        if "\0" in string:
            raise ValueError(f"{op}: expected {name} without NUL characters; got {string!r} at position {i}")
    return np.array(strings, dtype=str)


@dataclass(frozen=True, eq=False)
class IdColumn:
    """[n] ids, each held once, for numpy gives every string of an array the room of the longest.

    Args:
        distinct: [m] ids as of `as_ids`, in any order without repeats, each in some row.
        numbers: [n] int64: row i has the id `distinct[numbers[i]]`.
    """

    distinct: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, values: object, op: str, name: str) -> IdColumn:
        """The column of [n] `values`, with the errors of `as_ids`."""
        if isinstance(values, IdColumn):
            return values
        return cls(*np.unique(as_ids(values, op, name), return_inverse=True))

    def __len__(self) -> int:
        return len(self.numbers)

    def array(self) -> np.ndarray:
        """The ids row by row."""
        return self.distinct[self.numbers]

    def select(self, rows: np.ndarray) -> IdColumn:
        """The rows that a mask or an index array names."""
        numbers = self.numbers[rows]
        found = np.zeros(len(self.distinct), dtype=bool)
        found[numbers] = True
        return IdColumn(as_ids(self.distinct[found]), (found.cumsum() - 1)[numbers])


class Numbering(dict):
    """The number of each id by its spelling with or without spaces around it: 0 for the first that was looked up.

    KeyError for an empty one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spellings: list[str] = []

    def __missing__(self, spelling: str) -> int:
        plain = spelling.strip()
        if not plain:
            raise KeyError(spelling)
        if plain != spelling:
            self[spelling] = number = self[plain]
            return number
        self[spelling] = number = len(self.spellings)
        self.spellings.append(spelling)
        return number

    def numbers(self, spellings: Iterable[str]) -> np.ndarray:
        return np.array(list(map(self.__getitem__, spellings)), dtype=np.int64)

    def column(self, parts: Iterable[np.ndarray]) -> IdColumn:
        """The ids of all rows, from the numbers of their parts."""
        return IdColumn(parse_ids(self.spellings), np.concatenate([np.empty(0, np.int64), *parts]))


def join_ids(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Several arrays of ids as one: integers if all are, else all as strings."""
    arrays = list(arrays)
    if any(array.dtype.kind == "U" for array in arrays):
        arrays = [array.astype(str) for array in arrays if len(array)]
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)
