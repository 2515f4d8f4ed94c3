"""The report that a user pastes: its facts are this machine's, and it is written whatever is missing."""

from __future__ import annotations

import platform
import re
import resource
import sys

import numpy as np
import pytest
import torch

import rankdistill
from rankdistill.ops.registration import CHOICES
from tests.process import output, python

_ = rankdistill.ops  # registers them, so that CHOICES is filled


def run(**variables: str) -> dict[str, str]:
    """The report's lines by label; it must exit with 0."""
    done = python("-m", "rankdistill.collect_env", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return labelled(done.stdout)


def labelled(text: str) -> dict[str, str]:
    pairs = (line.strip().partition(": ") for line in text.splitlines() if line.startswith("  "))
    return {label: value for label, _, value in pairs}


@pytest.fixture(scope="module")
def report():
    return run()


@pytest.fixture(scope="module")
def native():
    return pytest.importorskip("rankdistill._native", reason="no compiled CPU module")


def test_versions(report):
    assert report["rankdistill"].startswith(f"{rankdistill.__version__} in ")
    assert report["python"].startswith(platform.python_version())
    assert sys.executable in report["python"]
    assert report["torch"] == torch.__version__
    assert report["numpy"] == np.__version__
    assert platform.machine() in report["platform"]
    assert report["triton"][0].isdigit() or report["triton"] == "not installed"


def test_processor(report, native):
    assert report["model"]
    assert report["native module"].startswith(native.__file__)
    assert f"compiler {native.compiler()}" in report["native module"]
    assert (
        report["instruction sets"] == f"{', '.join(native.supported_isas())} supported; {native.isa()} in use"
    )
    assert report["torch threads"].isdigit()
    if native.openmp():
        assert report["native threads"] == report["torch threads"]


def test_one_openmp_runtime(report, native):
    if not native.openmp():
        pytest.skip("built without OpenMP")
    assert "gomp" in report["runtime"] or "omp" in report["runtime"]
    assert "WARNING" not in report


def test_cuda(report):
    assert re.fullmatch(r"none found|[\d.]+|([\d.]+, for )?CUDA \d+\.\d or older", report["driver"])
    assert report["torch.cuda.is_available()"] == str(torch.cuda.is_available())
    if "not built" in report["CUDA module"]:
        assert "RANKDISTILL_CUDA=ON" in report["CUDA module"]
        return
    assert report["architectures built"]
    assert report["usable here"] == "yes" or report["usable here"].startswith("no: CUDA")


def test_every_op_on_every_device(report):
    for (op, device), choice in CHOICES.items():
        assert report[f"{op} on {device}"].split(";")[0] == choice.backend
    assert {device for _, device in CHOICES} == {"CPU", "CUDA"}


def test_takes_less_than_five_seconds():
    """Of processor time, which a busy machine does not stretch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


def test_a_forced_backend_shows():
    report = run(RANKDISTILL_BACKEND="reference")
    for op, device in CHOICES:
        assert report[f"{op} on {device}"].startswith("reference")
    assert report["RANKDISTILL_BACKEND"] == "reference"
    assert "not native: RANKDISTILL_BACKEND=reference. Unset it." in report["position_sample on CPU"]


def test_an_unknown_backend_is_an_error_in_its_place():
    done = python("-m", "rankdistill.collect_env", RANKDISTILL_BACKEND="fastest")
    assert done.returncode == 1
    report = labelled(done.stdout)
    assert "expected one of native, triton, reference; got 'fastest'" in report["ERROR"]
    assert report["RANKDISTILL_BACKEND"] == "fastest"
    assert report["torch"] == torch.__version__


WITHOUT = """
import runpy, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["collect_env"]
runpy.run_module("rankdistill.collect_env", run_name="__main__")
"""


def test_without_compiled_modules():
    done = python("-c", WITHOUT.format(names=["rankdistill._native", "rankdistill._cuda"]))
    assert done.returncode == 0, done.stdout + done.stderr
    report = labelled(done.stdout)
    assert report["native module"] == "not built. Reinstall with g++ 12 or later (CXX): pip install ."
    assert "not built" in report["CUDA module"]
    for op in ("gathered_inner_product", "position_sample"):
        assert report[f"{op} on CPU"].startswith("reference; not native: no compiled CPU module")
        assert "Reinstall with g++ 12 or later" in report[f"{op} on CPU"]


RANKINGS = ("inner_product_topk", "masked_topk", "inner_product_rank", "masked_rank")


def test_rankings_without_compiled_cuda_are_tritons_and_without_triton_the_references():
    pytest.importorskip("triton", reason="no triton package")
    blocked = "import sys; sys.modules.update(dict.fromkeys({names!r})); " + WITHOUT
    for names, backend in ((["rankdistill._cuda"], "triton"), (["rankdistill._cuda", "triton"], "reference")):
        done = python("-c", blocked.format(names=names))
        assert done.returncode == 0, done.stdout + done.stderr
        report = labelled(done.stdout)
        for op in RANKINGS:
            served, *reasons = report[f"{op} on CUDA"].split("; ")
            assert served == backend
            native = "not native: no compiled CUDA module" in "".join(reasons)
            assert native == op.endswith("topk")
            assert ("not triton: no triton package. Install it: " in "".join(reasons)) == (
                backend == "reference"
            )


def test_triton_can_be_forced_on_rankings():
    pytest.importorskip("triton", reason="no triton package")
    report = run(RANKDISTILL_BACKEND="triton")
    assert {report[f"{op} on CUDA"].split(";")[0] for op in RANKINGS} == {"triton"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a device, its backends are asked for too")
def test_a_backend_of_devices_that_are_not_here_is_not_asked_for():
    code = "import sys; sys.modules['rankdistill._cuda'] = None; import rankdistill.ops; print('fine')"
    probe = code.replace("import rankdistill.ops", "from rankdistill.ops.registration import choose, Unavailable; "
                         "print(choose('op', 'CUDA', {'native': Unavailable('none', ''), 'reference': {}})[0])")  # fmt: skip
    assert output(probe, RANKDISTILL_BACKEND="native").split() == ["reference", "fine"]


def test_an_impossible_backend_names_the_cure():
    code = WITHOUT.format(names=["rankdistill._native", "rankdistill._cuda"])
    done = python("-c", code, RANKDISTILL_BACKEND="native")
    assert done.returncode == 1
    error = labelled(done.stdout)["ERROR"]
    assert "expected the native backend on CPU, forced by RANKDISTILL_BACKEND" in error
    assert "Reinstall with g++ 12 or later (CXX): pip install ." in error


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512vnni", "avx512bf16"])
def test_a_forced_instruction_set_shows(isa, native):
    if isa not in native.supported_isas():
        pytest.skip(f"this processor has no {isa}")
    report = run(RANKDISTILL_ISA=isa)
    assert report["instruction sets"].endswith(f"; {isa} in use")
    assert report["RANKDISTILL_ISA"] == isa


def test_an_unknown_instruction_set_is_an_error(native):
    done = python("-c", "import rankdistill.ops", RANKDISTILL_ISA="sse9")
    assert done.returncode == 1
    assert (
        "RANKDISTILL_ISA: expected baseline, avx2, avx512, avx512vnni or avx512bf16; got sse9" in done.stderr
    )
    done = python("-m", "rankdistill.collect_env", RANKDISTILL_ISA="sse9")
    assert done.returncode == 1
    assert "got sse9" in labelled(done.stdout)["ERROR"]


def test_two_openmp_runtimes_are_a_warning(monkeypatch):
    from rankdistill import collect_env

    monkeypatch.setattr(collect_env, "openmp_runtimes", lambda: ["/a/libgomp.so.1", "/b/libgomp-1.so.1"])
    lines = dict(collect_env.openmp())
    assert "2 OpenMP runtimes" in lines["WARNING"]
    assert "Import torch first" in lines["WARNING"]


def test_a_section_that_breaks_does_not_hide_the_others(monkeypatch):
    from rankdistill import collect_env

    def broken():
        yield "first", "kept"
        raise OSError("no such device")

    monkeypatch.setattr(collect_env, "SECTIONS", {"odd": broken, "versions": collect_env.versions})
    text, whole = collect_env.report()
    assert not whole
    assert "ERROR: OSError: no such device" in text
    assert "rankdistill: " in text


def test_works_where_triton_is_missing():
    assert "'triton', 'not installed'" in output(
        "import importlib.metadata as m; from rankdistill import collect_env\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name == 'triton': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version; print(list(collect_env.versions()))"
    )
