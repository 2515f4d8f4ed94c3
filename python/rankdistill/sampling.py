"""The draws of training, by name: which stream each uses, and how its counters are laid out.

Every draw is Philox4x32-10 at (user, position, epoch, stream): it depends on the seed and on these alone, so
neither batches, threads nor devices change it (kernels/random.h has the words).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.ops import complement_sample

STREAMS = {
    "negatives": 1,
    "interesting": 2,
    "uninteresting": 3,
    "user_experts": 16,
    "item_experts": 17,
    "consistency": 18,
}


def within_row_positions(rows: Tensor) -> Tensor:
    """How many earlier entries share each entry's row: [n] int64, in the order given.

    Args:
        rows: [n] int64.

    Cost:
        O(n log n) time, O(n) memory.

    Example:
        >>> within_row_positions(torch.tensor([4, 7, 4, 4]))
        tensor([0, 0, 1, 2])
    """
    order = torch.argsort(rows, stable=True)
    ordered = rows[order]
    index = torch.arange(len(rows), device=rows.device)
    starts = torch.where(
        torch.cat([ordered.new_ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]]), index, 0
    )
    positions = torch.empty_like(rows)
    positions[order] = index - torch.cummax(starts, 0).values if len(rows) else index
    return positions


def sample_negatives(
    users: Tensor, positions: Tensor, exclude: CSR, n_negatives: int = 1, *, seed: int, epoch: int
) -> Tensor:
    """Items drawn uniformly from those that each interaction's user has not in `exclude`.

    Args:
        users: [n] int64, the user of each interaction, a row of `exclude`.
        positions: [n] int64, its position among the user's interactions (`within_row_positions`).
        exclude: the train items of every user.
        n_negatives: draws per interaction, without replacement among themselves.
        seed, epoch: name the draw.

    Returns:
        items [n, n_negatives] int64; -1 where a user has every item.

    Cost:
        O(n·n_negatives·log(train items)) time, no memory besides the output.
    """
    return complement_sample(
        users, exclude.n_columns, n_negatives, exclude,
        positions=positions * n_negatives, seed=seed, epoch=epoch, stream=STREAMS["negatives"],
    )  # fmt: skip
