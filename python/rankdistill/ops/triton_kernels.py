"""How ops reach their Triton kernels: imported at the first call, so that a machine without CUDA never pays for it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable

import torch

from rankdistill.ops.registration import Unavailable

MISSING = Unavailable("no triton package", "Install it: pip install 'rankdistill[triton]'")


def triton_or(op: str, *suffixes: str) -> dict[str, Callable] | Unavailable:
    """The launchers `<op>_<suffix>` of rankdistill.kernels.triton.<op> by suffix ("": `<op>`), or why there are none."""
    if importlib.util.find_spec("triton") is None:
        return MISSING

    def launcher(suffix: str) -> Callable:
        @functools.cache
        def function() -> Callable:
            module = importlib.import_module(f"rankdistill.kernels.triton.{op}")
            return getattr(module, f"{op}_{suffix}" if suffix else op)

        def launch(*args):
            with torch.cuda.device_of(args[0]):  # Triton launches on the current device
                return function()(*args)

        return launch

    return {suffix: launcher(suffix) for suffix in suffixes}
