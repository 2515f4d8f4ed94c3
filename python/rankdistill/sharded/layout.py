"""Which rank owns which rows of a table: contiguous blocks, after each other in the order of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

DRAWN = 1 << 20  # normal numbers at a time, a multiple of torch's blocks of 16


@dataclass(frozen=True)
class Layout:
    """Rank r owns the rows from starts[r] to starts[r + 1]; blocks may differ in length and may be empty.

    Args:
        starts: W + 1 numbers that never fall, from 0 to N.

    Raises:
        ValueError: fewer than two, another first one, one that falls.

    Example:
        >>> Layout.even(10, 4).starts
        (0, 2, 5, 7, 10)
    """

    starts: tuple[int, ...]

    def __post_init__(self) -> None:
        starts = self.starts
        falls = any(a > b for a, b in pairwise(starts))
        if len(starts) < 2 or starts[0] != 0 or falls:
            raise ValueError(f"Layout: expected starts from 0 on that never fall, two or more; got {starts}")

    @classmethod
    def even(cls, n_rows: int, ranks: int) -> Layout:
        """Blocks whose lengths differ by one row at most."""
        return cls(tuple(n_rows * rank // ranks for rank in range(ranks + 1)))

    @property
    def n_rows(self) -> int:
        return self.starts[-1]

    @property
    def ranks(self) -> int:
        return len(self.starts) - 1

    def rows(self, rank: int) -> range:
        """The ids that a rank owns."""
        return range(self.starts[rank], self.starts[rank + 1])

    def owners(self, ids: Tensor) -> Tensor:
        """The rank that owns each of ids, int64 in [0, N), in their shape."""
        ends = torch.tensor(self.starts[1:], device=ids.device)
        return torch.searchsorted(ends, ids, right=True).clamp_(max=self.ranks - 1)

    def within(self, ids: Tensor, owners: Tensor) -> Tensor:
        """Each id's position in its owner's block, int32 where that holds all positions: what is sent."""
        longest = max(b - a for a, b in pairwise(self.starts))
        positions = ids - torch.tensor(self.starts, device=ids.device)[owners]
        return positions.to(torch.int32) if longest < 2**31 else positions


def normal_rows(n_rows: int, width: int, rows: range, generator: torch.Generator, std: float) -> Tensor:
    """`torch.randn(n_rows, width, generator=generator)[rows] * std` bit for bit, without the whole table.

    O(n_rows·width) time, O(len(rows)·width) memory and 8 MiB. The generator ends as if it had drawn the whole.
    """
    out = torch.empty(len(rows) * width)
    first, total, begin = rows.start * width, n_rows * width, 0
    while begin < total:
        # torch fills blocks of 16 in turn and draws the last 16 again where they are no block: pieces give the same
        # numbers where all but the last are whole blocks and the last is no shorter.
        end = total if total - begin < 2 * DRAWN else begin + DRAWN
        drawn = torch.randn(end - begin, generator=generator)
        low, high = max(begin, first), min(end, first + len(out))
        if low < high:
            out[low - first : high - first] = drawn[low - begin : high - begin]
        begin = end
    return out.mul_(std).view(len(rows), width)
