"""Compiles every Triton kernel ahead of time for a compute capability, and prints its stack and registers as JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from rankdistill.kernels.triton import plackett_luce as kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

LISTS = (16, 40, 100, 1000, 4096)
FORWARD = {"scores_ptr": 0, "tail_ptr": 0, "lengths_ptr": "*i64", "losses_ptr": 1, "stride_scores_row": "i64"}
FORWARD |= {"stride_tail_row": "i64", "K": "i32", "L": "i32"}
BACKWARD = {"grad_losses_ptr": 1, "scores_ptr": 0, "tail_ptr": 0, "lengths_ptr": "*i64", "grad_scores_ptr": 0}
BACKWARD |= {"grad_tail_ptr": 0, "stride_grad": "i64", "stride_scores_row": "i64", "stride_tail_row": "i64"}
BACKWARD |= {"stride_grad_scores_row": "i64", "stride_grad_tail_row": "i64"}
BACKWARD |= {"K": "i32", "L": "i32"}


def compiled(kernel, signature, modes: dict, storage: str, K: int, capability: int) -> dict:
    types = [f"*{storage}", "*fp64" if storage == "fp64" else "*fp32"]
    sizes = kernels.blocks(K, 1000)
    warps = sizes.pop("num_warps")
    constants = {"HAS_LENGTHS": True, **sizes, **modes}
    full = {name: types[kind] if isinstance(kind, int) else kind for name, kind in signature.items()}
    full |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, full, constants)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    assert f".target sm_{capability}" in made.asm["ptx"]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {name: int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK", "LOCAL")}
    return {"kernel": kernel.__name__, "storage": storage, "K": K, **found}


if __name__ == "__main__":
    results = [
        compiled(kernel, signature, modes, storage, K, int(sys.argv[1]))
        for kernel, signature, modes, lists in (
            (kernels.plackett_luce_forward_kernel, FORWARD, {}, LISTS),
            (kernels.plackett_luce_backward_kernel, BACKWARD, {"GIVES_LOSSES": False}, LISTS),
            (kernels.plackett_luce_backward_kernel, BACKWARD, {"GIVES_LOSSES": True}, (40, 4096)),
        )
        for storage in ("fp32", "bf16", "fp16", "fp64")
        for K in lists
    ]  # fmt: skip
    print(json.dumps(results))
