"""Splits of interactions into train, valid and test. All drop repeated pairs first (`Interactions.unique`), draw from
a generator of their own, and do not depend on the order of the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rankdistill.data.interactions import Interactions

Parts = tuple[Interactions, Interactions, Interactions]
SPLITS = ("random", "leave_one_out", "leave_last_out", "temporal", "temporal_global", "none")


def leave_one_out(interactions: Interactions, by: str = "random", seed: int = 0) -> Parts:
    """One valid and one test item for every user with at least 3 interactions; everything else is train.

    Args:
        interactions: n rows.
        by: "random" draws the two; "time" takes the latest for test and the one before for valid. Equal timestamps
            are ordered at random, since item ids and file order may carry information.
        seed: of the draw.

    Returns:
        (train, valid, test).

    Raises:
        ValueError: another `by`; "time" without timestamps.

    Cost:
        O(n log n).

    Example:
        >>> rows = Interactions(torch.tensor([0, 0, 0]), torch.tensor([2, 0, 1]), 1, 3, timestamps=torch.tensor([5, 7, 6]))
        >>> [part.items.tolist() for part in leave_one_out(rows, by="time")]
        [[2], [1], [0]]
    """
    if by not in ("random", "time"):
        raise ValueError(f"leave_one_out: expected by as 'random' or 'time'; got {by!r}")
    if by == "time":
        _expect_timestamps("leave_one_out", interactions)
    interactions, order, rank, count = _ranked(interactions, by == "time", seed)
    held_out = count >= 3
    test = held_out & (rank == count - 1)
    valid = held_out & (rank == count - 2)
    return _parts(interactions, order, valid, test)


def random_split(
    interactions: Interactions, ratios: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> Parts:
    """Each user's interactions at random, in the ratios train : valid : test.

    A user with c interactions gives round(c · ratio) to test and to valid, but keeps at least one in train.

    Args:
        interactions: n rows.
        ratios: three numbers >= 0 that sum to 1, the first > 0.
        seed: of the draw.

    Returns:
        (train, valid, test).

    Raises:
        ValueError: ratios of another number, below 0 or of another sum, none for train.

    Cost:
        O(n log n).

    Example:
        >>> rows = Interactions(torch.tensor([0, 0, 0]), torch.tensor([2, 0, 1]), 1, 3)
        >>> [len(part) for part in random_split(rows, (0.4, 0.3, 0.3))]
        [1, 1, 1]
    """
    _expect_ratios("random_split", ratios)
    return _by_ratio(*_ranked(interactions, False, seed), ratios)


def temporal_split(
    interactions: Interactions, ratios: Sequence[float] = (0.8, 0.1, 0.1), per: str = "user", seed: int = 0
) -> Parts:
    """The earliest interactions for train, the next for valid, the latest for test.

    Args:
        interactions: n rows with timestamps.
        ratios: three numbers >= 0 that sum to 1, the first > 0.
        per: "user" cuts every user's own history, with the rounding of `random_split`; equal timestamps are ordered
            at random. "global" cuts at two points in time for all users, so that nothing in train is later than
            anything in test; equal timestamps stay together, in the later part.
        seed: of the order of equal timestamps.

    Returns:
        (train, valid, test).

    Raises:
        ValueError: interactions without timestamps, another `per`; ratios as for `random_split`.

    Cost:
        O(n log n).

    Example:
        >>> rows = Interactions(torch.tensor([0, 0, 0]), torch.tensor([2, 0, 1]), 1, 3, timestamps=torch.tensor([5, 7, 6]))
        >>> [part.items.tolist() for part in temporal_split(rows, (0.7, 0.0, 0.3))]
        [[1, 2], [], [0]]
    """
    _expect_ratios("temporal_split", ratios)
    _expect_timestamps("temporal_split", interactions)
    if per == "user":
        return _by_ratio(*_ranked(interactions, True, seed), ratios)
    if per != "global":
        raise ValueError(f"temporal_split: expected per as 'user' or 'global'; got {per!r}")
    interactions = interactions.unique()
    times, n = interactions.timestamps, len(interactions)
    ordered = times.sort().values
    first, second = round(n * ratios[0]), round(n * (ratios[0] + ratios[1]))
    late = times >= ordered[first] if first < n else torch.zeros(n, dtype=torch.bool)
    test = times >= ordered[second] if second < n else torch.zeros(n, dtype=torch.bool)
    return interactions.select(~late), interactions.select(late & ~test), interactions.select(test)


def split_interactions(
    interactions: Interactions,
    split: str = "random",
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Parts:
    """The split of that name.

    Args:
        interactions: n rows.
        split: "random", "leave_one_out", "leave_last_out" (by time), "temporal" (per user), "temporal_global" or
            "none" (everything is train).
        ratios: train, valid and test, for "random" and the temporal ones.
        seed: of the draw.

    Returns:
        (train, valid, test).

    Raises:
        ValueError: another split, or what the split of that name refuses.

    Cost:
        O(n log n).

    Example:
        >>> rows = Interactions(torch.tensor([0, 0, 0]), torch.tensor([2, 0, 1]), 1, 3, timestamps=torch.tensor([5, 7, 6]))
        >>> [part.items.tolist() for part in split_interactions(rows, "leave_last_out")]
        [[2], [1], [0]]
    """
    if split == "random":
        return random_split(interactions, ratios, seed)
    if split in ("leave_one_out", "leave_last_out"):
        return leave_one_out(interactions, "random" if split == "leave_one_out" else "time", seed)
    if split in ("temporal", "temporal_global"):
        return temporal_split(interactions, ratios, "user" if split == "temporal" else "global", seed)
    if split == "none":
        interactions = interactions.unique()
        nothing = interactions.select(torch.zeros(len(interactions), dtype=torch.bool))
        return interactions, nothing, nothing
    raise ValueError(f"split_interactions: expected split as one of {', '.join(SPLITS)}; got {split!r}")


def _ranked(
    interactions: Interactions, by_time: bool, seed: int
) -> tuple[Interactions, Tensor, Tensor, Tensor]:
    """Rows ordered by user and, within a user, by time or at random: (interactions, order [n], each ordered row's
    place within its user [n], its user's count [n])."""
    interactions = interactions.unique()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(interactions), generator=generator)
    if by_time:
        order = order[torch.argsort(interactions.timestamps[order], stable=True)]
    order = order[torch.argsort(interactions.users[order], stable=True)]
    counts = torch.bincount(interactions.users, minlength=interactions.n_users)
    users = interactions.users[order]
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[users]
    return interactions, order, rank, counts[users]


def _by_ratio(
    interactions: Interactions, order: Tensor, rank: Tensor, count: Tensor, ratios: Sequence[float]
) -> Parts:
    n_test = torch.minimum((count * ratios[2] + 0.5).floor().long(), count - 1)
    n_valid = torch.minimum((count * ratios[1] + 0.5).floor().long(), count - 1 - n_test)
    test = rank >= count - n_test
    return _parts(interactions, order, (rank >= count - n_test - n_valid) & ~test, test)


def _parts(interactions: Interactions, order: Tensor, valid: Tensor, test: Tensor) -> Parts:
    """Parts by masks over the ordered rows; each keeps the sorted order of `unique`."""
    rows = (order[mask].sort().values for mask in (~(valid | test), valid, test))
    train, valid_part, test_part = (interactions.select(part) for part in rows)
    return train, valid_part, test_part


def _expect_ratios(op: str, ratios: Sequence[float]) -> None:
    good = (
        len(ratios) == 3
        and all(0 <= ratio <= 1 for ratio in ratios)
        and math.isclose(sum(ratios), 1, abs_tol=1e-6)
    )
    if not good or ratios[0] == 0:
        raise ValueError(f"{op}: expected three ratios >= 0 that sum to 1, the first > 0; got {list(ratios)}")


def _expect_timestamps(op: str, interactions: Interactions) -> None:
    if interactions.timestamps is None:
        raise ValueError(f"{op}: expected interactions with timestamps; got none")
