"""No method needs a [users, items] matrix: peak memory in fresh processes, as the system counts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rankdistill.methods import METHODS
from tests.process import python

# Fewer users for methods that rank all items for each of them, which takes time: by scores (some 0.2 ms), by a sort of all.
FEWER, SORTS = ("hetcomp", "rce_kd"), ("bd",)
WORLDS = {100_000: [name for name in METHODS if name not in (*FEWER, *SORTS)], 2_000: FEWER, 40: SORTS}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("n_users", WORLDS)
def test_memory_at_a_million_items(n_users):
    arguments = "-m", "tests.losses.large_world", str(n_users), *WORLDS[n_users]
    done = python(*arguments, PYTHONPATH=str(Path(__file__).parents[2]))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(WORLDS[n_users])
    # A byte for every user and item would be 95,000 and 1,900 MiB, ranks and weights of 40 users by both models 900; lists
    # of 60 users for a million items are 460.
    assert max(found.values()) < (1_000 if n_users == 100_000 else 600), found
