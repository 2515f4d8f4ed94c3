"""Rankings of one numbering of users and items in another, by the ids that they keep."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rankdistill.data.vocabulary import Vocabulary
from rankdistill.rankings.stored_ids import places_among

if TYPE_CHECKING:
    from rankdistill.rankings.rankings import Rankings

logger = logging.getLogger("rankdistill")

ROWS_AT_ONCE = 8192


def aligned_rankings(
    op: str, rankings: Rankings, users: Vocabulary, items: Vocabulary, least: float = 0.0
) -> Rankings:
    """The lists of `users`, of those of `items` that are listed; see `Rankings.aligned`.

    Args:
        op: whom errors and the log speak of.
        rankings: with ids.
        users, items: the numbering that the result has.
        least: the share of users, and of items, of both numberings that the other one must have.
    """
    known = rankings.user_ids, rankings.item_ids
    for side, ids, wanted in zip(("user", "item"), known, (users, items)):
        if ids is None:
            raise ValueError(f"{op}: expected rankings with {side}_ids; got none that tell whose they are")
        common = int((places_among(ids, wanted.ids) >= 0).sum())
        if not common or common < least * max(len(ids), len(wanted)):
            raise ValueError(
                f"{op}: expected rankings of these {len(wanted)} {side}s; got those of {len(ids)}, {common} of them "
                "among these, another catalogue. Extract them again from a teacher of this data set, or name theirs "
                "(--data.source); Rankings.load(path).aligned(dataset) takes what there is"
            )
    if np.array_equal(known[0], users.ids) and np.array_equal(known[1], items.ids):
        return rankings
    rows, columns = places_among(known[0], users.ids), places_among(items.ids, known[1])
    made = replace(
        rankings,
        indices=torch.full((len(users), rankings.k), -1, dtype=torch.int32),
        scores=torch.full((len(users), rankings.k), -torch.inf),
        lengths=torch.zeros(len(users), dtype=torch.int32),
        n_items=len(items),
        metadata=rankings.metadata | {"user_vocabulary": users.sha256, "item_vocabulary": items.sha256},
    ).with_ids(users.ids, items.ids)
    listed = _fill(made, rankings, rows, columns)
    logger.warning(
        "%s: aligned by ids: %d of %d users have no list there, and %d of %d items of the others' lists are unknown here",
        op, int((rows < 0).sum()), len(rows), listed - int(made.lengths.sum()), listed,
    )  # fmt: skip
    return made


def _fill(made: Rankings, rankings: Rankings, rows: Tensor, columns: Tensor) -> int:
    """Writes the lists of `rows`, some users at a time; returns how many items these had."""
    listed, places = 0, torch.arange(rankings.k)
    for users in (rows >= 0).nonzero()[:, 0].split(ROWS_AT_ONCE):
        items, lengths = rankings.lists(rows[users])
        there = places < lengths[:, None]
        found = torch.where(there, columns[items.clamp_min(0).long()], -1)
        order = (found < 0).to(torch.uint8).argsort(dim=1, stable=True)
        found = found.gather(1, order)
        scores = rankings.scores[rows[users]].gather(1, order)
        made.indices[users] = found.int()
        made.scores[users] = scores.masked_fill(found < 0, -torch.inf)
        made.lengths[users] = (found >= 0).sum(1, dtype=torch.int32)
        listed += int(lengths.sum())
    return listed
