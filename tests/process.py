"""A fresh interpreter for tests of imports, environment variables and process state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def with_tests(**variables: str) -> dict[str, str]:
    """This environment, in which `tests` is found besides all that this process finds."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **variables}


def python(*args: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs `python *args` away from the source tree, with no RANKDISTILL_* set but those in `variables`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RANKDISTILL_")} | variables
    return subprocess.run(
        [sys.executable, *args],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def start_ranks(module: str, size: int, folder: Path) -> list[subprocess.Popen]:
    """`python -m module RANK SIZE FOLDER` for every rank, side by side."""
    environment = with_tests()
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, str(rank), str(size), str(folder)], cwd=folder, env=environment,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def expect_ended(processes: list[subprocess.Popen], timeout: float = 240) -> None:
    """Waits for all; each must exit with 0."""
    ended = [(process.communicate(timeout=timeout)[1], process.returncode) for process in processes]
    assert all(status == 0 for _, status in ended), [text for text, _ in ended]


def output(code: str, **variables: str) -> str:
    """What `python -c code` prints; it must exit with 0."""
    done = python("-c", code, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def kill_at_line(running: subprocess.Popen, log: Path, lines: int) -> bool:
    """Kills a process once its log has so many lines; whether it was still at work."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        if log.exists() and log.read_text().count("\n") >= lines:
            break
        time.sleep(0.01)
    at_work = running.poll() is None
    if at_work:
        running.send_signal(signal.SIGKILL)
    running.wait()
    return at_work
