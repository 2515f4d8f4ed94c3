"""Compiles the Triton kernels over pairs ahead of time for a compute capability; prints their stack and registers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from rankdistill.kernels.triton import grouped_relation_distance, pair_distance_huber, triplet_angle_huber
from rankdistill.kernels.triton.pair_tiles import BLOCK_COLUMNS, BLOCK_ROWS, BLOCK_WIDTH, WARPS, width_block
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TILE = {"BLOCK_I": BLOCK_ROWS, "BLOCK_J": BLOCK_COLUMNS, "BLOCK_D": BLOCK_WIDTH}
SIZES = {"B": "i32"}


def kernels(storage: str):
    """(kernel, its signature, further constants)."""
    table = f"*{storage}"
    pointers = lambda names: dict.fromkeys(names, table)
    slopes = {"WITH_SLOPES": True}
    yield (
        grouped_relation_distance.grouped_relation_distance_kernel,
        {
            **pointers(("teacher_ptr", "student_ptr")),
            "blocks_ptr": "*i64",
            **pointers(("losses_ptr", "slopes_ptr")),
        },
        slopes | {"POSITIVE_ONLY": True},
    )
    yield (
        triplet_angle_huber.triplet_angle_huber_kernel,
        {**pointers(("teacher_ptr", "student_ptr", "losses_ptr", "slopes_ptr")), **SIZES},
        slopes,
    )
    norms = ("teacher_ptr", "teacher_norms_ptr", "student_ptr", "student_norms_ptr")
    yield (
        pair_distance_huber.distance_sums_kernel,
        {**pointers((*norms, "sums_ptr")), **SIZES, "share": "fp32"},
        {},
    )
    yield (
        pair_distance_huber.pair_distance_huber_kernel,
        {
            **pointers((*norms, "scales_ptr", "sums_ptr", "slopes_ptr", "mean_slopes_ptr")),
            **SIZES,
            "share": "fp32",
        },
        slopes,
    )


def compiled(kernel, signature, constants, storage: str, D: int, capability: int) -> dict:
    constants = {**TILE, **constants, "D_T": 2 * D, "D_S": D}
    if "WITH_SLOPES" in constants:
        constants["BLOCK_S"] = width_block(D)
    full = signature | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, full, constants)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": WARPS})
    assert f".target sm_{capability}" in made.asm["ptx"]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {name: int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")}
    tensor_core = bool(re.search(r"mma\.sync|wgmma", made.asm["ptx"]))
    return {"kernel": kernel.__name__, "storage": storage, "D": D, "tensor_core": tensor_core, **found}


if __name__ == "__main__":
    results = [
        compiled(*kernel, storage, D, int(sys.argv[1]))
        for storage in ("fp32", "fp64")
        for kernel in kernels(storage)
        for D in ((20, 128) if "WITH_SLOPES" in kernel[2] else (20,))
    ]
    print(json.dumps(results))
