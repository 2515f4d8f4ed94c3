"""Safetensors files by the byte: where each tensor lies, and files written piece by piece.

The library's own reader maps a file as memory that must be granted at once, and its writer holds it twice; both
end where a file is larger than the memory. The format is https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from rankdistill.files import named_lack_of_room, replacing
from rankdistill.rankings.mapping import Stretch, mapped

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000
PIECE = 16 << 20  # bytes of a tensor that must be copied to be written
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
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            broken("its metadata are no strings by name")
        begin, entries = 8 + length, {}
        for name, entry in header.items():
            offsets, shape = tuple(entry["data_offsets"]), tuple(entry["shape"])
            dtype = DTYPES.get(entry["dtype"])
            if len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in (*offsets, *shape)):
                broken(f"{name!r} has offsets {list(offsets)} and shape {list(shape)}")
            low, high = offsets
            if not low <= high <= size - begin:
                broken(f"{name!r} ends past the file")
            if dtype is not None and high - low != prod(shape) * dtype.itemsize:
                broken(f"{name!r} has {high - low} bytes for {entry['dtype']} {list(shape)}")
            entries[name] = Entry(dtype, shape, Stretch(path, begin + low, high - low))
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
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

    def put(self, first_row: int, /, **rows: Tensor) -> None:
        """Writes rows [first_row, first_row + n) of the named tensors; the rows of a number are itself."""
        for name, values in rows.items():
            at = self._begins[name] + first_row * self._row_bytes[name]
            for part in pieces(values.detach().resolve_conj().resolve_neg(), self._dtypes[name]):
                data = memoryview(part.reshape(-1).view(torch.uint8).numpy())
                self._write(data, at)
                at += len(data)

    def _write(self, data: bytes | memoryview, at: int) -> None:
        while len(data):
            written = os.pwrite(self._file, data[: 1 << 30], at)
            data, at = data[written:], at + written

    def finish(self) -> None:
        """Gives the file its name; all rows have been written."""
        try:
            self._close()
        except BaseException as error:
            self.abandon(error)
            raise
        self._cleanup.close()

    def abandon(self, error: BaseException | None = None) -> None:
        """Leaves nothing behind."""
        self._close()
        error = error or RuntimeError("abandoned")
        self._cleanup.__exit__(type(error), error, error.__traceback__)

    def _close(self) -> None:
        file, self._file = getattr(self, "_file", None), None
        if file is not None:
            os.close(file)


def pieces(values: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """All of a tensor in order, contiguous and on the CPU: itself where it is so, else some rows at a time."""
    if not values.numel():
        return
    if values.is_contiguous() and values.device.type == "cpu" and values.dtype == dtype:
        yield values
        return
    rows = values if values.dim() else values.reshape(1)
    step = max(1, PIECE // (rows[0].numel() * dtype.itemsize))
    for at in range(0, len(rows), step):
        yield rows[at : at + step].to("cpu", dtype).contiguous()


def write_tensors(
    op: str, path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file of any tensors, which may share memory; it appears when it is whole, or never.

    Wider dtypes lie first, as other readers want each number where its size divides its place.

    Raises:
        TypeError: a dtype that the format has not.
        OSError: no room; what was there before is still there.

    Cost:
        16 MiB of memory, or a row, beside the tensors.
    """
    shapes = {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor = tensors[name]
        if tensor.dtype not in NAMES or tensor.layout != torch.strided:
            raise TypeError(
                f"{op}: expected dense tensors of a dtype that .safetensors has; got {tensor.dtype}, "
                f"{tensor.layout} for {name!r}"
            )
        shapes[name] = (tensor.dtype, tuple(tensor.shape))
    size = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    with named_lack_of_room(op, path, size):
        file = TensorFile(path, shapes, dict(metadata))
        try:
            for name in shapes:
                file.put(0, **{name: tensors[name]})
        except BaseException as error:
            file.abandon(error)
            raise
        file.finish()
