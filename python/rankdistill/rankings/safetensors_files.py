"""Safetensors files by the byte: where each tensor lies, and files written piece by piece.

The library's own reader maps a file as memory that must be granted at once, and its writer holds it twice; both
end where a file is larger than the memory. The format is https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from rankdistill.files import replacing
from rankdistill.rankings.mapping import Stretch, mapped

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000
DATA_ALIGNMENT = 65536  # pages of any size that Linux uses divide it


class Entry(NamedTuple):
    """A tensor of a file: its dtype (None: one that torch or this reader has not), shape and bytes."""

    dtype: torch.dtype | None
    shape: tuple[int, ...]
    stretch: Stretch

    def tensor(self) -> Tensor:
        """The tensor, mapped where its bytes are aligned, else read."""
        data = mapped([self.stretch])
        if data.data_ptr() % self.dtype.itemsize:
            data = data.clone()
        return data.view(self.dtype).view(self.shape)


def read_header(op: str, path: str | os.PathLike) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata; a ValueError unless the file is whole."""
    path = os.fspath(path)

    def broken(why: str, cause: Exception | None = None) -> NoReturn:
        raise ValueError(f"{op}: expected a whole safetensors file; got {path}: {why}") from cause

    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            broken("no header, or one that ends past the file")
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", None) or {}
        begin, entries = 8 + length, {}
        for name, entry in header.items():
            low, high = entry["data_offsets"]
            shape = tuple(entry["shape"])
            dtype = DTYPES.get(entry["dtype"])
            if not 0 <= low <= high <= size - begin or not all(type(n) is int and n >= 0 for n in shape):
                broken(f"{name!r} ends past the file, or has no shape")
            if dtype is not None and high - low != prod(shape) * dtype.itemsize:
                broken(f"{name!r} has {high - low} bytes for {entry['dtype']} {list(shape)}")
            entries[name] = Entry(dtype, shape, Stretch(path, begin + low, high - low))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        broken("its header is not one", error)
    used = max((e.stretch.begin + e.stretch.size for e in entries.values()), default=begin)
    if used != size:
        broken(f"{size - used} bytes after its last tensor")
    return entries, metadata


class TensorFile:
    """A safetensors file written by rows; it appears under its name when it is whole, or never.

    Args:
        path: the file; a temporary one beside it is written to until `finish`.
        tensors: name → (dtype, shape), in the order that they lie in the file.
        metadata: strings by name.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        tensors: dict[str, tuple[torch.dtype, Sequence[int]]],
        metadata: dict[str, str],
    ) -> None:
        self.path = Path(path)
        header: dict[str, object] = {"__metadata__": metadata}
        at = 0
        self._begins, self._row_bytes = {}, {}
        for name, (dtype, shape) in tensors.items():
            size = prod(shape) * dtype.itemsize
            header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
            self._begins[name], self._row_bytes[name] = at, prod(shape[1:]) * dtype.itemsize
            at += size
        text = json.dumps(header).encode()
        begin = -(-(8 + len(text)) // DATA_ALIGNMENT) * DATA_ALIGNMENT
        text = text.ljust(begin - 8)
        self._begins = {name: begin + offset for name, offset in self._begins.items()}
        self.size = begin + at
        self._dtypes = {name: dtype for name, (dtype, _) in tensors.items()}
        self._cleanup = ExitStack()
        temporary = self._cleanup.enter_context(replacing(self.path))
        try:
            self._file = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
            self._write(struct.pack("<Q", len(text)) + text, 0)
            os.truncate(self._file, self.size)
        except BaseException as error:
            self.abandon(error)
            raise

    def put(self, first_row: int, **rows: Tensor) -> None:
        """Writes rows [first_row, first_row + n) of the named tensors."""
        for name, values in rows.items():
            if not values.numel():
                continue
            values = values.to(self._dtypes[name]).contiguous()
            at = self._begins[name] + first_row * self._row_bytes[name]
            self._write(memoryview(values.view(torch.uint8).reshape(-1).numpy()), at)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        while len(data):
            written = os.pwrite(self._file, data[: 1 << 30], at)
            data, at = data[written:], at + written

    def finish(self) -> None:
        """Gives the file its name; all rows have been written."""
        self._close()
        self._cleanup.close()

    def abandon(self, error: BaseException | None = None) -> None:
        """Leaves nothing behind."""
        self._close()
        error = error or RuntimeError("abandoned")
        self._cleanup.__exit__(type(error), error, error.__traceback__)

    def _close(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)
            self._file = None
