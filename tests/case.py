"""What a case is: sample inputs, bad inputs, the float64 oracle and the error budget of one op; and how samples are made."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

import rankdistill

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Sample:
    """Arguments of an op's public function."""

    name: str
    args: tuple
    kwargs: dict = field(default_factory=dict)


@dataclass(frozen=True)
class BadSample:
    name: str
    args: tuple
    error: type[Exception]
    match: str
    kwargs: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What the property tests need to know of an op.

    `oracle(*args, **kwargs)` gets the sample's arguments with float tensors widened to float64 and returns what
    the op should, in float64. `budget(dtype, expected, *args, **kwargs)` gives the largest absolute error per
    entry of each float output; `grad_budget(dtype, expected_grad)` that of a gradient. `overload_calls(args,
    kwargs)` yields every overload of the op with arguments that the public function would pass to it.
    """

    op: str
    samples: Callable[[torch.dtype], Iterator[Sample]]
    bad_samples: Callable[[], Iterator[BadSample]]
    oracle: Callable
    budget: Callable[..., tuple]
    overload_calls: Callable[..., Iterator[tuple[str, tuple]]]
    differentiable: tuple[int, ...] = ()
    backend_tolerance: dict = field(default_factory=lambda: {"rtol": 1e-5, "atol": 1e-5})
    grad_budget: Callable[[torch.dtype, Tensor], Tensor] | None = None
    dtypes: tuple[torch.dtype, ...] = DTYPES
    # The dictionaries of backend functions in the op's module that a CPU can run; the first serves it.
    backends: tuple[str, ...] = ("NATIVE", "REFERENCE")

    @property
    def module(self):
        return importlib.import_module(f"rankdistill.ops.{self.op}")

    @property
    def function(self) -> Callable:
        return getattr(rankdistill, self.op)

    def outputs(self, *args, **kwargs) -> tuple[Tensor, ...]:
        result = self.function(*args, **kwargs)
        return result if isinstance(result, tuple) else (result,)

    def expected(self, *args, **kwargs) -> tuple[Tensor, ...]:
        return self.expected_with_grad([widened(a) for a in args], {k: widened(v) for k, v in kwargs.items()})

    def expected_with_grad(self, args, kwargs) -> tuple[Tensor, ...]:
        result = self.oracle(*args, **kwargs)
        return result if isinstance(result, tuple) else (result,)


def widened(value):
    return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=generator(seed), dtype=torch.float64) * scale).to(dtype)


def randint(low: int, high: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=generator(seed))


def unit(dtype: torch.dtype, fp32: float, fp64: float) -> float:
    """The budget of a quantity whose accumulator is fp64 for fp64 storage and fp32 otherwise."""
    return fp64 if dtype == torch.float64 else fp32


def storage_rounding(dtype: torch.dtype) -> float:
    """One rounding of a gradient to its input's dtype, relative."""
    return torch.finfo(dtype).eps / 2 if dtype in (torch.float16, torch.bfloat16) else 0.0
