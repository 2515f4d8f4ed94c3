"""Interactions made up here: long-tail popularity and planted preference groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rankdistill.config import GENERATED
from rankdistill.data.dataset import Dataset
from rankdistill.data.interactions import Interactions
from rankdistill.data.splits import random_split
from rankdistill.data.vocabulary import Vocabulary

CHUNK = 4_000_000  # cells of the affinity matrix held at once


def generate(
    n_users: int = 3_000,
    n_items: int = 4_000,
    *,
    mean_interactions: float = 45.0,
    min_interactions: int = 10,
    width: int = 64,
    n_groups: int = 48,
    groups_per_user: int = 4,
    group_strength: float = 6.0,
    personal_strength: float = 0.7,
    popularity_exponent: float = 0.9,
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    name: str = GENERATED,
) -> Dataset:
    """A data set whose structure is known: what a wide model can learn from it and a narrow one cannot hold.

    User u chooses c_u different items, drawn without replacement with weights exp(a_ui) / rank_i^popularity_exponent,
    a_ui = group_strength · <m_u, q_i> + personal_strength · <x_u, y_i>: m_u mixes the directions of a few of G groups
    (unit vectors of the planted width), q_i is the direction of the item's group, and x, y are Gaussian vectors of that
    width, scaled so that the second term has standard deviation personal_strength. Counts c_u are log-normal. Item ids
    carry no information.

    Args:
        n_users, n_items: the sizes, >= 1.
        mean_interactions: the mean of c_u, before it is cut to [min_interactions, n_items / 2].
        min_interactions: the fewest of a user.
        width: the rank of the affinity, well above the width of a student.
        n_groups, groups_per_user: G, and how many of them a user likes.
        group_strength, personal_strength: in nats; 0 plants nothing.
        popularity_exponent: 0 for equal items, 1 for Zipf's law.
        ratios: train, valid and test of each user, as for `random_split`.
        seed: of everything; the same seed gives the same data set for the same version of torch.
        name: of the data set.

    Raises:
        TypeError, ValueError: a size or strength that is no number, or out of range.

    Cost:
        O(n_users · n_items · width) time; O((n_users + n_items) · width) memory and a few chunks of 4 million cells.

    Example:
        >>> generate(50, 40, mean_interactions=8, min_interactions=5, n_groups=4, groups_per_user=1)
        Dataset(generated: 50 users, 40 items, train 336, valid 56, test 56)
    """
    numbers = {"mean_interactions": mean_interactions, "group_strength": group_strength}
    numbers |= {"personal_strength": personal_strength, "popularity_exponent": popularity_exponent}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"generate: expected {key} as a number; got {value!r}")
    sizes = {"n_users": n_users, "n_items": n_items, "width": width, "n_groups": n_groups}
    for key, value in {
        **sizes,
        "groups_per_user": groups_per_user,
        "min_interactions": min_interactions,
    }.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"generate: expected {key} as an integer; got {value!r}")
        if value < 1:
            raise ValueError(f"generate: expected {key} >= 1; got {value}")
    if groups_per_user > n_groups or min_interactions > n_items:
        raise ValueError(
            "generate: expected groups_per_user <= n_groups and min_interactions <= n_items; got "
            f"{groups_per_user}, {n_groups}, {min_interactions}, {n_items}"
        )
    if min(mean_interactions, group_strength, personal_strength, popularity_exponent) < 0:
        raise ValueError("generate: expected a mean, strengths and an exponent >= 0; got a negative one")
    generator = torch.Generator().manual_seed(seed)
    # float64: sums in another order (threads, another BLAS) then practically never change who is drawn.
    directions = torch.nn.functional.normalize(_normal((n_groups, width), generator), dim=1)
    group_of_item = torch.randint(n_groups, (n_items,), generator=generator)
    chosen = (
        torch.rand(n_users, n_groups, generator=generator).topk(groups_per_user).indices
    )  # [U, groups_per_user]
    mix = torch.rand(n_users, groups_per_user, generator=generator, dtype=torch.float64) + 0.5
    mix /= mix.max(dim=1, keepdim=True).values
    liked = (mix[:, :, None] * directions[chosen]).sum(1)  # [U, width]
    personal = _normal((n_users, width), generator) * width**-0.5
    users = torch.cat([group_strength * liked, personal_strength * personal], dim=1)
    items = torch.cat([directions[group_of_item], _normal((n_items, width), generator)], dim=1)
    rank = torch.randperm(n_items, generator=generator).double() + 1
    log_popularity = -popularity_exponent * rank.log()
    most = max(min_interactions, n_items // 2)
    counts = torch.exp(0.6 * _normal((n_users,), generator) - 0.18) * mean_interactions
    counts = counts.round().long().clamp(min_interactions, most)
    rows, columns = [], []
    for part in torch.arange(n_users).split(max(1, CHUNK // n_items)):
        weights = torch.addmm(log_popularity, users[part], items.T)
        drawn = _drawn_without_replacement(weights, counts[part], generator)
        rows.append(part.repeat_interleave(counts[part]))
        columns.append(drawn)
    whole = Interactions(torch.cat(rows), torch.cat(columns), n_users, n_items)
    vocabularies = (Vocabulary(np.arange(size)) for size in (n_users, n_items))
    return Dataset(*random_split(whole, ratios, seed), *vocabularies, name)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _drawn_without_replacement(weights: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """counts[b] columns per row of log weights [B, N], one after another: the largest after Gumbel noise."""
    noise = torch.empty_like(weights).exponential_(generator=generator).log_()
    best = weights.sub_(noise).topk(int(counts.max()), dim=1).indices
    return best[torch.arange(best.shape[1]) < counts[:, None]]
