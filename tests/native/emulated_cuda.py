"""The CUDA module compiled for the processor (cuda_emulation/): its kernels run without a device."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from rankdistill.ops import cuda, device_topk

ROOT = Path(__file__).parents[2]
SHIM = Path(__file__).parent / "cuda_emulation"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-U_FORTIFY_SOURCE"]
FLAGS += ["-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
FLAGS += ["-DRANKDISTILL_EMULATED", "-DRANKDISTILL_SM90A", '-DRANKDISTILL_CUDA_ARCHITECTURES="emulated"']
GUARD = 256  # bytes before and behind every workspace


def headers() -> list[str]:
    python = sysconfig.get_paths()["include"]
    if not (Path(python) / "Python.h").is_file():
        pytest.skip("no Python.h: the emulated CUDA module cannot be compiled")
    bundled = Path(torch.__file__).parent / "include"
    if not (bundled / "pybind11").is_dir():
        pytest.skip("torch comes without pybind11's headers: the emulated CUDA module cannot be compiled")
    return [f"-I{folder}" for folder in (SHIM, ROOT, bundled, python)]


def build(folder: Path):
    """(the module, its library for ctypes)."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++: the emulated CUDA module cannot be compiled")
    sources = [
        *(ROOT / "csrc" / "cuda").glob("*.cu"),
        ROOT / "csrc" / "cuda" / "module.cpp",
        *SHIM.glob("*.cpp"),
    ]
    flags = FLAGS + headers()

    def compiled(source: Path) -> str:
        target = folder / f"{source.name}.o"
        done = subprocess.run(
            [compiler, *flags, "-x", "c++", "-c", source, "-o", target], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "_cuda.so"
    subprocess.run([compiler, "-shared", "-o", library, *objects], check=True)
    spec = importlib.util.spec_from_file_location("_cuda", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, ctypes.CDLL(str(library))


class Workspaces:
    """Stands in for device_topk.workspace: filled with a pattern, and guarded on both sides."""

    def __init__(self):
        self.buffers = []

    def __call__(self, *size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        count = torch.Size(size).numel() * dtype.itemsize
        buffer = torch.full((count + 2 * GUARD,), 0xA5, dtype=torch.uint8)
        self.buffers.append(buffer)
        return buffer[GUARD : GUARD + count].view(dtype).view(size)

    def check(self) -> None:
        for buffer in self.buffers:
            assert (buffer[:GUARD] == 0xA5).all(), "written before a workspace"
            assert (buffer[-GUARD:] == 0xA5).all(), "written behind a workspace"
        self.buffers.clear()


class Emulated:
    """Lets rankdistill.ops.device_topk use the emulated module with tensors in ordinary memory."""

    def __init__(self, module, library, monkeypatch):
        self.module, self.library, self.workspaces, self.redone = module, library, Workspaces(), []
        monkeypatch.setattr(cuda, "_cuda", module)
        monkeypatch.setattr(cuda, "current_stream", lambda device: 0)
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(device_topk, "workspace", self.workspaces)
        exactly = device_topk.score_exactly

        def counted(users, items, k, indptr, indices, item_bias, rows, top):
            self.redone.append(len(users) if rows is None else len(rows))
            exactly(users, items, k, indptr, indices, item_bias, rows, top)

        monkeypatch.setattr(device_topk, "score_exactly", counted)

    def rows_redone(self) -> int:
        """How many rows were scored exactly since the last call."""
        total = sum(self.redone)
        self.redone.clear()
        self.workspaces.check()
        return total
