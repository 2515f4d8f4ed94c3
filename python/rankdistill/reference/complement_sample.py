"""Uniform draws without replacement from the items that are neither excluded nor listed, by rejection."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.reference import philox

REJECTIONS = 64  # attempts before a draw enumerates what is left


def taken_items(
    user: int, exclude_indptr: Tensor | None, exclude_indices: Tensor | None, listed: Tensor | None
) -> Tensor:
    parts = [torch.empty(0, dtype=torch.int64)]
    if exclude_indptr is not None:
        parts.append(exclude_indices[exclude_indptr[user] : exclude_indptr[user + 1]].cpu())
    if listed is not None:
        parts.append(listed[user].long().cpu())
    return torch.cat(parts)


def complement_sample(
    users: Tensor, positions: Tensor | None, n_items: int, n_samples: int,
    exclude_indptr: Tensor | None, exclude_indices: Tensor | None, listed: Tensor | None,
    seed: int, epoch: int, stream: int,
) -> Tensor:  # fmt: skip
    samples = torch.full((users.shape[0], n_samples), -1, dtype=torch.int64)
    for r, user in enumerate(users.tolist()):
        free = torch.ones(n_items, dtype=torch.bool)
        taken = taken_items(user, exclude_indptr, exclude_indices, listed)
        free[taken[(taken >= 0) & (taken < n_items)]] = False
        for j in range(n_samples):
            if not free.any():
                break
            position = torch.tensor(j + (int(positions[r]) if positions is not None else 0))
            for attempt in range(1 << 26):
                word = philox.words(torch.tensor(user), position, epoch, stream, attempt >> 2, seed)[
                    attempt & 3
                ]
                if attempt < REJECTIONS:
                    item = int(philox.bounded(word, n_items))
                    if item < 0 or not free[item]:
                        continue
                else:
                    left = free.nonzero().flatten()
                    rank = int(philox.bounded(word, len(left)))
                    if rank < 0:
                        continue
                    item = int(left[rank])
                samples[r, j] = item
                free[item] = False
                break
    return samples.to(users.device)
