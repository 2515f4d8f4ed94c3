"""Files with one user a line: LightGCN's adjacency text and citeulike's users.dat. Ids are integers."""

from __future__ import annotations

import os
import re

import numpy as np

from rankdistill.data.interactions import RawInteractions
from rankdistill.data.lines import malformed

INTEGER = re.compile(r"[0-9]{1,18}")


def read_lightgcn(path: str | os.PathLike, text: str) -> RawInteractions:
    """`user item item …` a line. A user may have no items, or several lines; blank lines are skipped."""
    lines = [line.split() for line in text.split("\n")]
    users = _integers(path, lines, slice(0, 1))
    counts = np.array([len(line) - 1 for line in lines if line], dtype=np.int64)
    return RawInteractions(users.repeat(counts), _integers(path, lines, slice(1, None)))


def read_users_dat(path: str | os.PathLike, text: str) -> RawInteractions:
    """`n item1 … itemn` a line; the user is the number of the line, from 0."""
    lines = [line.split() for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line:
            raise malformed(path, number, "a count and that many items", "a blank line")
    stated = _integers(path, lines, slice(0, 1))
    counts = np.array([len(line) - 1 for line in lines], dtype=np.int64)
    wrong = stated != counts
    if bool(wrong.any()):
        at = int(wrong.argmax())
        raise malformed(path, at + 1, f"{stated[at]} items, as the first number says", str(counts[at]))
    return RawInteractions(np.arange(len(lines)).repeat(counts), _integers(path, lines, slice(1, None)))


def _integers(path: str | os.PathLike, lines: list[list[str]], part: slice) -> np.ndarray:
    words = [word for line in lines for word in line[part]]
    # One scan in C for the usual case; only a bad file pays for the search.
    joined = "".join(words)
    if not (joined.isdecimal() and joined.isascii()) or max(map(len, words)) > 18:
        for number, line in enumerate(lines, 1):
            for word in line[part]:
                if not INTEGER.fullmatch(word):
                    raise malformed(path, number, "integers separated by spaces", repr(word))
    return np.array(words, dtype=str).astype(np.int64)
