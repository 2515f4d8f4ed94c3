"""Files of lists as JSON: an object a line, or one object by users."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from rankdistill.data.interactions import RawInteractions
from rankdistill.data.lines import malformed, read_text

SUFFIXES = (".jsonl", ".json")
LINE = '{"user": id, "items": [ids], "scores": [numbers]}, perhaps without scores'
OBJECT = "{user: [items, the best first]} or {user: {item: score}}"


def read_json_lists(path: str | os.PathLike) -> RawInteractions:
    """Rows of users, items and scores as ratings; lists without scores get minus the place, 0, -1, …."""
    users, items, scores = [], [], []
    for line, user, listed, values in _lists(path, read_text(path)):
        values = [-place for place in range(len(listed))] if values is None else values
        if len(values) != len(listed):
            raise malformed(path, line, f"{len(listed)} scores, as items", str(len(values)))
        users += [user] * len(listed)
        items += listed
        scores += values
    if any(type(score) not in (int, float) for score in scores):
        raise ValueError(f"{os.fspath(path)}: expected scores as numbers; got others")
    return RawInteractions(users, items, scores)


def _lists(path: str | os.PathLike, text: str) -> Iterator[tuple[int, object, list, list | None]]:
    """(line, user, items, scores)."""
    if os.fspath(path).removesuffix(".gz").endswith(".jsonl"):
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            found = _parsed(path, number, line, LINE)
            if not {"user", "items"} <= set(found) or not isinstance(found["items"], list):
                raise malformed(path, number, LINE, line[:80])
            yield number, found["user"], found["items"], found.get("scores")
        return
    for user, listed in _parsed(path, 1, text, OBJECT).items():
        if isinstance(listed, dict):
            yield 1, user, list(listed), list(listed.values())
        elif isinstance(listed, list):
            yield 1, user, listed, None
        else:
            raise malformed(path, 1, OBJECT, f"{listed!r} for {user!r}"[:80])


def _parsed(path: str | os.PathLike, number: int, text: str, expected: str) -> dict:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = number + getattr(error, "lineno", 1) - 1
        raise malformed(path, at, expected, f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise malformed(path, number, expected, f"{text[:80]}")
    return found
