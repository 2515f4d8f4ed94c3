"""Compiles what the Triton launchers of the ranking ops launch, for a compute capability; prints its machine code's needs.

Nothing runs: a driver without a device takes the launches, so that block shapes, warps and specialisations are those of
real calls. Results are garbage, but nothing that a launcher reads back on the host: counts stay zero.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from rankdistill.kernels.triton import (
    inner_product_rank,
    inner_product_topk,
    masked_rank,
    masked_topk,
    score_tile,
)
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from tests.case import randint, randn
from tests.score_cases import lists_of

# Rows and widths: every shape of tile in fp32, then the other storages.
CALLS = {
    torch.float32: ((16, 16), (60, 64), (300, 100), (300, 20)),
    torch.float64: ((16, 20),),
    torch.float16: ((60, 64),),
    torch.bfloat16: ((300, 20), (300, 200)),
}
N = 20_000
SHARED_KIB = {80: 163, 86: 99, 90: 227}  # of a block, by compute capability


class Driver:
    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def launched(capability: int) -> list[tuple]:
    """(kernel's name, storage, compiled kernel) of every launch."""
    found, storage = {}, ""
    driver.set_active(Driver(capability))
    run, options = JITFunction.run, score_tile.TileShape.options

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        found.setdefault(id(kernel), (self.__name__, storage, kernel))

    JITFunction.run = compile_only
    score_tile.TileShape.options = lambda self, device: options(self, torch.device("cuda"))
    score_tile.shared_bytes = lambda device: SHARED_KIB[capability] << 10
    for dtype, shapes in CALLS.items():
        storage = str(dtype).removeprefix("torch.")
        for B, D in shapes:
            call_all(B, D, dtype)
    return list(found.values())


def call_all(B: int, D: int, dtype: torch.dtype) -> None:
    users, items, scores = randn(B, D, dtype=dtype), randn(N, D, dtype=dtype), torch.zeros(B, N, dtype=dtype)
    bias, mask = randn(N, dtype=dtype), torch.zeros(B, N, dtype=torch.bool)
    mask[:, ::1000] = True
    exclude, item_ids = lists_of(mask), randint(0, N, (B, 10))
    for lists, item_bias in (((None, None), None), (exclude, bias)):
        inner_product_topk.inner_product_topk(users, items, 100, *lists, item_bias)
        inner_product_topk.inner_product_topk(users, items[:100], 100, *lists, item_bias)
        inner_product_rank.inner_product_rank(users, items, item_ids, *lists, item_bias)
    for lists, masked in ((exclude, None), ((None, None), mask)):
        for k in (100, 15_000):
            masked_topk.masked_topk(scores, k, *lists, masked)
        masked_rank.masked_rank(scores, item_ids, *lists, masked)


def needs(name: str, storage: str, kernel) -> dict:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {part: int(re.search(rf"{part}:(\d+)", usage)[1]) for part in ("REG", "STACK", "LOCAL")}
    ptx = kernel.asm["ptx"]
    return {
        "kernel": name,
        "storage": storage,
        "target": re.search(r"\.target (\w+)", ptx)[1],
        "tensor_core": bool(re.search(r"mma\.sync|wgmma", ptx)),
        "shared": kernel.metadata.shared,
        **found,
    }


if __name__ == "__main__":
    print(json.dumps([needs(*launch) for launch in launched(int(sys.argv[1]))]))
