"""Pairs of positions of a ranked list, the better first: two draws, or two different ones in proportion to w_i·w_j."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference import philox


class DrawWords:
    """The words of many draws [n], each at its own place in its sequence."""

    def __init__(self, users: Tensor, positions: Tensor, epoch: int, stream: int, seed: int) -> None:
        self.counter, self.draw = (users, positions), (epoch, stream, seed)
        self.used = torch.zeros_like(users)

    def next(self, rows: Tensor) -> Tensor:
        user, position = (part[rows] for part in self.counter)
        epoch, stream, seed = self.draw
        used = self.used[rows]
        self.used[rows] += 1
        blocks = philox.words(user, position, epoch, stream, used >> 2, seed)
        return blocks.gather(-1, (used & 3)[:, None])[:, 0]


def cut(scale: float, word: Tensor) -> Tensor:
    """⌊scale·E⌋ of a standard exponential variate E."""
    return (scale * philox.exponential(word)).clamp(max=2.0**40).long()


def draw_positions(words: DrawWords, lengths: Tensor, temperature: float) -> Tensor:
    drawn = torch.full_like(lengths, -1)
    short = temperature < lengths
    pending = torch.arange(len(lengths), device=lengths.device)
    while len(pending):
        word, bound = words.next(pending), lengths[pending]
        position = torch.where(short[pending], cut(temperature, word), philox.bounded(word, bound))
        kept = short[pending] & (position < bound)
        uniform = ~short[pending] & (position >= 0)
        accepted = temperature * philox.exponential(words.next(pending[uniform])) > position[uniform]
        kept[uniform] = accepted
        drawn[pending[kept]] = position[kept]
        pending = pending[~kept]
    return drawn


def draw_pairs(words: DrawWords, lengths: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Two different positions each; short temperatures draw the better one and the distance between them."""
    better, worse = torch.full_like(lengths, -1), torch.full_like(lengths, -1)
    short = temperature < lengths
    pending = torch.arange(len(lengths), device=lengths.device)
    while len(pending):
        first, second, bound = words.next(pending), words.next(pending), lengths[pending]
        a, b = philox.bounded(first, bound), philox.bounded(second, bound - 1)
        uniform = ~short[pending] & (a >= 0) & (b >= 0)
        b = b + (b >= a)
        a = torch.where(short[pending], cut(0.5 * temperature, first), a)
        b = torch.where(short[pending], a + 1 + cut(temperature, second), b)
        kept = short[pending] & (b < bound)
        kept[uniform] = temperature * philox.exponential(words.next(pending[uniform])) > (a + b)[uniform]
        better[pending[kept]], worse[pending[kept]] = torch.minimum(a, b)[kept], torch.maximum(a, b)[kept]
        pending = pending[~kept]
    return better, worse


def pair_sample(
    users: Tensor, positions: Tensor | None, lengths: Tensor, n_samples: int, temperature: float, distinct: bool,
    seed: int, epoch: int, stream: int,
) -> Tensor:  # fmt: skip
    R = users.shape[0]
    pairs = torch.full((R * n_samples, 2), -1, dtype=torch.int64, device=users.device)
    known = (lengths >= (2 if distinct else 1)) & (lengths < 2**31)
    drawn = known.repeat_interleave(n_samples)
    firsts = torch.zeros_like(users) if positions is None else positions
    counters = (firsts[:, None] + torch.arange(n_samples, device=users.device)).flatten()[drawn]
    words = DrawWords(users.repeat_interleave(n_samples)[drawn], counters, epoch, stream, seed)
    lengths = lengths.repeat_interleave(n_samples)[drawn]
    if distinct:
        a, b = draw_pairs(words, lengths, temperature)
    else:
        a, b = (draw_positions(words, lengths, temperature) for _ in range(2))
    pairs[drawn] = torch.stack([torch.minimum(a, b), torch.maximum(a, b)], dim=1)
    return pairs.view(R, n_samples, 2)
