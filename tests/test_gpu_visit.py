"""The script for a GPU machine, as far as a machine without one can tell."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from tests.process import python

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_visit.py"


@pytest.fixture(scope="module")
def gpu_visit():
    spec = importlib.util.spec_from_file_location("gpu_visit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_it_says_so(tmp_path):
    done = python(str(SCRIPT), "--out", str(tmp_path / "results"))
    assert done.returncode == 2
    assert "gpu_visit: expected a CUDA device; got none" in done.stderr
    assert not (tmp_path / "results").exists()


def test_dry_run_prints_the_commands(tmp_path):
    done = python(str(SCRIPT), "--dry-run", "--out", str(tmp_path / "results"))
    assert done.returncode == 0, done.stderr
    for part in (
        "--no-build-isolation --no-deps --upgrade --target",
        "cmake.define.RANKDISTILL_CUDA=ON",
        "-m rankdistill.collect_env",
        " -m gpu tests/parallel/test_gpu.py tests/test_studies.py tests/ops",
        " -m 'not gpu and not slow' tests/ops",
    ):
        assert part in done.stdout
    assert not (tmp_path / "results").exists()


def test_sanitizers_run_where_the_tool_is(gpu_visit, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_visit.shutil, "which", lambda name: f"/opt/{name}")
    plan = {step.name: step for step in gpu_visit.steps(tmp_path, tmp_path, "90-real")}
    for name in ("memcheck", "racecheck"):
        assert plan[name].command[:3] == ["/opt/compute-sanitizer", "--tool", name]
        assert "--error-exitcode" in plan[name].command
        assert plan[name].variables["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"


def test_benchmarks_of_ops_are_found(gpu_visit, monkeypatch, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "python" / "rankdistill" / "ops").mkdir(parents=True)
    for path in (
        "benchmarks/__main__.py",
        "benchmarks/x.py",
        "benchmarks/harness.py",
        "python/rankdistill/ops/x.py",
    ):
        (tmp_path / path).touch()
    monkeypatch.setattr(gpu_visit, "ROOT", tmp_path)
    assert gpu_visit.benchmarked_ops() == ["x"]
    assert gpu_visit.steps(tmp_path, tmp_path, "90-real")[-1].name == "benchmark_x"


def test_a_failing_step_is_recorded_and_the_rest_goes_on(gpu_visit, tmp_path, capsys):
    def step(name, code, limit=30):
        return gpu_visit.Step(name, [sys.executable, "-c", code], limit, {})

    plan = [
        step("wrong", "print('no | luck'); raise SystemExit(3)"),
        step("slow", "import time; print('begun', flush=True); time.sleep(60)", limit=6),
        gpu_visit.Step("missing", ["no-such-program"], 30, {}),
        step("right", "print('well')"),
    ]
    assert gpu_visit.visit(plan, tmp_path) == 1
    results = json.loads((tmp_path / "summary.json").read_text())
    assert [r["rc"] for r in results] == [3, 124, 127, 0]
    assert results[1]["seconds"] >= 6
    assert results[3]["last_line"] == "well"
    assert "begun" in (tmp_path / "logs" / "slow.log").read_text()
    assert "| right | 0 |" in (tmp_path / "summary.md").read_text()
    assert r"no \| luck" in capsys.readouterr().out
    assert gpu_visit.visit(plan[3:], tmp_path) == 0


def test_no_step_begins_after_the_time_is_up(gpu_visit, tmp_path):
    assert gpu_visit.visit([gpu_visit.Step("late", [sys.executable, "-V"], 30, {})], tmp_path, total=1) == 1
    assert json.loads((tmp_path / "summary.json").read_text())[0]["rc"] is None


def test_a_kept_folder_is_built_once(tmp_path, capsys, gpu_visit):
    asked = ["--dry-run", "--scratch", str(tmp_path), "--only", "^import$"]
    assert gpu_visit.main(asked) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("# build")
    (tmp_path / "site" / "rankdistill").mkdir(parents=True)
    assert gpu_visit.main(asked) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("# import")
