"""The Triton forms of the ranking ops without a GPU: their numbers under the interpreter, and their machine code."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("triton", reason="no triton package")

from tests.ops.test_plackett_luce_triton import run

OPS = ("inner_product_topk", "masked_topk", "inner_product_rank", "masked_rank")
ON_CUDA = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
)
# Of an op's cases in tests/cases.py, of every dtype, and of the paths that the script forces.
CHECKED = {
    "inner_product_topk": (56, 31),
    "masked_topk": (52, 36),
    "inner_product_rank": (56, 33),
    "masked_rank": (52, 15),
}


def check_numbers(op: str, part: str, device: str) -> None:
    printed = run("ranking_triton_numbers", device, op, part, TRITON_INTERPRET=str(int(device == "cpu")))
    assert printed.count("checked") == CHECKED[op][part == "paths"]


@pytest.mark.parametrize("op", OPS)
def test_cases_under_the_interpreter(op):
    check_numbers(op, "cases", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_paths_under_the_interpreter(op):
    check_numbers(op, "paths", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_ahead_of_time_without_spills(capability, tmp_path):
    variables = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    results = json.loads(run("ranking_triton_compile", str(capability), **variables))
    assert len({r["kernel"] for r in results}) == 19
    for result in results:
        assert result["target"].startswith(f"sm_{capability}"), result
        # Ranks keep two numbers of a thread in memory for some shapes, with registers to spare.
        allowed = 16 if result["kernel"] == "inner_product_rank_count_kernel" else 0
        assert result["STACK"] <= allowed, result
        assert result["LOCAL"] == 0, result
        assert result["shared"] <= 160 << 10, result
        tiles = result["kernel"] in ("inner_product_topk_filter_kernel", "inner_product_topk_sample_kernel")
        assert result["tensor_core"] or not tiles, result


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("part", ["cases", "paths"])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_numbers_on_cuda(op, part):
    check_numbers(op, part, "cuda")
