"""Numbers below 1.2e-38, which some processors work with fifty times more slowly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rankdistill.ops.native import _native

DENORMAL = 1e-40


def flushes() -> bool:
    """Whether the calling thread takes denormal numbers as 0."""
    return (torch.tensor([DENORMAL]) * 1.0).item() == 0


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """In here torch's operations on the processor take denormal numbers as 0, on x86 in all its threads, elsewhere in the caller's.

    Weight decay drives the weights of units that have died, as many of a network's do, through 1e-38; where 2 % of a matrix are
    denormal, an Intel Xeon multiplied it fifty times more slowly. `Trainer` does this around every epoch; in a loop of
    your own put your epochs in it, or call torch.set_flush_denormal(True) before anything else. The compiled kernels of
    this package set their own arithmetic: their results are the same.

    Example:
        >>> tiny = torch.tensor([1e-40])
        >>> with flushed_denormals():
        ...     (tiny * 1.0).item()
        0.0
        >>> (tiny * 1.0).item() > 0
        True
    """
    if flushes() or not torch.set_flush_denormal(True):
        yield
        return
    try:
        if _native is not None:
            _native.flush_denormals(True)
        yield
    finally:
        torch.set_flush_denormal(False)
        if _native is not None:
            _native.flush_denormals(False)
