"""Files with one interaction a line: csv, tsv, RecBole's .inter, and the formats without a header."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import partial

import numpy as np

from rankdistill.data.ids import Numbering
from rankdistill.data.interactions import RawInteractions
from rankdistill.data.lines import malformed

ROLES = ("user", "item", "rating", "timestamp")
USUAL_NAMES = {
    "user": {"user", "userid", "uid", "useridx", "reviewerid", "visitorid"},
    "item": {
        "item",
        "itemid",
        "iid",
        "itemidx",
        "movie",
        "movieid",
        "asin",
        "productid",
        "businessid",
        "trackid",
    },
    "rating": {"rating", "ratings", "score", "stars", "overall"},
    "timestamp": {"timestamp", "time", "unixtime", "unixreviewtime"},
}
RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
# Records held as Python objects at once. More than this wakes the cyclic garbage collector, for 3 times the time.
BLOCK = 256

Record = tuple[int, list[str]]


def find_columns(
    header: Sequence[str], wanted: dict[str, str | bool | None], where: str, in_text: bool = False
) -> dict[str, int]:
    """The position of each role's column.

    Args:
        header: the names of the columns.
        wanted: for each role a column's name, None (look for the usual names) or False (leave it out).
        where: "file:line", for errors.
        in_text: whether the file has separators, and might lack its header.

    Raises:
        ValueError: no column for the user or the item, a given name that is not there, or several candidates.
    """
    found = {}
    for role in ROLES:
        name = wanted.get(role)
        if name is False:
            continue
        if name is None:
            plain = [column.lower().replace("_", "").replace("-", "").replace(" ", "") for column in header]
            places = [i for i, column in enumerate(plain) if column in USUAL_NAMES[role]]
        else:
            places = [i for i, column in enumerate(header) if column == name]
        if len(places) > 1:
            raise ValueError(f"{where}: expected one {role} column; got {list(header)}. {_naming(role)}")
        if places:
            found[role] = places[0]
        elif name is not None or role in ("user", "item"):
            article = "an" if role == "item" else "a"
            what = f"a column {name!r}" if name else f"{article} {role} column"
            cure = "" if name else f". {_naming(role)}"
            if in_text and name is None:
                cure += "; without a header all: columns=[…], --data.options.columns '[user, item]'"
            if in_text and len(header) == 1 and (divides := re.search(r"[;|\t, ]", header[0])):
                shown = "tab" if divides[0] == "\t" else divides[0]
                cure = (
                    f". Name what separates fields: separator={shown!r}, --data.options.separator {shown!r}"
                )
            raise ValueError(f"{where}: expected {what}; got {list(header)}{cure}")
    return found


def _naming(role: str) -> str:
    return f"Name it: {role}_column='NAME', --data.options.{role}_column NAME"


def read_with_header(
    path: str | os.PathLike,
    text: str,
    format: str,
    wanted: dict,
    separator: str | None = None,
    columns: Sequence[str] | None = None,
) -> RawInteractions:
    """csv and tsv (quoted as csv; the header may be given as `columns`) and RecBole's .inter (a typed header, no quotes)."""
    records = _records(path, text, _separator(separator, format), format != "inter")
    if columns is None:
        line, header = next(records, (1, None))
    else:
        line, header = 1, _names(columns)
    if header is None:
        raise malformed(path, 1, "a header", "an empty file")
    names = [name.strip() for name in header]
    if format == "inter":
        for name in names:
            if name.rpartition(":")[2] not in RECBOLE_TYPES or ":" not in name:
                raise malformed(
                    path, line, f"columns as name:type, type one of {', '.join(RECBOLE_TYPES)}", repr(name)
                )
        names = [name.rpartition(":")[0] for name in names]
    found = find_columns(names, wanted, f"{os.fspath(path)}:{line}", format in ("csv", "tsv"))
    return _read(path, records, len(names), found)


def _separator(separator: object, format: str) -> str:
    if separator is None:
        return "," if format == "csv" else "\t"
    separator = "\t" if separator in ("tab", "\\t") else separator
    if not isinstance(separator, str) or len(separator) != 1 or separator in '"\r\n':
        raise ValueError(
            f'read_interactions: expected separator as one character or "tab"; got {separator!r}'
        )
    return separator


def _names(columns: object) -> list[str]:
    if not isinstance(columns, (list, tuple)) or not all(isinstance(name, str) for name in columns):
        raise TypeError(
            f"read_interactions: expected columns as a list of names, such as [user, item]; got {columns!r}"
        )
    return list(columns)


def read_without_header(path: str | os.PathLike, text: str, format: str, wanted: dict) -> RawInteractions:
    """u.data and ratings.dat (user item rating timestamp) and NCF's .rating (the same, perhaps without the last)."""
    if format == "ratings.dat":
        if (tab := text.find("\t")) >= 0:
            raise malformed(path, text.count("\n", 0, tab) + 1, "fields separated by ::", "a tab")
        text = text.replace("::", "\t")
    records = _records(path, text, "\t", False)
    first = next(records, None)
    if first is None:
        return RawInteractions([], [])
    width = 3 if format == "rating" and len(first[1]) == 3 else 4
    columns = {role: i for i, role in enumerate(ROLES[:width]) if wanted.get(role) is not False}
    return _read(path, itertools.chain([first], records), width, columns)


def _records(path: str | os.PathLike, text: str, delimiter: str, quoted: bool) -> Iterator[Record]:
    """(line, fields) of every line that is not blank."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for fields in reader:
            if fields and not (len(fields) == 1 and fields[0].isspace()):
                yield reader.line_num, fields
    except csv.Error as error:
        raise malformed(path, reader.line_num, "well-formed fields", str(error)) from None


def _read(
    path: str | os.PathLike, records: Iterator[Record], width: int, columns: dict[str, int]
) -> RawInteractions:
    first = next(records, None)
    records = itertools.chain([] if first is None else [first], records)
    numberings = {role: Numbering() for role in ("user", "item")}
    converts = {role: partial(_ids, numberings[role]) if role in numberings else _numbers for role in columns}
    if first is not None and len(first[1]) == width and "timestamp" in columns:
        converts["timestamp"] = _kind_of_timestamps(path, first, columns["timestamp"])
    parts: dict[str, list[np.ndarray]] = {role: [] for role in columns}
    while block := list(itertools.islice(records, BLOCK)):
        for line, fields in block:
            if len(fields) != width:
                raise malformed(path, line, f"{width} fields", f"{len(fields)}: {fields!r}")
        for role, column in columns.items():
            parts[role].append(converts[role](path, role, block, column))
    table = {
        role: numberings[role].column(arrays) if role in numberings else _joined(arrays)
        for role, arrays in parts.items()
    }
    return RawInteractions(table["user"], table["item"], table.get("rating"), table.get("timestamp"))


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0)


def _ids(
    numbering: Numbering, path: str | os.PathLike, role: str, block: list[Record], column: int
) -> np.ndarray:
    strings = [fields[column] for _, fields in block]
    try:
        return numbering.numbers(strings)
    except KeyError as empty:
        raise malformed(
            path, block[strings.index(empty.args[0])][0], f"a {role} id", "an empty field"
        ) from None


def _kind_of_timestamps(path: str | os.PathLike, first: Record, column: int):
    """Numbers or dates in all rows, as in the first."""
    line, text = first[0], first[1][column]
    try:
        float(text)
    except ValueError:
        if _moment(text) is None:
            expected = "a date (ISO 8601) or a finite number as timestamp"
            raise malformed(path, line, expected, repr(text)) from None
        return _dates
    return _numbers


def _moment(text: str) -> float | None:
    """Seconds since 1970 of a date and perhaps a time, in UTC where it does not say; None for anything else."""
    text = text.strip()
    try:
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _dates(path: str | os.PathLike, role: str, block: list[Record], column: int) -> np.ndarray:
    moments = [_moment(fields[column]) for _, fields in block]
    if None in moments:
        line, fields = block[moments.index(None)]
        raise malformed(path, line, f"a date (ISO 8601) as {role}, as in the first row", repr(fields[column]))
    return np.array(moments)


def _numbers(path: str | os.PathLike, role: str, block: list[Record], column: int) -> np.ndarray:
    strings = [fields[column] for _, fields in block]
    if role == "timestamp":
        try:
            return np.array(list(map(int, strings)), dtype=np.int64)
        except (ValueError, OverflowError):
            pass
    numbers = []
    for line, fields in block:
        try:
            numbers.append(float(fields[column]))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise malformed(path, line, f"a finite number as {role}", repr(fields[column]))
    return np.array(numbers)
