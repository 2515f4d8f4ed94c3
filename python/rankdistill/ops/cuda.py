"""The compiled CUDA module, or the reason that there is none, and how calls reach it."""

from __future__ import annotations

import importlib

import torch

from rankdistill.machine import CUDA_CURE
from rankdistill.ops.registration import Unavailable

try:
    _cuda = importlib.import_module("rankdistill._cuda")
except ModuleNotFoundError as error:
    if error.name != "rankdistill._cuda":
        raise
    _cuda = None

MISSING = Unavailable("no compiled CUDA module (rankdistill._cuda)", CUDA_CURE)


def cuda_or(functions: dict) -> dict | Unavailable:
    """`functions` where the CUDA module was built and its runtime finds a device it has code for, else why not."""
    if _cuda is None:
        return MISSING
    if torch.cuda.is_available() and (reason := _cuda.unusable()):
        return Unavailable(
            reason, "Update the driver, or reinstall with -C cmake.define.CMAKE_CUDA_ARCHITECTURES=…"
        )
    return functions


def current_stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def run(op: str, device: torch.device, *args) -> None:
    """Launches an op on a device's current stream, its last argument; a launch that fails is a RuntimeError."""
    with torch.cuda.device(device):
        error = getattr(_cuda, op)(*args, current_stream(device))
    if error:
        raise RuntimeError(f"{op}: expected a kernel launch on {device}; got {error}")
