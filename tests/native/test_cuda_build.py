"""The CUDA module as built: it imports anywhere, says why it cannot serve, and holds the code it claims."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.process import python

cuda = pytest.importorskip("rankdistill._cuda", reason="rankdistill._cuda was not built (no nvcc)")


def cuobjdump() -> str:
    folders = [Path(os.environ[v]) / "bin" for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    folders += [Path("/usr/local/cuda/bin"), *sorted(Path("/usr/local").glob("cuda-*/bin"))]
    for folder in folders:
        if (folder / "cuobjdump").is_file():
            return str(folder / "cuobjdump")
    if shutil.which("cuobjdump"):
        return shutil.which("cuobjdump")
    try:
        import triton
    except ImportError:
        pytest.skip("no cuobjdump: neither a CUDA toolkit's nor Triton's")
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not bundled.is_file():
        pytest.skip("no cuobjdump: neither a CUDA toolkit's nor Triton's")
    return str(bundled)


def embedded(kind: str) -> set[str]:
    done = subprocess.run(
        [cuobjdump(), f"--list-{kind}", cuda.__file__], capture_output=True, text=True, check=False
    )
    return set(re.findall(r"sm_(\d+a?)", done.stdout))


def test_imports_without_a_driver():
    """With no device to be seen, as on a machine without a driver."""
    code = "import rankdistill._cuda as c; print(c.device_count(), c.unusable())"
    done = python("-c", code, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    count, _, reason = done.stdout.strip().partition(" ")
    assert count == "0"
    assert len(reason) > 10


def test_says_why_it_is_unusable():
    if torch.cuda.is_available():
        assert cuda.unusable() == ""
        assert cuda.device_count() == torch.cuda.device_count()
    else:
        assert "CUDA" in cuda.unusable()
        assert cuda.device_count() == 0


def test_runtime_version():
    assert cuda.runtime_version() >= 12000


def test_holds_the_code_it_claims():
    claimed = cuda.architectures().split()
    assert claimed
    elf, ptx = embedded("elf"), embedded("ptx")
    for architecture in claimed:
        number, _, kind = architecture.partition("-")
        if kind != "virtual":
            assert number in elf, architecture
        if kind != "real":
            assert number in ptx, architecture


def test_kernels_keep_their_registers():
    """No spills: each kernel's local memory, beyond what its own arrays take, stays within its stack frame."""
    done = subprocess.run(
        [cuobjdump(), "--dump-resource-usage", cuda.__file__], capture_output=True, text=True, check=False
    )
    rows = re.findall(r"Function (\S+):\s*\n\s*(.+)", done.stdout)
    assert rows
    for name, usage in rows:
        local = re.search(r"LOCAL:(\d+)", usage)
        assert local is None or local[1] == "0", f"{name}: {usage}"
