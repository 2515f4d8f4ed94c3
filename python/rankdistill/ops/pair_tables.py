"""Rows as the kernels over pairs take them: contiguous float64 (CPU) with zeros up to a width of whole vectors."""

from __future__ import annotations

import torch
from torch import Tensor

# Numbers in a vector of any instruction set, kernels/cpu/pair_tile.h.
DOUBLES, SINGLES = 8, 16

# Pairs of rows from which float32 products leave a sum within its budget (DESIGN.md, RE-3).
PAIRS_IN_SINGLE = 65536


def in_single(dtype: torch.dtype, n_pairs: int) -> bool:
    """Whether a sum over so many pairs of a student's rows takes its products in float32."""
    return dtype != torch.float64 and n_pairs >= PAIRS_IN_SINGLE


def padded(x: Tensor, multiple: int = DOUBLES) -> Tensor:
    """[B, D] as contiguous float64 [B, D'], D' the next multiple; x itself where it is that already."""
    x = x.double()
    missing = -x.shape[1] % multiple
    return torch.nn.functional.pad(x, (0, missing)) if missing else x.contiguous()


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows minus their mean, over the size of the largest coordinate, in float64; and that size [].

    Scales drop out where only quotients of distances count, and squares can then neither overflow nor vanish.
    """
    x = x.to(torch.float64, copy=True)
    if not x.numel():
        return x, x.new_ones(())
    x -= x.mean(0)
    largest = x.abs().amax()
    largest = torch.where(largest == 0, 1.0, largest)
    x /= largest
    return x, largest


def scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in float64 over the largest power of two that is no more than the largest coordinate; and that power [].

    Exact, so that the differences of near rows keep their digits.
    """
    x = x.double()
    if not x.numel():
        return x, x.new_ones(())
    largest = x.abs().amax()
    power = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1)
    power = torch.where((largest > 0) & largest.isfinite(), power, 1.0)
    return x / power, power
