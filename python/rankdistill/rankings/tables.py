"""Tables of vectors: tensors, or files whose rows are read as they are used."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.rankings.mapping import Stretch, drop_pages, mapped
from rankdistill.rankings.safetensors_files import read_header

NPY_DTYPES = {"<f2": torch.float16, "<f4": torch.float32, "<f8": torch.float64}
PICKLED = (".pt", ".pth")
SUFFIXES = (".npy", ".npz", ".safetensors", *PICKLED)
READ_BYTES = 16 << 20
# What numpy and zipfile raise where a .npz file is damaged, or another kind of file.
UNREADABLE = (
    ValueError, TypeError, AttributeError, KeyError, EOFError, NotImplementedError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip


class Table:
    """A [rows, width] table of floats of which a stretch of rows is used at a time; see `Table.of`."""

    def __init__(self, op: str, name: str, values: Tensor, *, file: str | None = None, dtype=None) -> None:
        """`values` may be bytes [rows, width · itemsize] of a given `dtype`, where a file holds it unaligned."""
        self.op, self.name, self.file = op, name, file
        self.dtype: torch.dtype = dtype or values.dtype
        self.shape = (values.shape[0], values.shape[1] * values.itemsize // self.dtype.itemsize)
        # In memory a copy is made once; of a file, of the rows that are used.
        self._values = values.contiguous() if file is None else values
        self._size = os.stat(file).st_size if file is not None else 0

    @classmethod
    def of(cls, op: str, name: str, source: object, dim: int = 2) -> Table:
        """The table that `source` is or names.

        Args:
            op, name: whom errors speak of.
            source: a [rows, width] float tensor; or a file: .npy and .safetensors (float16, float32, float64;
                bfloat16 in the latter) are mapped and read by rows, .npz is loaded whole, .pt and .pth are what
                `torch.save` wrote of a tensor or a dict of them, mapped. The file holds one such table, or `source` ends with "#name of the tensor".
            dim: 2; or 1, a file's column [rows], as a table of width 1.
        """
        if isinstance(source, Table):
            return source
        if isinstance(source, Tensor):
            checks.expect_tensor(op, name, source, dim)
            return cls(op, name, source.detach().reshape(len(source), -1) if dim == 1 else source.detach())
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(f"{op}: expected {name} as a tensor or a file; got {checks.describe(source)}")
        text = os.fspath(source)
        path, wanted = file_and_name(text)
        suffix = Path(path).suffix
        if suffix not in SUFFIXES:
            raise ValueError(f"{op}: expected {name} as .npy, .npz, .pt or .safetensors; got {path}")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{op}: expected {name} in a file; got {path}, which is none")
        if suffix == ".npy":
            return cls._mapped(op, name, *_npy(op, name, path, dim))
        if suffix == ".safetensors":
            return cls._safetensors(op, name, path, wanted, dim)
        if suffix in PICKLED:
            tensors = pickled_tensors(op, path)
            key = _chosen(op, name, path, wanted, {k: t.dim() for k, t in tensors.items()}, dim)
            return cls.of(op, name, tensors[key], dim)
        tables = _npz(op, name, path)
        key = _chosen(op, name, path, wanted, {k: v.ndim for k, v in tables.items()}, dim)
        checks.expect(
            tables[key].dtype.str in NPY_DTYPES,
            op,
            _FLOATS.format(name),
            f"{tables[key].dtype.str} {key!r} in {path}",
        )
        return cls(op, name, torch.from_numpy(tables[key]).reshape(len(tables[key]), -1))

    @classmethod
    def _safetensors(cls, op: str, name: str, path: str, wanted: str, dim: int) -> Table:
        entries, _ = read_header(op, path)
        key = _chosen(op, name, path, wanted, {k: len(e.shape) for k, e in entries.items()}, dim)
        entry = entries[key]
        checks.expect(
            entry.dtype in checks.FLOATS, op, f"{name} of a float dtype", f"{entry.dtype} {key!r} in {path}"
        )
        return cls._mapped(op, name, entry.stretch, entry.dtype, entry.shape)

    @classmethod
    def _mapped(
        cls,
        op: str,
        name: str,
        stretch: Stretch,
        dtype: torch.dtype,
        shape: tuple[int, ...],
        fortran: bool = False,
    ) -> Table:
        rows, width = shape[0], prod(shape[1:])
        data = mapped([stretch])
        if data.data_ptr() % dtype.itemsize:
            checks.expect(
                not fortran,
                op,
                f"{name} row by row, where its bytes are not aligned",
                f"columns in {stretch.path}",
            )
            return cls(op, name, data.view(rows, width * dtype.itemsize), file=stretch.path, dtype=dtype)
        values = data.view(dtype)
        values = values.view(width, rows).t() if fortran else values.view(rows, width)
        return cls(op, name, values, file=stretch.path)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}" + f" in {self.file}" * bool(
            self.file
        )

    @property
    def device(self) -> torch.device:
        return self._values.device

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    @property
    def is_in_place(self) -> bool:
        """Whether `rows` gives views, not copies."""
        return self._values.is_contiguous() and self._values.dtype == self.dtype

    def rows(self, start: int, stop: int) -> Tensor:
        """[stop − start, width], contiguous."""
        self.expect_size()
        rows = self._values[start:stop]
        if rows.dtype != self.dtype:
            rows = rows.clone().view(self.dtype)
        return rows.contiguous()

    def expect_size(self) -> None:
        """An error where the file has become shorter: to read what is mapped of it would end the process."""
        if self.file is not None and os.stat(self.file).st_size < self._size:
            raise ValueError(
                f"{self.op}: expected {self.file} to keep its size; got a shorter file while it was read"
            )

    def copy_rows(self, rows: range, target: Tensor) -> None:
        """Rows into `target` [len(rows), width], little by little: none of the file stays mapped."""
        for part in self.stretches(READ_BYTES // max(1, self.row_bytes), rows):
            at = part.start - rows.start
            target[at : at + len(part)] = self.rows(part.start, part.stop)
            self.drop(part.start, part.stop)

    def drop(self, start: int, stop: int) -> None:
        """These rows of a file are not needed for now: their pages need not stay mapped."""
        if self.file is not None and self._values.is_contiguous():
            drop_pages(self._values[start:stop])

    def stretches(self, size: int, rows: range | None = None) -> Iterator[range]:
        """`rows`, or all, `size` at a time."""
        rows, size = range(len(self)) if rows is None else rows, max(1, size)
        for start in range(rows.start, rows.stop, size):
            yield range(start, min(start + size, rows.stop))

    def fingerprint(self) -> str:
        """SHA-256 of dtype, shape and rows, wherever and however they are stored."""
        digest = hashlib.sha256(f"{self.dtype} {self.shape}".encode())
        for rows in self.stretches(READ_BYTES // max(1, self.row_bytes)):
            part = self.rows(rows.start, rows.stop).cpu()
            if part.numel():
                digest.update(part.view(torch.uint8).numpy())
            self.drop(rows.start, rows.stop)
        return digest.hexdigest()


def file_and_name(text: str) -> tuple[str, str]:
    """The file of "file#name" and the name of a tensor in it, or "": a # may be in either of them, and in folders."""
    splits = [(text, ""), *((text[:at], text[at + 1 :]) for at, letter in enumerate(text) if letter == "#")]
    there = [split for split in splits if os.path.isfile(split[0])]
    return (there or [split for split in splits if split[0].endswith(SUFFIXES)] or splits)[0]


_FLOATS = "{} as little-endian float16, float32 or float64 (bfloat16: a .safetensors file)"


def pickled_tensors(op: str, path: str) -> dict[str, Tensor]:
    """The tensors of a dict that `torch.save` wrote, mapped where they can be; a tensor alone is called "tensor".

    Nothing but tensors and plain containers is read (weights_only): a file cannot run code.
    """
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # written before torch 1.6, or with the old format: it cannot be mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{op}: expected tensors that torch.save wrote; got {path}: {text}") from error
    found = {"tensor": found} if isinstance(found, Tensor) else found
    if not isinstance(found, dict):
        raise ValueError(  # noqa: TRY004 (of the file's contents, not of an argument)
            f"{op}: expected a tensor or a dict of tensors; got {type(found).__name__} in {path}"
        )
    return {str(name): value.detach() for name, value in found.items() if isinstance(value, Tensor)}


def _npz(op: str, name: str, path: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz file."""
    try:
        with np.load(path) as file:
            return {key: file[key] for key in file.files}
    except UNREADABLE as error:
        raise ValueError(
            f"{op}: expected {name} in a whole .npz file of plain arrays; got {path}: {error}"
        ) from error


def _npy(op: str, name: str, path: str, dim: int) -> tuple[Stretch, torch.dtype, tuple[int, ...], bool]:
    """Where the array of a .npy file lies, its dtype and shape, and whether it lies column by column."""
    read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            shape, fortran, dtype = read_header[min(version[0], 2)](file)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{op}: expected {name} as a .npy file; got {path}: {error}") from error
        begin, size = file.tell(), os.fstat(file.fileno()).st_size
    checks.expect(dtype.str in NPY_DTYPES, op, _FLOATS.format(name), f"{dtype.str} in {path}")
    checks.expect(min(shape, default=0) >= 0, op, f"{name} of a shape", f"{list(shape)} in {path}")
    checks.expect(len(shape) == dim, op, f"{name} with {dim} dimensions", f"{list(shape)} in {path}")
    needed = prod(shape) * dtype.itemsize
    checks.expect(
        size - begin >= needed, op, f"{needed} bytes of {name} in {path}", f"{size - begin}, a truncated file"
    )
    return Stretch(path, begin, needed), NPY_DTYPES[dtype.str], shape, fortran and dim == 2


def _chosen(op: str, name: str, path: str, wanted: str, dims: dict[str, int], dim: int) -> str:
    fitting = [wanted] if wanted in dims else [] if wanted else [k for k, d in dims.items() if d == dim]
    if len(fitting) != 1:
        what = f"a tensor named {wanted!r}" if wanted else f"one tensor of {dim} dimensions"
        raise ValueError(
            f"{op}: expected {what} for {name} in {path}; got {', '.join(sorted(dims)) or 'none'}. "
            f"Name one as {path}#name"
        )
    if dims[fitting[0]] != dim:
        raise ValueError(
            f"{op}: expected {name} with {dim} dimensions; got {dims[fitting[0]]} of {fitting[0]!r} in {path}"
        )
    return fitting[0]
