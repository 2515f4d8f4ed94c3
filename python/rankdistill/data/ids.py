"""External ids: one array of integers, or one array of strings.

An id is its spelling: 1 and "1" are the same id, "01" is another. A collection of ids whose spellings are all
plain integers is held as int64; with one spelling that is not, all of them are strings. Files have no types, so
no other rule gives the same ids for a csv, a parquet file and an array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def join_ids(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Several arrays of ids as one: integers if all are, else all as strings."""
    arrays = list(arrays)
    if any(array.dtype.kind == "U" for array in arrays):
        arrays = [array.astype(str) for array in arrays if len(array)]
    return np.concatenate(arrays) if arrays else np.empty(0, np.int64)
