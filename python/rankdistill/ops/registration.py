"""How an op meets torch's dispatcher: one library, one choice of backend per op and device, made at import.

`RANKDISTILL_BACKEND` (native, triton or reference; read once) forces the choice for every op that has such a
backend on that device.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import _C  # dispatch keys have no public reader
from torch.overrides import has_torch_function

LIBRARY = torch.library.Library("rankdistill", "DEF")
BACKENDS = ("native", "triton", "reference")
# Tags of an op that reads something back from a device: no CUDA graph may hold it.
WAITS = (torch.Tag.cudagraph_unsafe,)


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
        schema, function = f"{op}_{suffix}" if suffix else op, in_full_precision(function, device.lower())
        LIBRARY.impl(schema, function, device)
        if DIRECT:
            shortcut(schema).functions[plain_keys(device)] = function


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


@dataclass
class Shortcut:
    """What `call` knows of a schema: the types of its arguments, and its functions by a plain tensor's dispatch keys."""

    kinds: list[type | None]
    functions: dict[int, Callable] = field(default_factory=dict)
    formula: type[torch.autograd.Function] | None = None


SHORTCUTS: dict[str, Shortcut] = {}
KINDS = {
    "Tensor": torch.Tensor,
    "Optional[Tensor]": torch.Tensor,
    "bool": bool,
    "int": int,
    "SymInt": int,
    "float": float,
    "str": str,
}


def shortcut(schema: str) -> Shortcut:
    if schema not in SHORTCUTS:
        arguments = getattr(torch.ops.rankdistill, schema).default._schema.arguments
        SHORTCUTS[schema] = Shortcut([KINDS.get(str(a.type)) for a in arguments])
    return SHORTCUTS[schema]


# What `call` looks at. Of a torch that has them no longer, every call goes by the dispatcher.
PRIVATE = (
    "DispatchKey", "DispatchKeySet", "_AutoDispatchBelowAutograd", "_dispatch_keys",
    "_dispatch_tls_is_dispatch_key_excluded", "_dispatch_tls_local_include_set",
)  # fmt: skip


def may_be_direct() -> bool:
    return all(hasattr(_C, name) for name in PRIVATE) and hasattr(torch.autograd, "_profiler_enabled")


DIRECT = may_be_direct()


def key_set(*keys: str) -> int:
    sets = [_C.DispatchKeySet(getattr(_C.DispatchKey, key)) for key in keys]
    return functools.reduce(operator.or_, sets).raw_repr()


def plain_keys(device: str) -> int:
    """The keys of a dense tensor: none of a lazy conjugate or zero, of a fake tensor, or of inference."""
    return key_set(device, f"Autograd{device}", f"Autocast{device}", "ADInplaceOrView")


# What a thread includes where no mode is active.
NOBODY = key_set("BackendSelect", "ADInplaceOrView") if DIRECT else None


def within_transform() -> bool:
    """Whether torch.func's transforms are at work; of a torch that does not say, it may be."""
    if torch.compiler.is_compiling():
        return False
    innermost = getattr(getattr(_C, "_functorch", None), "peek_interpreter_stack", None)
    return innermost is None or innermost() is not None


def asks_gradients(*tensors: torch.Tensor | None) -> bool:
    """Whether a backward may come: what is asked within torch.func's transforms, a tensor there does not tell."""
    if not torch.is_grad_enabled():
        return False
    return within_transform() or any(t is not None and t.requires_grad for t in tensors)


def call(schema: str, *args):
    """torch.ops.rankdistill.<schema>(*args), straight from its function where nobody could tell (DESIGN.md DC-1)."""
    if not DIRECT or torch.compiler.is_compiling():
        return getattr(torch.ops.rankdistill, schema)(*args)
    known = SHORTCUTS[schema]
    function, wants_grad = plain(known, args)
    if function is None or (wants_grad and known.formula is None):
        return getattr(torch.ops.rankdistill, schema)(*args)
    if wants_grad:
        return known.formula.apply(*args, function)
    with _C._AutoDispatchBelowAutograd():
        return function(*args)


def plain(known: Shortcut, args: tuple) -> tuple[Callable | None, bool]:
    """The function that the dispatcher would end at with nothing before it but autograd, or None; and if that asks it."""
    if (
        _C._dispatch_tls_local_include_set().raw_repr() != NOBODY
        or _C._dispatch_tls_is_dispatch_key_excluded(_C.DispatchKey.AutogradOther)
        or has_torch_function(args)
        or torch.autograd._profiler_enabled()
    ):
        return None, False
    keys, wants_grad = None, False
    for value, kind in zip(args, known.kinds, strict=True):
        if kind is not torch.Tensor:
            if type(value) is not kind:
                return None, False
        elif value is not None:
            keys_of_value = _C._dispatch_keys(value).raw_repr()
            if keys is not None and keys_of_value != keys:
                return None, False
            keys, wants_grad = keys_of_value, wants_grad or value.requires_grad
    return known.functions.get(keys), wants_grad and torch.is_grad_enabled()


def differentiate(schema: str, backward: Callable, setup: Callable) -> None:
    """Registers the derivative of a schema, for the dispatcher and for `call`."""
    torch.library.register_autograd(f"rankdistill::{schema}", backward, setup_context=setup, lib=LIBRARY)

    class Formula(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            *inputs, function = inputs
            with _C._AutoDispatchBelowAutograd():
                output = function(*inputs)
                setup(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            return *backward(ctx, *grads), None

    shortcut(schema).formula = Formula
