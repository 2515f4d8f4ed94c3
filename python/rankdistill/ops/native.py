"""The compiled CPU module, or the reason that there is none, and how tensors reach it."""

from __future__ import annotations

import importlib

import torch

from rankdistill.machine import NATIVE_CURE
from rankdistill.ops.registration import Unavailable

try:
    _native = importlib.import_module("rankdistill._native")
except ModuleNotFoundError as error:
    if error.name != "rankdistill._native":
        raise
    _native = None

MISSING = Unavailable("no compiled CPU module (rankdistill._native)", NATIVE_CURE)

DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


def native_or(functions: dict) -> dict | Unavailable:
    """`functions` where the compiled module is there, else why it is not."""
    return functions if _native is not None else MISSING


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def contiguous(*tensors: torch.Tensor | None) -> list[torch.Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
