"""The text of a file, plain or gzip'd; whatever is wrong with it is said with file and line."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

CHUNK = 1 << 20


def malformed(path: str | os.PathLike, line: int, expected: str, got: str) -> ValueError:
    return ValueError(f"{os.fspath(path)}:{line}: expected {expected}; got {got}")


def read_text(path: str | os.PathLike) -> str:
    """The text of a UTF-8 file, decompressed where its name ends in .gz.

    Raises:
        ValueError: broken gzip, bytes that are not UTF-8, a NUL character; each with its line.
        OSError: as opening the file does.
    """
    data = _decompressed(path) if os.fspath(path).endswith(".gz") else Path(path).read_bytes()
    try:
        # "utf-8-sig" would shift the positions of errors by the mark's length.
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise malformed(path, line, "UTF-8 text", f"byte {error.object[error.start]:#04x}") from None
    if (nul := text.find("\0")) >= 0:
        raise malformed(path, text.count("\n", 0, nul) + 1, "text", "a NUL character")
    return text


def _decompressed(path: str | os.PathLike) -> bytes:
    chunks = []
    try:
        with gzip.open(path) as file:
            # read1: what a broken stream still gives arrives before the error, so its line is known.
            while chunk := file.read1(CHUNK):
                chunks.append(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        line = sum(chunk.count(b"\n") for chunk in chunks) + 1
        raise malformed(path, line, "a whole gzip stream", str(error)) from None
    return b"".join(chunks)
