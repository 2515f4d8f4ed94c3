"""The Triton forms of the ranking ops without a GPU: their numbers under the interpreter, and their machine code."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("triton", reason="no triton package")

from tests.ops.test_plackett_luce_triton import run
from tests.process import ROOT, python

OPS = ("inner_product_topk", "masked_topk", "inner_product_rank", "masked_rank")
# Of an op's cases in tests/cases.py, of every dtype, and of the paths that the script forces.
CHECKED = {
    "inner_product_topk": (56, 23),
    "masked_topk": (52, 23),
    "inner_product_rank": (56, 33),
    "masked_rank": (52, 15),
}


def check_numbers(op: str, part: str, device: str) -> None:
    interpreted = device == "cpu"
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if interpreted else {}
    variables = {"TRITON_INTERPRET": str(int(interpreted)), **one_thread}
    printed = run("ranking_triton_numbers", device, op, part, **variables)
    assert printed.count("checked") >= CHECKED[op][part == "paths"]


@pytest.mark.parametrize("op", OPS)
def test_cases_under_the_interpreter(op):
    check_numbers(op, "cases", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_paths_under_the_interpreter(op):
    check_numbers(op, "paths", "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "shared_kib"), [(80, 160), (86, 99), (90, 160)])
def test_compiles_ahead_of_time_without_spills(capability, shared_kib, tmp_path):
    variables = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    results = json.loads(run("ranking_triton_compile", str(capability), **variables))
    assert len({r["kernel"] for r in results}) == 22
    for result in results:
        assert result["target"].startswith(f"sm_{capability}"), result
        # Ranks keep two numbers of a thread in memory for some shapes, with registers to spare.
        allowed = 16 if result["kernel"] == "inner_product_rank_count_kernel" else 0
        assert result["STACK"] <= allowed, result
        assert result["LOCAL"] == 0, result
        assert result["shared"] <= shared_kib << 10, result
        tiles = result["kernel"] in ("inner_product_topk_filter_kernel", "inner_product_topk_sample_kernel")
        assert result["tensor_core"] or not tiles, result


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("part", ["cases", "paths"])
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_numbers_on_cuda(op, part):
    check_numbers(op, part, "cuda")


PUBLIC = """
import torch
from rankdistill import inner_product_rank, inner_product_topk, masked_rank, masked_topk, prepare_items
from rankdistill.ops.registration import CHOICES
from tests.case import randint, randn
for op in ("inner_product_topk", "masked_topk", "inner_product_rank", "masked_rank"):
    assert CHOICES[op, "CUDA"].backend == "triton", CHOICES[op, "CUDA"]
users, items, item_ids = randn(300, 64, seed=1), randn(200_000, 64, seed=2), randint(-1, 200_000, (300, 5), seed=3)
there, table, ids = users.cuda(), items.cuda(), item_ids.cuda()
wanted = inner_product_topk(users, items, 100)
for given in (table, prepare_items(table)):
    assert all(torch.equal(a.cpu(), b) for a, b in zip(inner_product_topk(there, given, 100), wanted))
assert torch.equal(inner_product_rank(there, table, ids).cpu(), inner_product_rank(users, items, item_ids))
scores = there @ table.T
assert all(torch.equal(a.cpu(), b) for a, b in zip(masked_topk(scores, 100), masked_topk(scores.cpu(), 100)))
assert torch.equal(masked_rank(scores, ids).cpu(), masked_rank(scores.cpu(), item_ids))
print("served")
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_large_catalogue_by_the_public_functions_on_cuda():
    """Triton forced in a fresh process; the processor's results, bit for bit."""
    done = python(
        "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + PUBLIC, RANKDISTILL_BACKEND="triton"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["served"]
