"""How an op meets torch's dispatcher: one library, one choice of backend per op and device, made at import.

`RANKDISTILL_BACKEND` (native, triton or reference; read once) forces the choice for every op that has such a
backend on that device.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import torch

LIBRARY = torch.library.Library("rankdistill", "DEF")
BACKENDS = ("native", "triton", "reference")


class Unavailable(NamedTuple):
    """A backend that an op has, but that cannot serve here: why, and what would cure it."""

    reason: str
    cure: str


class Choice(NamedTuple):
    """Which backend serves an op on a device, and why the better ones do not."""

    backend: str
    passed_over: dict[str, Unavailable]


CHOICES: dict[tuple[str, str], Choice] = {}


def forced_backend() -> str | None:
    forced = os.environ.get("RANKDISTILL_BACKEND", "") or None
    if forced is not None and forced not in BACKENDS:
        raise ValueError(f"RANKDISTILL_BACKEND: expected one of {', '.join(BACKENDS)}; got {forced!r}")
    return forced


FORCED = forced_backend()


def choose(op: str, device: str, candidates: dict[str, Callable | Unavailable]) -> tuple[str, Callable]:
    """The forced one of `candidates` (best first), else the first that is available."""
    if FORCED in candidates:
        candidate = candidates[FORCED]
        if not isinstance(candidate, Unavailable):
            return FORCED, candidate
        # What no device here could run is not asked for.
        if device != "CUDA" or torch.cuda.is_available():
            raise RuntimeError(
                f"{op}: expected the {FORCED} backend on {device}, forced by RANKDISTILL_BACKEND; "
                f"got {candidate.reason}. {candidate.cure}"
            )
    return next((name, c) for name, c in candidates.items() if not isinstance(c, Unavailable))


def implement(op: str, device: str, candidates: dict[str, dict[str, Callable] | Unavailable]) -> None:
    """Registers one backend for `device` ("CPU" or "CUDA").

    Each candidate maps schema names (such as "forward" and "backward"; "" for an op of one schema) to
    functions with exactly that schema's signature.
    """
    name, functions = choose(op, device, candidates)
    passed_over = {}
    for better, candidate in candidates.items():
        if better == name:
            break
        passed_over[better] = (
            candidate
            if isinstance(candidate, Unavailable)
            else Unavailable(f"RANKDISTILL_BACKEND={FORCED}", "Unset it.")
        )
    CHOICES[op, device] = Choice(name, passed_over)
    for suffix, function in functions.items():
        LIBRARY.impl(f"{op}_{suffix}" if suffix else op, in_full_precision(function, device.lower()), device)


def in_full_precision(function: Callable, device: str) -> Callable:
    """The same function with autocast off: an op accumulates as its contract says, whatever its caller asks of torch."""

    @functools.wraps(function)
    def run(*args, **options):
        if not torch.is_autocast_enabled(device):
            return function(*args, **options)
        with torch.autocast(device, enabled=False):
            return function(*args, **options)

    return run


def no_double_backward(op: str) -> Callable:
    """An autograd formula for a backward op: a clear error instead of a silent zero."""

    def backward(ctx, *grads):
        raise NotImplementedError(
            f"{op}: expected a first derivative; got a request for a second, which it has not"
        )

    return backward


def not_differentiable(op: str, output: str) -> Callable:
    def backward(ctx, *grads):
        raise RuntimeError(
            f"{op}: expected no gradient through {output}; got a backward call. {output} are not differentiable"
        )

    return backward
