"""Philox4x32-10 and the stated logarithm in plain torch: the same bits as kernels/random.h, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
ROUND_CONSTANTS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def multiply(word: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of word · constant, without overflowing int64."""
    low_part, high_part = word * (constant & 0xFFFF), word * (constant >> 16)
    return (high_part + (low_part >> 16)) >> 16, (word * constant) & WORD


def philox4x32_10(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, ...]:
    """Four words of 32 bits (int64 tensors) for broadcastable counter words."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & WORD, (seed >> 32) & WORD
    for _ in range(10):
        high0, low0 = multiply(c0, ROUND_CONSTANTS[0])
        high1, low1 = multiply(c2, ROUND_CONSTANTS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def words(
    users: Tensor, positions: Tensor, epoch: Tensor | int, stream: int, blocks: Tensor | int, seed: int
) -> Tensor:
    """[..., 4] words of each counter (user, position, epoch, stream and block)."""
    device = users.device
    blocks = torch.as_tensor(blocks, device=device)
    epochs = torch.as_tensor(epoch, device=device) & WORD
    return torch.stack(
        philox4x32_10((users & WORD, positions & WORD, epochs, blocks | (stream << 24)), seed), dim=-1
    )


def stated_log(x: Tensor) -> Tensor:
    """log of a positive normal float64: exponent·ln 2 + 2·atanh((m − 1)/(m + 1)) by an 11-term series."""
    bits = x.view(torch.int64)
    shifted = bits - 0x3FE6A09E667F3BCD  # √½
    exponent = shifted >> 52
    m = (bits - ((shifted >> 52) << 52)).view(torch.float64)
    s = (m - 1.0) / (m + 1.0)
    t = s * s
    series = torch.full_like(x, 1.0 / 21.0)
    for odd in range(19, 0, -2):
        series = series * t + 1.0 / odd
    return exponent.double() * math.log(2) + (2.0 * s) * series


def gumbel(word: Tensor) -> Tensor:
    return -stated_log(-stated_log((word.double() + 0.5) * 2.0**-32))


def exponential(word: Tensor) -> Tensor:
    """A standard exponential variate."""
    return -stated_log((word.double() + 0.5) * 2.0**-32)


def bounded(word: Tensor, bound: Tensor | int) -> Tensor:
    """Lemire's uniform in [0, bound), or -1 where the word must be thrown away."""
    bound = torch.as_tensor(bound, device=word.device)
    low_part, high_part = word * (bound & 0xFFFF), word * (bound >> 16)
    high, low = (high_part + (low_part >> 16)) >> 16, (word * bound) & WORD
    return torch.where(low < (2**32 - bound) % bound.clamp_min(1), -1, high)
