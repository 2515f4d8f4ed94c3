"""The scaling model: its parts are the code's, and what it says of bytes is what two processes send and hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.scaling_model import BETWEEN_NODES, GPU, Work, distinct, gathers, step

from rankdistill.parallel.gradients import gathering_is_less
from tests.case import randint

ROOT = Path(__file__).parents[2]


def namespaces() -> bool:
    command = ["unshare", "-rn", "ip", "link", "set", "lo", "up"]
    found = all(shutil.which(name) for name in ("unshare", "ip"))
    return found and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(
    not namespaces(), reason="no network namespace of its own: others' bytes would be counted too"
)
def test_two_processes_send_and_hold_what_the_model_says():
    command = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    command += [sys.executable, "-m", "benchmarks.scaling_measured"]
    command += ["--sizes", "2", "--only", "few rows", "--untimed"]
    environment = {**os.environ, "SCALING_ALONE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if "tables" in line]
    ((_, _, _, _, sent, held),) = rows
    assert 0.9 < float(sent) < 1.1
    assert 0.7 < float(held) < 1.4


def test_the_model_chooses_as_the_code():
    for ranks in (2, 8, 64):
        for rows in (1, 100, 10_000):
            for table in (50, 20_000, 10**7):
                assert gathers(ranks, rows, table, 64) == gathering_is_less(ranks, rows, table, 64, 4)


def test_expected_distinct_ids():
    for draws, n in ((1, 7), (1000, 300), (500, 100_000)):
        drawn = [len(torch.unique(randint(0, n, (draws,), seed=seed))) for seed in range(20)]
        assert distinct(draws, n) == pytest.approx(sum(drawn) / 20, rel=0.02)


def test_more_work_costs_more():
    work = Work(10**6, 10**6, 64, 8192, 80)
    one, eight, sixty_four = (
        step(work, machine, ranks) for machine, ranks in ((GPU, 1), (GPU, 8), (BETWEEN_NODES, 64))
    )
    assert one.sent == one.exchange == 0
    assert 0 < eight.sent < sixty_four.sent
    assert eight.compute < one.compute
    assert step(Work(10**6, 10**7, 64, 8192, 80), GPU, 8).held > eight.held > one.held
