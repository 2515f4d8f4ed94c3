"""The installed binaries: one build serves every torch, one OpenMP runtime per process, no instruction-set leak."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.process import output, python

ROOT = Path(__file__).parents[2]


def tool(name: str, *args: object) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on PATH")
    done = subprocess.run([path, *map(str, args)], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(params=["_native", "_cuda"])
def binary(request) -> Path:
    module = pytest.importorskip(
        f"rankdistill.{request.param}", reason=f"rankdistill.{request.param} was not built"
    )
    return Path(module.__file__)


def test_no_libtorch_symbol_is_needed(binary):
    undefined = tool("nm", "-D", "-C", "--undefined-only", binary)
    assert "PyObject" in undefined
    assert not re.findall(r"(?:\bc10::|\bat::|\btorch::|\baoti_|\bTHP)\S*", undefined)


def test_no_torch_or_cuda_library_is_needed(binary):
    needed = re.findall(r"NEEDED.*\[(.+?)\]", tool("readelf", "-d", binary))
    assert needed
    assert not [
        n for n in needed if n.startswith(("libtorch", "libc10", "libcuda", "libcudart", "libpython"))
    ]


def test_only_the_modules_entry_is_exported(binary):
    """A symbol of ours that others can bind to could be taken from another module, or replaced by it."""
    defined = tool("nm", "-D", "--defined-only", binary)
    strong = {line.split()[-1] for line in defined.splitlines() if line.split()[-2] in "TDBR"}
    assert strong == {f"PyInit_{binary.name.split('.')[0]}"}


ORDERS = {
    "torch first": ("torch", "rankdistill._native"),
    "our module first": ("rankdistill._native", "torch"),
    "through the package": ("rankdistill.ops",),
}


@pytest.mark.parametrize("order", ORDERS)
def test_one_openmp_runtime_in_the_process(order):
    native = pytest.importorskip("rankdistill._native", reason="no compiled CPU module")
    if not native.openmp():
        pytest.skip("built without OpenMP")
    code = "; ".join(f"import {name}" for name in ORDERS[order])
    code += "\nfrom rankdistill.collect_env import openmp_runtimes; print(*openmp_runtimes(), sep='\\n')"
    done = python("-c", code)
    if "libgomp.so.1: cannot open" in done.stderr and order == "our module first":
        pytest.skip("no OpenMP runtime on this machine but torch's: torch must be imported first")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split("\n")) == 2, f"expected one OpenMP runtime; got {done.stdout}"


@pytest.mark.parametrize(
    "order",
    [
        "import torch, rankdistill._native as n",
        "import rankdistill.ops, torch; from rankdistill import _native as n",
    ],
)
def test_torch_governs_our_threads(order):
    native = pytest.importorskip("rankdistill._native", reason="no compiled CPU module")
    if not native.openmp():
        pytest.skip("built without OpenMP")
    code = f"{order}\ntorch.set_num_threads(3); a = n.max_threads(); torch.set_num_threads(1); print(a, n.max_threads())"
    assert output(code) == "3 1"


def test_objects_of_an_instruction_set_have_no_weak_symbols():
    """The linker keeps one copy of a weak symbol for everyone: an AVX-512 one would kill other processors."""
    objects = sorted(ROOT.glob("build/**/kernels_*.dir/csrc/isa/*.o"))
    if not objects:
        pytest.skip("no build tree beside the tests")
    weak = {}
    for path in objects:
        lines = tool("nm", "-C", "--defined-only", path).splitlines()
        found = [line for line in lines if re.match(r"^[0-9a-f]+ [WVuwv] ", line)]
        if found:
            weak[f"{path.parent.parent.name}/{path.name}"] = found[:3]
    assert not weak


def test_the_package_holds_kernels_and_nothing_of_the_tree():
    import rankdistill

    folder = Path(rankdistill.__file__).parent
    if folder == ROOT / "python" / "rankdistill":
        pytest.skip("an editable install: the tree is the package")
    assert (folder / "kernels" / "cpu" / "parallel.h").is_file()
    assert (folder / "py.typed").is_file()
    assert not [name for name in ("csrc", "tests", "python", "benchmarks") if (folder / name).exists()]
    for name in ("csrc", "tests", "python"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"rankdistill.{name}")


def configured(folder: Path, native: str, **variables: str) -> subprocess.CompletedProcess:
    """CMake's answer to a build without CUDA."""
    options = [f"-DRANKDISTILL_NATIVE={native}", "-DRANKDISTILL_CUDA=OFF"]
    if shutil.which("cmake") is None:
        pytest.skip("no cmake on PATH")
    return subprocess.run(
        ["cmake", "-S", ROOT, "-B", folder, *options],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def test_a_compiler_that_cannot_is_an_error_and_the_way_round_it_says_so(tmp_path):
    """Without the module the reference backend serves all ops."""
    old = tmp_path / "c++"  # has no __builtin_shufflevector, as GCC 11
    old.write_text(
        '#!/bin/sh\nfor f in "$@"; do grep -qs shufflevector "$f" && exit 1; done\nexec g++ "$@"\n'
    )
    old.chmod(0o755)
    reasons = {
        "/bin/false": "no working C++ compiler found",
        str(old): "vector builtins of GCC 12 or later, and the compiler was GNU",
    }
    for compiler, reason in reasons.items():
        refused = configured(tmp_path / f"on-{Path(compiler).name}", "ON", CXX=compiler)
        assert refused.returncode == 1
        told = " ".join(refused.stderr.split())
        assert reason in told
        assert "-C cmake.define.RANKDISTILL_NATIVE=OFF" in told
        done = configured(tmp_path / f"off-{Path(compiler).name}", "OFF", CXX=compiler)
        assert done.returncode == 0, done.stderr
        assert "CPU module off" in done.stderr
