"""Memory of this process, as the system tells it. Imports no torch."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

RESET = "5"  # of /proc/self/clear_refs: the peak begins anew


def resident(what: str = "VmRSS") -> int:
    """Bytes now, or with "VmHWM" at the peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


def reset_peak() -> int | None:
    """Lets the peak begin anew, free memory given back; the bytes that stand now, or None where the system does not tell."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text(RESET, encoding="utf-8")
        return resident()
    except OSError:
        return None


def peak_since(before: int) -> int:
    """Bytes at the peak since `reset_peak`, beside those that stood then."""
    return max(0, resident("VmHWM") - before)
