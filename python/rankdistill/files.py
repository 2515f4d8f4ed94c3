"""Writing files so that a reader sees the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = "settings.json"


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends, and vanishes if it fails.

    Example:
        >>> with replacing("numbers.txt") as temporary:
        ...     temporary.write_text("1 2 3")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class AtWork(ValueError):
    """Another process does the work in the folder."""


@contextmanager
def alone_in(folder: Path, op: str, work: str) -> Iterator[None]:
    """No other process does `work` in the folder meanwhile, `AtWork` otherwise; a killed one holds no lock."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AtWork(
                f"{op}: expected {folder} for this {work} alone; got another one at work in it"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def expect_settings(op: str, path: Path, settings: dict) -> None:
    """Writes the settings that a folder's work is begun with, or a ValueError where it was begun with others."""
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        found = dict(_flat(json.loads(path.read_text(encoding="utf-8"))))
    except json.JSONDecodeError as error:
        raise ValueError(f"{op}: expected settings in JSON in {path}; got a damaged file: {error}") from error
    wanted = dict(_flat(json.loads(json.dumps(settings))))
    for name in wanted | found:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{op}: expected {name}={found.get(name)!r}, as {path.parent} was begun with; got {wanted.get(name)!r}. "
                "Choose another folder"
            )


def _flat(settings: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
