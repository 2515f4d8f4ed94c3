"""What this machine has and this build lacks, as far as they say without torch."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

NATIVE_CURE = "Reinstall with g++ 12 or later (CXX): pip install ."
CUDA_CURE = "Reinstall where nvcc is found: RANKDISTILL_CUDA=ON says why not."


def processor_name() -> str:
    """As /proc/cpuinfo has it, or the platform."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "cpu model"):
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def cuda_driver() -> str:
    """NVIDIA's driver and the newest CUDA that it serves; empty where there is none."""
    try:
        version = Path("/sys/module/nvidia/version").read_text(encoding="ascii").strip()
    except OSError:
        version = ""
    number = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        failed = True
    served = "" if failed else f"CUDA {number.value // 1000}.{number.value % 1000 // 10} or older"
    return ", for ".join(filter(None, (version, served)))
