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


def mapped(stretches: Sequence[Stretch]) -> Tensor:
    """The bytes of stretches after each other: uint8 [n]; each file must hold its stretch whole.

    Whole pages are mapped: they come from disk when they are first read, and count as the file's, not as the
    process's own. A stretch that does not lie in its file as it does here, relative to pages, is read into memory;
    a single one never is. Writing to the tensor leaves the files alone.
    """
    stretches = [s for s in stretches if s.size]
    if not stretches:
        return torch.empty(0, dtype=torch.uint8)
    lead = stretches[0].begin % PAGE
    length = lead + sum(s.size for s in stretches)
    start = _map(None, length, FLAGS | mmap.MAP_ANONYMOUS, -1, 0)
    view = (ctypes.c_ubyte * length).from_address(start)
    weakref.finalize(view, _libc.munmap, start, length).atexit = False
    bytes_here = memoryview(view)
    at = lead
    for i, (path, begin, size) in enumerate(stretches):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            margin = at % PAGE
            if begin % PAGE == margin and (margin == 0 or i == 0):
                _map(start + at - margin, size + margin, FLAGS | MAP_FIXED, file, begin - margin)
            else:
                _read(file, begin, bytes_here[at : at + size])
        finally:
            os.close(file)
        at += size
    return torch.frombuffer(view, dtype=torch.uint8)[lead:]


def _read(file: int, begin: int, target: memoryview) -> None:
    while len(target):
        count = os.preadv(file, [target[: 1 << 30]], begin)
        if count == 0:
            raise EOFError(f"mapped: expected {len(target)} more bytes; got the end of the file")
        target, begin = target[count:], begin + count


def drop_pages(values: Tensor) -> None:
    """Gives the whole pages under a mapped tensor back; they are read again when they are used again."""
    start = -(-values.data_ptr() // PAGE) * PAGE
    end = (values.data_ptr() + values.numel() * values.element_size()) // PAGE * PAGE
    if values.is_contiguous() and end > start:
        _libc.madvise(start, end - start, DONT_NEED)


def free_unused_pages() -> None:
    """Gives pages of freed memory back to the system, where the C library is glibc; O(memory in use), a millisecond.

    Its heaps keep much of what tensors of a megabyte held and do not find it again for the next (aligned) one: they
    grow by some 6 MB a call of 2048 users and K = 100, up to 60 MB.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _map(at: int | None, length: int, flags: int, file: int, offset: int) -> int:
    address = _libc.mmap(at, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, offset)
    if address in (None, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        raise OSError(code, f"mmap of {length} bytes: {os.strerror(code)}")
    return address
