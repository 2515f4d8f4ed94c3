"""Files with one interaction a line: csv, tsv, RecBole's .inter, and the formats without a header."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np

from rankdistill.data.ids import join_ids, parse_ids
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


def find_columns(header: Sequence[str], wanted: dict[str, str | bool | None], where: str) -> dict[str, int]:
    """The position of each role's column.

    Args:
        header: the names of the columns.
        wanted: for each role a column's name, None (look for the usual names) or False (leave it out).
        where: "file:line", for errors.

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
            raise ValueError(
                f"{where}: expected one {role} column (name it with {role}_column); got {list(header)}"
            )
        if places:
            found[role] = places[0]
        elif name is not None or role in ("user", "item"):
            what = f"a column {name!r}" if name else f"a {role} column (name it with {role}_column)"
            raise ValueError(f"{where}: expected {what}; got {list(header)}")
    return found


def read_with_header(path: str | os.PathLike, text: str, format: str, wanted: dict) -> RawInteractions:
    """csv and tsv (quoted as csv) and RecBole's .inter (a typed header, no quotes)."""
    records = _records(path, text, "," if format == "csv" else "\t", format != "inter")
    line, header = next(records, (1, None))
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
    return _read(path, records, len(names), find_columns(names, wanted, f"{os.fspath(path)}:{line}"))


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
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise malformed(path, reader.line_num, "well-formed fields", str(error)) from None


def _read(
    path: str | os.PathLike, records: Iterator[Record], width: int, columns: dict[str, int]
) -> RawInteractions:
    parts: dict[str, list[np.ndarray]] = {role: [] for role in columns}
    while block := list(itertools.islice(records, BLOCK)):
        for line, fields in block:
            if len(fields) != width:
                raise malformed(path, line, f"{width} fields", f"{len(fields)}: {fields!r}")
        for role, column in columns.items():
            convert = _ids if role in ("user", "item") else _numbers
            parts[role].append(convert(path, role, block, column))
    table = {
        role: join_ids(arrays) if role in ("user", "item") else _joined(arrays)
        for role, arrays in parts.items()
    }
    return RawInteractions(table["user"], table["item"], table.get("rating"), table.get("timestamp"))


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0)


def _ids(path: str | os.PathLike, role: str, block: list[Record], column: int) -> np.ndarray:
    strings = [fields[column] for _, fields in block]
    ids = parse_ids(strings)
    if ids.dtype.kind == "i":
        return ids
    stripped = [string.strip() for string in strings]
    if "" in stripped:
        raise malformed(path, block[stripped.index("")][0], f"a {role} id", "an empty field")
    return parse_ids(stripped)


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
