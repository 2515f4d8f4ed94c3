"""Parquet files, through polars."""

from __future__ import annotations

import os

import numpy as np

from rankdistill.data.delimited import find_columns
from rankdistill.data.ids import IdColumn, Numbering
from rankdistill.data.interactions import RawInteractions

BLOCK = 1 << 16  # strings held as Python objects at once


def read_parquet(path: str | os.PathLike, wanted: dict) -> RawInteractions:
    """The columns of a parquet file, ids of an integer or string type; an error names file and column."""
    try:
        import polars
    except ImportError as error:
        raise ImportError(
            f"read_interactions: expected polars to read parquet (pip install 'rankdistill[data]'); got {error}"
        ) from error
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"read_interactions: expected a file; got {path!r}, which does not exist")
    if os.path.isdir(path):
        raise IsADirectoryError(f"read_interactions: expected a file; got {path!r}, a folder")
    try:
        # polars takes a name as a pattern of files and folders; an open file is this one.
        with open(path, "rb") as file:
            header = list(polars.read_parquet_schema(file))
            columns = find_columns(header, wanted, path)
            file.seek(0)
            table = polars.read_parquet(file, columns=sorted({header[i] for i in columns.values()}))
    except polars.exceptions.PolarsError as error:
        raise ValueError(f"{path}: expected a parquet file; got {error}") from None
    found = {}
    for role, column in columns.items():
        series = table[header[column]]
        if series.null_count():
            raise ValueError(
                f"{path}: row {int(series.is_null().arg_max()) + 1}: expected a {role}; got null"
            )
        found[role] = (_ids if role in ("user", "item") else _numbers)(polars, path, role, series)
    return RawInteractions(found["user"], found["item"], found.get("rating"), found.get("timestamp"))


def _ids(polars, path: str, role: str, series) -> IdColumn:
    name = f"{role} ids"
    if series.dtype.is_integer():
        return IdColumn.of(_integers(polars, path, name, series), path, name)
    if series.dtype not in (polars.String, polars.Categorical, polars.Enum):
        raise TypeError(
            f"{path}: expected {name} as integers or strings; got {str(series.dtype).lower()} values in column {series.name!r}"
        )
    series, numbering, parts = series.cast(polars.String), Numbering(), []
    for start in range(0, len(series), BLOCK):
        strings = series.slice(start, BLOCK).to_list()
        try:
            parts.append(numbering.numbers(strings))
        except KeyError as empty:
            at = start + strings.index(empty.args[0])
            raise ValueError(
                f"{path}: expected {name} that are not empty; got {empty.args[0]!r} at position {at}"
            ) from None
    for spelling in numbering.spellings:  # numpy drops trailing NULs, so two ids would become one
        if "\0" in spelling:
            raise ValueError(f"{path}: expected {name} without NUL characters; got {spelling!r}")
    return numbering.column(parts)


def _integers(polars, path: str, name: str, series) -> np.ndarray:
    try:
        return series.cast(polars.Int64).to_numpy()
    except polars.exceptions.PolarsError:
        raise ValueError(
            f"{path}: expected {name} within int64 (ids also as strings); "
            f"got {series.min()} to {series.max()} in column {series.name!r}"
        ) from None


def _numbers(polars, path: str, role: str, series) -> np.ndarray:
    if role == "timestamp" and series.dtype.is_integer():
        return _integers(polars, path, "timestamps", series)
    if role == "timestamp" and series.dtype in (polars.Date, polars.Datetime):
        series = series.cast(polars.Datetime("us")).dt.epoch("us") / 1e6
    if not series.dtype.is_numeric():
        what = "numbers" if role == "rating" else "numbers or dates"
        raise ValueError(f"{path}: expected {role} as {what}; got {series.dtype} in column {series.name!r}")
    numbers = series.cast(polars.Float64).to_numpy()
    bad = ~np.isfinite(numbers)
    if bool(bad.any()):
        at = int(bad.argmax())
        raise ValueError(f"{path}: row {at + 1}: expected a finite number as {role}; got {numbers[at]}")
    return numbers
