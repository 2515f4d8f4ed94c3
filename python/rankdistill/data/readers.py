"""One way in for every file format."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from rankdistill.data.adjacency import read_lightgcn, read_users_dat
from rankdistill.data.delimited import read_with_header, read_without_header
from rankdistill.data.frames import frame_name, is_frame, read_frame
from rankdistill.data.interactions import RawInteractions
from rankdistill.data.lines import read_text
from rankdistill.data.parquet import read_parquet

FORMATS = ("csv", "tsv", "parquet", "u.data", "ratings.dat", "inter", "rating", "lightgcn", "users.dat")
FRAME = "a table in memory"
SUFFIXES = {
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "inter": "inter",
    "rating": "rating",
    "txt": "lightgcn",
}


def guess_format(path: str | os.PathLike) -> str | None:
    """The format that a file's name tells, or None."""
    name = os.path.basename(os.fspath(path)).lower().removesuffix(".gz")
    return name if name in FORMATS and name not in SUFFIXES else SUFFIXES.get(name.rpartition(".")[2])


def read_interactions(
    path: str | os.PathLike | object,
    *,
    format: str | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | bool | None = None,
    timestamp_column: str | bool | None = None,
    min_rating: float | None = None,
    separator: str | None = None,
    columns: Sequence[str] | None = None,
) -> RawInteractions:
    """The interactions in a file or a data frame, with their ids as they are written there.

    Formats: csv and tsv (with a header, or `columns`); parquet (needs the extra `data`); u.data (MovieLens: user, item, rating,
    timestamp, separated by tabs); ratings.dat (the same, separated by ::); inter (RecBole: tabs and a typed header);
    rating (NCF: tabs; the timestamp may be missing); lightgcn (`user item item …` a line; .txt); users.dat (citeulike:
    a count and that many items, the user is the number of the line). All text is UTF-8 and may be gzip'd (.gz); line
    ends may be LF or CRLF; spaces around ids are dropped, in parquet too; blank lines are skipped, but an error in users.dat.
    Timestamps are numbers or, in csv, tsv and parquet, dates (ISO 8601, UTC where they do not say), which become seconds
    since 1970.

    Args:
        path: the file; or a table in memory: a data frame of pandas, polars or pyarrow, another object that streams Arrow
            (through polars), or a dict of columns.
        format: one of `FORMATS`; None guesses from the name.
        user_column, item_column, rating_column, timestamp_column: names of columns, where they have names. None
            looks for the usual names (user, user_id, userId, …); False leaves ratings or timestamps out.
        min_rating: keep only rows with at least this rating.
        separator: one character, or "tab": what stands between the fields of csv and tsv, by default a comma and a tab.
        columns: the names of the columns of a csv or tsv file without a header.

    Returns:
        n rows in the order of the file. Users without any item leave no row.

    Raises:
        ValueError: a malformed line, as "path:line: expected …; got …"; an unknown format or column.
        OSError: the file cannot be read.
        ImportError: parquet, or an Arrow stream, without polars.

    Cost:
        O(size of the file) time and memory, but where ids are strings the characters of the longest for each distinct id.

    Example:
        >>> read_interactions({"user": ["ann", "bob"], "item": [7, 9]}).items
        array([7, 9])
    """
    name = frame_name(path) if is_frame(path) else os.fspath(path)
    if is_frame(path):
        if format is not None:
            raise ValueError(f"read_interactions: expected no format for {name}; got {format!r}")
        format = FRAME
    elif format is None:
        format = guess_format(path)
    if format not in (*FORMATS, FRAME):
        known = ", ".join(FORMATS)
        got = f"the name {os.path.basename(name)!r}" if format is None else repr(format)
        raise ValueError(f"read_interactions: expected format as one of {known}; got {got}")
    wanted = {
        "user": user_column,
        "item": item_column,
        "rating": rating_column,
        "timestamp": timestamp_column,
    }
    if format not in ("csv", "tsv", "inter", "parquet", FRAME) and (
        named := [role for role, c in wanted.items() if c]
    ):
        raise ValueError(
            f"read_interactions: expected no {named[0]}_column, as {format} has no header; got {wanted[named[0]]!r}"
        )
    for option, value in (("separator", separator), ("columns", columns)):
        if value is not None and format not in ("csv", "tsv"):
            raise ValueError(
                f"read_interactions: expected no {option} for {format}, only for csv and tsv; got {value!r}"
            )
    if min_rating is not None and not isinstance(min_rating, (int, float, np.number)):
        raise TypeError(f"read_interactions: expected min_rating as a number; got {min_rating!r}")
    if format == FRAME:
        table = read_frame(path, wanted)
    elif format == "parquet":
        table = read_parquet(path, wanted)
    else:
        text = read_text(path)
        if format == "lightgcn":
            table = read_lightgcn(path, text)
        elif format == "users.dat":
            table = read_users_dat(path, text)
        elif format in ("csv", "tsv", "inter"):
            table = read_with_header(path, text, format, wanted, separator, columns)
        else:
            table = read_without_header(path, text, format, wanted)
    if min_rating is None:
        return table
    if table.ratings is None:
        raise ValueError(f"{name}: expected ratings, for min_rating={min_rating}; got none")
    return table.select(table.ratings >= min_rating)
