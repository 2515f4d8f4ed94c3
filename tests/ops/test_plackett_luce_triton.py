"""The Triton kernels without a GPU: their numbers under Triton's interpreter, and their machine code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from tests.process import with_tests

pytest.importorskip("triton", reason="no triton package")


def run(script: str, *arguments: str, **variables: str) -> str:
    command = [sys.executable, "-P", "-m", f"tests.ops.{script}", *arguments]
    done = subprocess.run(
        command,
        env=with_tests(**variables),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_numbers_under_the_interpreter():
    printed = run("triton_numbers", "cpu", TRITON_INTERPRET="1")
    assert printed.count("checked") == 18


@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_ahead_of_time_without_spills(capability, tmp_path):
    variables = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    results = json.loads(run("triton_compile", str(capability), **variables))
    assert len(results) == 48
    for result in results:
        if result["storage"] != "fp64" or result["K"] <= 1000:
            assert result["STACK"] == result["LOCAL"] == 0, result


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_numbers_on_cuda():
    assert run("triton_numbers", "cuda", TRITON_INTERPRET="0").count("checked") == 18
