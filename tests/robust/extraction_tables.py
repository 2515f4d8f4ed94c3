"""Tables, files and comparisons that the tests of extraction share."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from rankdistill import Rankings, extract_rankings
from tests.case import randn

ROOM = 180_000  # bytes above the least limit: a few blocks, a few dozen users a call
U, N, D, K, SHARD = 2500, 3000, 32, 13, 1024


def tables(dtype=torch.float32):
    # Small integers: many scores are equal, within a block and across blocks.
    users, items = (randn(n, D, seed=n, scale=0.6).round() for n in (U, N))
    return users.to(dtype), items.to(dtype)


def in_files(folder, users, items):
    save_file({"users": users}, folder / "users.safetensors")
    save_file({"items": items}, folder / "items.safetensors")
    return folder / "users.safetensors", folder / "items.safetensors"


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same(rankings: Rankings, expected: Rankings) -> None:
    for name in ("indices", "scores", "lengths"):
        assert torch.equal(getattr(rankings, name), getattr(expected, name)), name
        assert getattr(rankings, name).dtype == getattr(expected, name).dtype
    assert (rankings.n_items, rankings.metadata) == (expected.n_items, expected.metadata)


def least_limit(files, k=K, **options) -> int:
    """The smallest limit that an extraction of files names in its error."""
    with pytest.raises(ValueError, match="expected a memory_limit of .* bytes or more") as caught:
        extract_rankings(*files, k, memory_limit=1, **options)
    return int(str(caught.value).split("memory_limit of ")[1].split(" bytes")[0].replace(",", ""))
