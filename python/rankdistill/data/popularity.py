"""Groups of items of like popularity."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PopularityGroups(NamedTuple):
    """Items by popularity, as `popularity_groups` makes them.

    Args:
        group_of_item: [N] int64 in [0, G), 0 for the most popular; -1 for items without interactions.
        shares: [G] float64, larger for less popular groups.

    Example:
        >>> PopularityGroups(torch.tensor([0, 1]), torch.tensor([0.25, 0.75])).pairs(8, exponent=1.0)
        [2, 6]
    """

    group_of_item: Tensor
    shares: Tensor

    def pairs(self, total: int, exponent: float = 0.0) -> list[int]:
        """How many of about `total` pairs each group gets: in proportion to shares^exponent, rounded group by group."""
        weights = self.shares**exponent
        return (total * weights / weights.sum()).round().long().tolist()


def popularity_groups(counts: Tensor, n_groups: int) -> PopularityGroups:
    """Splits items by popularity into groups of about the same number of interactions.

    The most popular items fill the first group until the next one would pass total/n_groups interactions, which then
    opens the second, and so on; what is left at the end joins the last group if it is at most half of a group's.

    Args:
        counts: [N] int64, train interactions of each item; equal counts stand in order of id.
        n_groups: how many to aim at; skewed counts may give fewer, or one more.

    Returns:
        PopularityGroups. A group's share is (largest + smallest mean count − its own) over the sum of these, rounded to
        two decimals, at least 0.1.

    Raises:
        ValueError: counts that are no integers, or all 0; n_groups below 1.

    Source:
        Chen et al., UnKD, WSDM 2023, section 4.1, and its released code.

    Example:
        >>> popularity_groups(torch.tensor([1, 6, 0, 2, 3]), 2).group_of_item
        tensor([ 1,  0, -1,  1,  1])
    """
    if counts.dim() != 1 or counts.dtype.is_floating_point:
        raise ValueError(
            f"popularity_groups: expected counts [N] of integers; got {counts.dtype} {list(counts.shape)}"
        )
    if n_groups < 1:
        raise ValueError(f"popularity_groups: expected n_groups of 1 or more; got {n_groups}")
    if not bool((counts > 0).any()):
        raise ValueError(
            f"popularity_groups: expected an item with interactions; got none among {len(counts)}"
        )
    order = counts.argsort(descending=True, stable=True)
    order = order[counts[order] > 0].tolist()
    numbers, total = counts.tolist(), int(counts.sum())
    members: list[list[int]] = [[]]
    mass = 0
    for item in order:
        if members[-1] and mass + numbers[item] > total / n_groups:
            members.append([])
            mass = 0
        members[-1].append(item)
        mass += numbers[item]
    if len(members) > 1 and mass <= total / (2 * n_groups):
        last = members.pop()
        members[-1] += last
    group_of_item = torch.full((len(counts),), -1)
    for group, items in enumerate(members):
        group_of_item[items] = group
    means = torch.tensor(
        [sum(numbers[i] for i in items) / max(len(items), 1) for items in members], dtype=torch.float64
    )
    mirrored = means.max() + means.min() - means
    shares = (mirrored / mirrored.sum()).round(decimals=2).clamp_min(0.1)
    return PopularityGroups(group_of_item, shares)
