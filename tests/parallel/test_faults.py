"""A process that ends, freezes, cannot write or has other settings: all others end too and say why; a resume goes on."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rankdistill.checkpoint import load_checkpoint
from rankdistill.parallel import torchrun_processes
from tests.process import kill_at_line, python

TIMEOUT = 8  # two processes of a busy machine begin some seconds apart
DATA = "--data.options={n_users: 150, n_items: 120, mean_interactions: 15, min_interactions: 6, n_groups: 5}"
TRAINING = (
    "--training.epochs=60",
    "--training.evaluate_every=1",
    "--training.batch_size=256",
    "--training.keep_best=false",
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(
    out: Path, *settings: str, only: dict[int, tuple[str, ...]] | None = None, ranks=(0, 1), limits=None
):
    """Two processes of `rankdistill train` as torchrun would start them; `only` and `limits` by rank."""
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "rankdistill",
        "train",
        f"--out={out}",
        DATA,
        *TRAINING,
        f"--timeout={TIMEOUT}",
        "--progress=false",
    ]

    started = [
        subprocess.Popen(
            [*command, *settings, *(only or {}).get(rank, ())], env={**environment, "RANK": str(rank)}, cwd="/",
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )
        for rank in ranks
    ]  # fmt: skip
    for rank, most in (limits or {}).items():
        resource.prlimit(started[rank].pid, resource.RLIMIT_FSIZE, (most, most))
    return started


def end(process: subprocess.Popen, within: float = 60) -> tuple[int, str]:
    """Exit status and the last line of its errors."""
    text = process.communicate(timeout=within)[1]
    return process.returncode, next(
        (line for line in text.splitlines()[::-1] if "rankdistill: error" in line), text
    )


@pytest.mark.slow
def test_every_fault_ends_all_and_a_resume_goes_on(tmp_path):
    broken, log = tmp_path / "broken", tmp_path / "broken" / "log.jsonl"

    full, other = start(broken, limits={0: 30_000})
    status, text = end(full)
    assert (status, "File too large" in text) == (1, True), text
    status, text = end(other)
    assert status == 1
    assert "expected every process to go on; got a failure of rank 0: OSError" in text, text
    assert not list(broken.glob("*.partial"))
    assert not (broken / "checkpoint.safetensors").exists()

    victim, survivor = start(broken)  # rank 0, where the others met
    assert kill_at_line(victim, log, 8), "it had ended"
    killed = time.monotonic()
    status, text = end(survivor)
    assert status == 1
    assert time.monotonic() - killed < TIMEOUT + 10
    assert "expected every process to answer; got" in text, text

    survivor, victim = start(broken)
    lines = log.read_text().count("\n")
    while log.read_text().count("\n") < lines + 8:
        time.sleep(0.01)
    victim.send_signal(signal.SIGSTOP)
    frozen = time.monotonic()
    status, text = end(survivor)
    waited = time.monotonic() - frozen
    victim.kill()
    victim.communicate()
    assert status == 1
    assert TIMEOUT - 1 < waited < TIMEOUT + 20
    assert "Another process has ended or hangs" in text, text

    for process in (*start(broken), *start(tmp_path / "whole")):
        assert end(process)[0] == 0
    whole, resumed = (
        load_checkpoint(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "broken")
    )
    assert all(
        torch.equal(tensor, resumed[group][name])
        for group, named in whole.items()
        for name, tensor in named.items()
    )


def test_the_exit_status_is_a_failures_own_whatever_its_group_does_at_the_end():
    """Threads of a group that lost a process may abort while the interpreter ends; here something always does."""
    code = """
import atexit, os, sys
import torch.distributed as dist
from rankdistill import cli
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
atexit.register(os.abort)
sys.argv = ["rankdistill", "evaluate", "--model=/nowhere"]
cli.run()
"""
    done = python("-c", code)
    assert done.returncode == 1, done.stderr
    assert "rankdistill: error: " in done.stderr


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("--training.learning_rate=0.5", "the same training.learning_rate on all processes; got 0.001 on rank 0, 0.5 on rank 1"),
        ("--data.seed=7", "the same train interactions on all processes; got '"),
    ],
)  # fmt: skip
def test_processes_that_disagree_write_nothing(tmp_path, setting, told):
    for process in start(tmp_path / "out", only={1: (setting,)}):
        status, text = end(process)
        assert status == 1
        assert told in text, text
    assert not (tmp_path / "out").exists()


def test_a_process_that_never_comes(tmp_path):
    (alone,) = start(tmp_path / "out", "--timeout=2", ranks=(0,))
    status, text = end(alone)
    assert status == 1
    assert "torchrun_processes: expected 2 processes within 2 s; got" in text, text


def test_a_time_out_is_above_0():
    with (
        pytest.raises(ValueError, match="^torchrun_processes: expected a timeout above 0; got 0$"),
        torchrun_processes(timeout=0),
    ):
        pass
