"""The CUDA module as built: it imports anywhere, says why it cannot serve, and holds the code it claims."""

from __future__ import annotations

import functools
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


def dump(kind: str, *options: str) -> str:
    done = subprocess.run(
        [cuobjdump(), f"--dump-{kind}", *options, cuda.__file__], capture_output=True, text=True, check=False
    )
    return done.stdout


@functools.cache
def embedded(kind: str) -> set[str]:
    return set(re.findall(r"^arch = sm_(\d+a?)$", dump(kind), flags=re.MULTILINE))


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
    sass, ptx = embedded("sass"), embedded("ptx")
    for architecture in claimed:
        number, _, kind = architecture.partition("-")
        if kind != "virtual":
            assert number in sass, architecture
        if kind != "real":
            assert number in ptx, architecture


def test_kernels_keep_their_registers():
    """No spills: each kernel's local memory, beyond what its own arrays take, stays within its stack frame."""
    rows = re.findall(r"Function (\S+):\s*\n\s*(.+)", dump("resource-usage"))
    assert rows
    for name, usage in rows:
        local = re.search(r"LOCAL:(\d+)", usage)
        assert local is None or local[1] == "0", f"{name}: {usage}"


def sass_of(architecture: str) -> dict[str, str]:
    """Machine code by kernel."""
    code = dump("sass", "--gpu-architecture", architecture)
    parts = re.split(r"^\s*Function : (\S+)$", code, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


@pytest.mark.skipif(not cuda.has_sm90a(), reason="the module was built without code for sm_90a")
def test_hopper_filter_multiplies_without_waiting():
    """Its matrix instructions are Hopper's, and a tile's follow each other: a wait after each is what the compiler does
    where it cannot follow the accumulators."""
    kernels = {k: v for k, v in sass_of("sm_90a").items() if "hopper_filter_kernel" in k}
    assert len(kernels) == 6
    for name, code in kernels.items():
        blocks, steps = map(int, re.search(r"kernelILi(\d)ELi(\d)E", name).groups())
        words = re.findall(r"HGMMA\.64x128x16\.F32\.BF16|WARPGROUP\.DEPBAR", code)
        runs = [len(run.split()) for run in " ".join(w[:5] for w in words).replace("WARPG", ";").split(";")]
        assert max(runs) == blocks * steps, f"{name}: {runs}"
        assert "UBLKCP" in code, f"{name}: expected bulk copies"
        assert not re.search(r"\bHMMA|\b(STL|LDL)\b", code), name


@pytest.mark.parametrize("architecture", ["80", "90"])
def test_filter_uses_the_matrix_units(architecture):
    if architecture not in embedded("sass"):
        pytest.skip(f"the module was built without code for sm_{architecture}")
    kernels = [v for k, v in sass_of(f"sm_{architecture}").items() if "mma_filter_kernel" in k]
    assert len(kernels) == 2
    for code in kernels:
        assert "HMMA.16816.F32.BF16" in code
        assert "LDGSTS" in code
        assert "LDSM.16.M88.4" in code


def test_streaming_reads_are_sixteen_bytes_wide():
    architecture = min(embedded("sass"))
    kernels = {k: v for k, v in sass_of(f"sm_{architecture}").items() if "masked_stream_kernel" in k}
    assert len(kernels) == 4
    assert all(code.count("LDG.E.128") >= 4 for code in kernels.values())
