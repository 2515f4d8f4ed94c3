"""Parquet files, through polars."""

from __future__ import annotations

import os

import numpy as np

from rankdistill.data.delimited import find_columns
from rankdistill.data.ids import as_ids
from rankdistill.data.interactions import RawInteractions


def read_parquet(path: str | os.PathLike, wanted: dict) -> RawInteractions:
    """The columns of a parquet file; ids of an integer or string type, dates as seconds since 1970."""
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
    arrays = {}
    for role, column in columns.items():
        series = table[header[column]]
        if series.null_count():
            raise ValueError(
                f"{path}: row {int(series.is_null().arg_max()) + 1}: expected a {role}; got null"
            )
        if role in ("user", "item"):
            if isinstance(series.dtype, (polars.Categorical, polars.Enum)):
                series = series.cast(polars.String)
            arrays[role] = as_ids(series.to_numpy(), f"{path}", f"{role} ids")
            continue
        if series.dtype.is_temporal():
            series = series.cast(polars.Datetime("us")).dt.epoch("us") / 1e6
        if not series.dtype.is_numeric():
            raise ValueError(f"{path}: expected {role} as numbers; got {series.dtype}")
        arrays[role] = series.to_numpy()
        bad = ~np.isfinite(arrays[role])
        if bool(bad.any()):
            at = int(bad.argmax())
            raise ValueError(
                f"{path}: row {at + 1}: expected a finite number as {role}; got {arrays[role][at]}"
            )
    return RawInteractions(arrays["user"], arrays["item"], arrays.get("rating"), arrays.get("timestamp"))
