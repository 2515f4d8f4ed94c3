"""The Triton forms of the ops on listed items, on the whole catalogue and of optimisers without a GPU: numbers and machine code."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("triton", reason="no triton package")

from tests.ops.test_plackett_luce_triton import run

# Of each part its script, and how often it says that it checked something: under the interpreter, on a device.
NUMBERS = {
    "gathered_inner_product": ("gathered_triton_numbers", 62, 98),
    "embedding_plackett_luce": ("gathered_triton_numbers", 28, 38),
    "coalesce_rows": ("gathered_triton_numbers", 1, 1),
    "lazy_update": ("lazy_triton_numbers", 58, 58),
    "catalogue_log_mass": ("catalogue_triton_numbers", 40, 76),
    "catalogue_plackett_luce": ("catalogue_triton_numbers", 28, 64),
    "paths": ("catalogue_triton_numbers", 5, 5),
}
SLOW = ("catalogue_log_mass", "catalogue_plackett_luce", "gathered_inner_product")


def check_numbers(part: str, device: str) -> None:
    script, interpreted, all_cases = NUMBERS[part]
    cpu = device == "cpu"
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if cpu else {}
    printed = run(script, device, part, TRITON_INTERPRET=str(int(cpu)), **one_thread)
    assert printed.count("checked") >= (interpreted if cpu else all_cases)


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=pytest.mark.slow if part in SLOW else ()) for part in NUMBERS]
)
def test_numbers_under_the_interpreter(part):
    check_numbers(part, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_ahead_of_time(capability, tmp_path):
    variables = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    results = json.loads(run("table_triton_compile", str(capability), **variables))
    assert len({r["kernel"] for r in results}) == 23
    steps = [(r["kernel"], r["storage"]) for r in results if r["kernel"].startswith("lazy_update_")]
    assert len(steps) == 5 * 3, "a step that differs in a rate or a number of rows is compiled anew"
    for result in results:
        assert result["target"].startswith(f"sm_{capability}"), result
        assert result["LOCAL"] == 0, result
        assert result["shared"] <= 160 << 10, result
        sweeps = result["kernel"].startswith("catalogue_log_mass_") and result["kernel"].endswith(
            ("forward_kernel", "users_kernel", "items_kernel")
        )
        assert result["tensor_core"] == sweeps, result
        assert result["STACK"] <= (MOST_STACK if sweeps else 16), result


def test_another_batch_size_compiles_nothing(tmp_path):
    variables = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    made = json.loads(run("table_triton_compile", "90", "batches", **variables))
    assert made == {
        "gathered_inner_product_forward_kernel": 1,
        "gathered_inner_product_row_grads_kernel": 1,
        "gathered_inner_product_keys_kernel": 1,
        "plackett_luce_forward_kernel": 1,
        "plackett_luce_backward_kernel": 1,
    }


# Bytes of a thread: tiles of exclusions, biases and norms beside two products do not quite fit for some shapes.
MOST_STACK = 400


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("part", NUMBERS)
def test_numbers_on_cuda(part):
    check_numbers(part, "cuda")
