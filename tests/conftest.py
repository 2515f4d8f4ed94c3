"""Fixtures shared by all tests."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Before OpenMP is loaded. Two workers of two threads on two cores took six to ten times as long while idle threads spun.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest

with contextlib.suppress(ModuleNotFoundError):  # a machine that runs the GPU tests alone may lack it
    import hypothesis

    # An example that waits for a busy machine's turn is no slow one.
    hypothesis.settings.register_profile("any machine", deadline=None)
    hypothesis.settings.load_profile("any machine")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that RANKDISTILL_DATA names; the test is skipped, and counted, without it."""
    folder = os.environ.get("RANKDISTILL_DATA")
    if not folder:
        pytest.skip("RANKDISTILL_DATA is not set: no real data")
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"RANKDISTILL_DATA: expected a folder; got {folder!r}")
    return path


@pytest.fixture(scope="session")
def golden():
    """Loads one golden file: numbers that the methods' authors' code produced."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return dict(arrays)

    return load
