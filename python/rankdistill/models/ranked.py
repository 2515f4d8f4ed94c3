"""What a model ranks: for every user of a data set, items that it has not seen, or those that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rankdistill.data.dataset import Dataset
from rankdistill.models.factors import Factors
from rankdistill.models.teachers import SCORES, as_teacher
from rankdistill.rankings import Rankings
from rankdistill.vector_scores import device_of

ROWS_AT_ONCE = 1024


def rankings_metadata(dataset: Dataset) -> dict[str, str]:
    """What an extraction must find again to go on: not the data set's name, as a file may be moved."""
    return {
        "user_vocabulary": dataset.users.sha256,
        "item_vocabulary": dataset.items.sha256,
        "train": dataset.train_sha256,
    }


def unseen_rankings(
    model,
    dataset: Dataset,
    k: int,
    progress: Callable = iter,
    metadata: dict[str, str] | None = None,
    device: torch.device | str | None = None,
) -> Rankings:
    """The k best items of every user that are not its train items, by a model with vectors or any other teacher.

    On `device` vectors are ranked, and a module is asked, which comes back afterwards; None: on the CPU, and where it is.
    """
    metadata = rankings_metadata(dataset) | (metadata or {})
    with placed(model, device):
        teacher, batch = as_teacher(model), {}
        if isinstance(teacher, Factors):
            teacher, batch = teacher.to(device or "cpu"), {"batch_size": ROWS_AT_ONCE}
        made = teacher.rankings(k, dataset.train.csr(), progress=progress, metadata=metadata, **batch)
    return made.with_ids(dataset.users.ids, dataset.items.ids)


@contextmanager
def placed(model, device: torch.device | str | None) -> Iterator[None]:
    """A module on a device for a while; others, and with None all, stay where they are."""
    if device is None or not isinstance(model, nn.Module):
        yield
        return
    before = device_of(model)
    model.to(device)
    try:
        yield
    finally:
        model.to(before)


@torch.no_grad()
def seen_rankings(model, dataset: Dataset, k: int) -> Rankings:
    """The k best of every user's train items.

    O(train items·log) time; at a time the scores of a thousand users' train items, or of fewer where one has so many
    that they would be more than 2^24, padded to the longest row.
    """
    train, parts = dataset.train.csr(), []
    for users in _blocks(train.counts.clamp_min(k)):
        seen = train.rows(users)
        items = seen.padded()
        items = torch.nn.functional.pad(items, (0, max(0, k - items.shape[1])), value=-1)
        scores = model.score(users, items).float()
        best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
        parts.append((items.gather(1, best).int(), scores.gather(1, best)))
    indices, scores = (torch.cat(part) for part in zip(*parts))
    lengths = (indices >= 0).sum(1).int()
    made = Rankings(indices, scores, lengths, dataset.n_items, rankings_metadata(dataset))
    return made.with_ids(dataset.users.ids, dataset.items.ids)


def _blocks(widths: Tensor) -> Iterator[Tensor]:
    """The users in order, a thousand at a time; fewer where as many rows of the widest were more than 2^24 numbers."""
    for users in torch.arange(len(widths)).split(ROWS_AT_ONCE):
        yield from users.split(max(1, SCORES // max(1, int(widths[users].max()))))
