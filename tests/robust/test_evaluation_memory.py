"""Metrics of a whole catalogue need no [U, N] matrix: peak memory of a fresh process, as the system counts it."""

from __future__ import annotations

import json
import sys

import pytest

from tests.process import python

SCRIPT = """
import json, re, sys, time, torch
import rankdistill
from rankdistill.data import CSR
from rankdistill.metrics import evaluate

U, N, D = 10_000, 100_000, 64
torch.set_num_threads(2)
generator = torch.Generator().manual_seed(0)
users, items = torch.randn(U, D, generator=generator), torch.randn(N, D, generator=generator)
seen = torch.randint(0, N, (U, 60), generator=generator)
rows = torch.arange(U)[:, None].expand(-1, 60)
truth = CSR.from_pairs(rows[:, :10].reshape(-1), seen[:, :10].reshape(-1), U, N)
exclude = CSR.from_pairs(rows[:, 10:].reshape(-1), seen[:, 10:].reshape(-1), U, N)

class Vectors:
    def user_vectors(self, ids): return users[ids]
    def item_vectors(self, ids): return items[ids]

class Scores:
    def score(self, ids, columns): return users[ids] @ items[columns[0]].T

def memory(what):
    with open("/proc/self/status") as status:
        return int(re.search(rf"^{what}:\\s+(\\d+) kB", status.read(), re.MULTILINE)[1]) / 1024

def peak(model, truth, exclude, metrics):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before, begin = memory("VmRSS"), time.perf_counter()
    values = evaluate(model, truth, exclude, (10, 20, 50), metrics)
    return {"extra_mb": memory("VmHWM") - before, "seconds": time.perf_counter() - begin, "values": values}

few = torch.arange(600)
print(json.dumps({
    "lists": peak(Vectors(), truth, exclude, ("recall", "ndcg", "mrr")),
    "ranks": peak(Vectors(), truth, exclude, ("auc", "mean_position")),
    "scores": peak(Scores(), truth.rows(few), exclude.rows(few), ("recall", "auc")),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_thousand_users_and_a_hundred_thousand_items():
    done = python("-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # [U, N] scores would be 4,000 MB; a copy of the items is 26 MB, and prepared ones 7 to 8 MB more.
    assert found["lists"]["extra_mb"] < 150, found
    assert found["ranks"]["extra_mb"] < 150, found
    # 2^24 scores are 64 MB, and 64 MB more while they are made.
    assert found["scores"]["extra_mb"] < 300, found
    assert 0 < found["lists"]["values"]["recall@50"] < 0.01, "chance, for random tables"
    assert abs(found["ranks"]["values"]["auc"] - 0.5) < 0.01
