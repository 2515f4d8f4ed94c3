"""The Triton forms of the ops over pairs without a GPU: their numbers under the interpreter, and their machine code."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("triton", reason="no triton package")

from tests.ops.test_plackett_luce_triton import run


def test_numbers_under_the_interpreter():
    assert run("relation_triton_numbers", "cpu", TRITON_INTERPRET="1").count("checked") >= 35


@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_ahead_of_time_without_spills(capability, tmp_path):
    variables = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    results = json.loads(run("relation_triton_compile", str(capability), **variables))
    assert len(results) == 14
    for result in results:
        assert result["tensor_core"], result
        if result["storage"] == "fp32":
            # Two weighted sums beside two tiles: the distances' kernel does not quite fit.
            allowed = 160 if result["kernel"] == "pair_distance_huber_kernel" else 0
            assert result["STACK"] <= allowed, result
            assert result["LOCAL"] == 0, result


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_numbers_on_cuda():
    assert run("relation_triton_numbers", "cuda", TRITON_INTERPRET="0").count("checked") >= 35
