"""Stretches of files as one tensor, read from disk as they are used."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE
MAP_FIXED = 0x10
# A private mapping may be written and never reaches the file; without a reservation it may exceed the memory.
FLAGS = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
DONT_NEED = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
)  # fmt: skip
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Stretch(NamedTuple):
    """Bytes [begin, begin + size) of a file."""

    path: str
    begin: int
    size: int


def can_be_joined(stretches: Sequence[Stretch], page: int = PAGE) -> bool:
    """Whether whole pages of the files follow each other, so that `mapped` can join them without a copy."""
    whole = all(s.begin % page == 0 for s in stretches) and all(s.size % page == 0 for s in stretches[:-1])
    return len(stretches) <= 1 or whole


def mapped(stretches: Sequence[Stretch]) -> Tensor:
    """The bytes of one or more stretches after each other: uint8 [n], mapped.

    Several must be such that `can_be_joined`; each file must hold its stretch whole. Pages come from disk when they
    are first read and count as the file's, not as the process's own. Writing to the tensor leaves the file alone.
    """
    stretches = [s for s in stretches if s.size]
    if not stretches:
        return torch.empty(0, dtype=torch.uint8)
    lead = stretches[0].begin % PAGE
    length = lead + sum(s.size for s in stretches)
    start = _map(None, length, mmap.PROT_NONE, FLAGS | mmap.MAP_ANONYMOUS, -1, 0)
    at = start
    try:
        for i, (path, begin, size) in enumerate(stretches):
            margin = lead if i == 0 else 0
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _map(at, size + margin, READ_WRITE, FLAGS | MAP_FIXED, file, begin - margin)
            finally:
                os.close(file)
            at += size + margin
    except BaseException:
        _libc.munmap(start, length)
        raise
    view = (ctypes.c_ubyte * (length - lead)).from_address(start + lead)
    weakref.finalize(view, _libc.munmap, start, length).atexit = False
    return torch.frombuffer(view, dtype=torch.uint8)


def drop_pages(values: Tensor) -> None:
    """Gives the whole pages under a mapped tensor back; they are read again when they are used again."""
    start = -(-values.data_ptr() // PAGE) * PAGE
    end = (values.data_ptr() + values.numel() * values.element_size()) // PAGE * PAGE
    if values.is_contiguous() and end > start:
        _libc.madvise(start, end - start, DONT_NEED)


def _map(at: int | None, length: int, protection: int, flags: int, file: int, offset: int) -> int:
    address = _libc.mmap(at, length, protection, flags, file, offset)
    if address in (None, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise OSError(code, f"mmap of {length} bytes: {os.strerror(code)}")
    return address
