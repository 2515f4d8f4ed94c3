"""Writing files so that a reader sees the old one or the whole new one, whatever happens in between."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("rankdistill")

SETTINGS = "settings.json"
LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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


def sync_folder(folder: str | os.PathLike) -> None:
    """Which files the folder has is on the disk when this returns, where the file system can say so."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def remove_partial(path: str | os.PathLike) -> None:
    """Removes what killed processes left of `replacing(path)`; no other process writes it meanwhile."""
    path = Path(path)
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        partial.unlink(missing_ok=True)


@contextmanager
def named_lack_of_room(op: str, path: str | os.PathLike, size: int) -> Iterator[None]:
    """Where the disk is full, or a file as large as it may be, the error says how much was to be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        text = f"{op}: expected room for {size:,} bytes in {os.fspath(path)}; got {os.strerror(error.errno)}"
        raise OSError(error.errno, text) from error


def write_text(path: str | os.PathLike, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_in(op: str, path: str | os.PathLike, text: str | None = None) -> dict:
    """The JSON object in a file, or in a text that stands in one; a ValueError that names the file where there is none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8") if text is None else text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{op}: expected JSON in {os.fspath(path)}; got a damaged file: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(  # noqa: TRY004 (of the file's contents, not of an argument)
            f"{op}: expected named values in {os.fspath(path)}; got {type(found).__name__}"
        )
    return found


class AtWork(ValueError):
    """Another process does the work in the folder."""


@contextmanager
def alone_in(folder: Path, op: str, work: str, lock: str = LOCK) -> Iterator[None]:
    """No other process does `work` in the folder meanwhile, `AtWork` otherwise; a killed one holds no lock.

    A folder that this process may read alone is not locked: it changes nothing there. Where the file system has no locks,
    a warning says so.

    Args:
        folder, op, work: which folder; whom and what errors speak of.
        lock: a file of the folder that is locked: another one for work that may be part of another one's. It is there
            meanwhile, and after a kill until the next time.
    """
    path, handle = folder / lock, None
    try:
        handle = _locked(path, op)
    except BlockingIOError as error:
        raise AtWork(
            f"{op}: expected {folder} for this {work} alone; got another one at work in it"
        ) from error
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or os.access(folder, os.W_OK):
            raise
    try:
        yield
    finally:
        if handle is not None:
            if _is_at(handle, path):
                path.unlink(missing_ok=True)
            os.close(handle)


def _locked(path: Path, op: str) -> int:
    """A handle of a file, made where there is none, locked where the file system has locks."""
    while True:
        # Open for writing: NFS locks nothing else, such as the folder itself.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                text = "%s: no locks in %s (%s): nothing keeps another process from working there too"
                logger.warning(text, op, path.parent, error.strerror)
                return handle
            os.close(handle)
            raise
        if _is_at(handle, path):
            return handle
        os.close(handle)  # who held the lock has just removed the file


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def expect_settings(op: str, path: Path, settings: dict) -> None:
    """Writes the settings that a folder's work is begun with, or a ValueError where it was begun with others."""
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    found, wanted = (dict(_flat(each)) for each in (json_in(op, path), json.loads(json.dumps(settings))))
    for name in wanted | found:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{op}: expected {name}={found.get(name)!r}, as {path.parent} was begun with; got {wanted.get(name)!r}. "
                "Choose another folder"
            )


def _flat(settings: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in settings.items():
        if isinstance(value, list) and any(isinstance(each, dict) for each in value):
            value = {str(place): each for place, each in enumerate(value)}
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
