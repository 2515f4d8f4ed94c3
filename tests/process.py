"""A fresh interpreter for tests of imports, environment variables and process state."""

from __future__ import annotations

import os
import subprocess
import sys


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


def output(code: str, **variables: str) -> str:
    """What `python -c code` prints; it must exit with 0."""
    done = python("-c", code, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
