"""Tables in memory: data frames of pandas, polars and pyarrow, Arrow streams, and dicts of columns. None is imported."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rankdistill.data.delimited import find_columns
from rankdistill.data.interactions import RawInteractions

OP = "read_interactions"


def is_frame(value: object) -> bool:
    """Whether it is a table with named columns."""
    named = hasattr(value, "column_names") or (hasattr(value, "to_numpy") and hasattr(value, "columns"))
    return named or isinstance(value, Mapping) or hasattr(value, "__arrow_c_stream__")


def frame_name(frame: object) -> str:
    """What errors call it."""
    return f"a {type(frame).__name__}"


def read_frame(frame: object, wanted: dict[str, str | bool | None]) -> RawInteractions:
    """The columns of a table, ids as `as_ids` takes them; moments become seconds since 1970."""
    if isinstance(frame, Mapping):
        names = list(frame)
    elif hasattr(frame, "column_names") or hasattr(frame, "to_numpy"):
        names = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
    else:
        frame = _of_stream(frame)
        names = list(frame.columns)
    columns = find_columns([str(name) for name in names], wanted, f"{OP}({frame_name(frame)})")
    found = {role: _values(role, frame[names[place]]) for role, place in columns.items()}
    return RawInteractions(found["user"], found["item"], found.get("rating"), found.get("timestamp"))


def _of_stream(frame: object):
    try:
        import polars
    except ImportError as error:
        raise ImportError(
            f"{OP}: expected polars to read {frame_name(frame)} (pip install 'rankdistill[data]'); got {error}"
        ) from error
    return polars.DataFrame(frame)


def _values(role: str, column: object) -> object:
    values = np.asarray(column) if hasattr(column, "__array__") else column
    if role in ("user", "item") or not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind == "M":
        return (values - np.datetime64(0, "s")) / np.timedelta64(1, "s")  # NaN for a missing one
    if values.dtype.kind == "O":  # pandas' moments in a time zone, its numbers that may be missing
        if len(values) and hasattr(values[0], "timestamp"):
            values = np.array([moment.timestamp() for moment in values])
        try:
            return values.astype(np.float64)
        except (TypeError, ValueError):
            return values
    return values
