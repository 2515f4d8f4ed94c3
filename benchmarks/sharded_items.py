"""Tables divided by rows among ranks on this machine: bytes sent, memory and time, each number of ranks in processes of its own.

Ranks are processes of one thread that talk over gloo, more of them than cores perhaps: times are of this machine, bytes
are of any. Every op's result is compared with that of the whole table on one rank before it is timed.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.harness import Options, Shape, environment, quantile, resident_kb
from rankdistill import functional, ops, sharded
from rankdistill.optim import LazyAdam
from rankdistill.sharded.layout import normal_rows

TIMED = Shape("200k items", {"B": 1024, "N": 200_000, "D": 64, "K": 40, "L": 40})
LARGE = Shape("4M items", {"B": 1024, "N": 4_000_000, "D": 64, "K": 40, "L": 40})
WORLDS = (1, 2, 4)
CHECKED = 8  # rows of a rank that are compared
TEACHER = 128  # width of the teacher's vectors


class Rank:
    """One rank's table and its part of the whole batch."""

    def __init__(self, shape: Shape, sparse_grad: bool = True) -> None:
        self.shape, self.rank, self.world = shape, dist.get_rank(), dist.get_world_size()
        N, D = shape["N"], shape["D"]
        self.table = sharded.ShardedTable.normal(
            N, D, torch.Generator().manual_seed(0), 0.3, sparse_grad=sparse_grad
        )
        B, generator = shape["B"] // self.world, torch.Generator().manual_seed(1 + self.rank)
        self.users = (torch.randn(B, D, generator=generator) * 0.3).requires_grad_()
        self.listed = torch.randint(0, N, (B, shape["K"] + shape["L"]), generator=generator)
        self.ids = self.listed[:, :2].flatten()

    @property
    def top(self) -> Tensor:
        return self.listed[:, : self.shape["K"]]

    def stepped(self, loss: Tensor) -> Tensor:
        loss.sum().backward()
        self.table.rows.grad = self.users.grad = None
        return loss.detach()

    def calls(self) -> dict[str, Callable[[], Tensor]]:
        table, users, K = self.table, self.users, self.shape["K"]
        return {
            "lookup of 2 ids a row, backward": lambda: self.stepped(table.lookup(self.ids).sum(1)),
            "BPR, backward": lambda: self.stepped(pairwise(sharded.gathered_inner_product, users, table, self.listed)),
            "embedding_plackett_luce, backward": lambda: self.stepped(
                sharded.embedding_plackett_luce(users, table, self.listed, K)
            ),
            "catalogue_plackett_luce, backward": lambda: self.stepped(
                sharded.catalogue_plackett_luce(users, table, self.top)
            ),
            "inner_product_topk": lambda: sharded.inner_product_topk(users, table, 100).scores,
        }  # fmt: skip

    def expected(self) -> dict[str, Tensor]:
        """The same of the first rows, with the whole table."""
        N, D = self.shape["N"], self.shape["D"]
        whole = normal_rows(N, D, range(N), torch.Generator().manual_seed(0), 0.3)
        users, listed, K = self.users.detach()[:CHECKED], self.listed[:CHECKED], self.shape["K"]
        return {
            "lookup of 2 ids a row, backward": whole[self.ids[: 2 * CHECKED]].sum(1),
            "BPR, backward": pairwise(ops.gathered_inner_product, users, whole, listed),
            "embedding_plackett_luce, backward": ops.embedding_plackett_luce(users, whole, listed, K),
            "catalogue_plackett_luce, backward": ops.catalogue_plackett_luce(users, whole, listed[:, :K]),
            "inner_product_topk": ops.inner_product_topk(users, whole, 100).scores,
        }


def pairwise(scores: Callable, users: Tensor, table, listed: Tensor) -> Tensor:
    found = scores(users, table, listed[:, :2])
    return functional.bayesian_personalized_ranking(found[:, 0], found[:, 1], "none")


def timed(shape: Shape, rounds: int) -> list[dict]:
    """Per op: the median of the milliseconds that all ranks take, and the bytes that this rank sends."""
    here = Rank(shape)
    for name, wanted in here.expected().items():
        torch.testing.assert_close(here.calls()[name]()[: len(wanted)], wanted, rtol=2e-6, atol=1e-6)
    rows = []
    for name, call in here.calls().items():
        before = here.table.ranks.bytes_sent
        call()
        sent, took = here.table.ranks.bytes_sent - before, []
        for _ in range(rounds):
            dist.barrier()
            begun = time.perf_counter()
            call()
            dist.barrier()
            took.append((time.perf_counter() - begun) * 1e3)
        rows.append({"op": name, "bytes": sent, "ms": quantile(took, 0.5), "all_ms": took})
    return rows


def training_memory(shape: Shape, steps: int = 3) -> dict:
    """Peak resident bytes above an idle rank of making the table and lazy Adam, and of a few steps of lists."""
    small = Shape("none", {**shape.sizes, "N": 4096, "B": 8 * dist.get_world_size()})
    train(Rank(small), 1)  # the libraries' own buffers
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    idle = resident_kb("VmRSS")
    here = Rank(shape)
    train(here, steps)
    peak, slice_bytes = (resident_kb("VmHWM") - idle) * 1024, here.table.rows.nbytes
    return {"peak": peak, "slice": slice_bytes, "times_slice_and_moments": peak / (3 * slice_bytes)}


def train(here: Rank, steps: int) -> None:
    optimizer = LazyAdam([here.table.rows], 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        sharded.embedding_plackett_luce(here.users, here.table, here.listed, here.shape["K"]).sum().backward()
        optimizer.step()


def on_ranks(world: int, what: str, shape: Shape, rounds: int) -> list:
    """What `what` gives on every rank of `world` fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "benchmarks.sharded_items",
            what,
            json.dumps([shape.name, shape.sizes]),
        ]
        processes = [
            subprocess.Popen([*command, str(rank), str(world), folder, str(rounds)], cwd=Path(__file__).parents[1])
            for rank in range(world)
        ]  # fmt: skip
        statuses = [process.wait(timeout=900) for process in processes]
        if any(statuses):
            raise RuntimeError(f"sharded_items: expected every rank to end with 0; got {statuses}")
        return [json.loads((Path(folder) / str(rank)).read_text()) for rank in range(world)]


def worker(what: str, shape: str, rank: str, world: str, folder: str, rounds: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), int(world))
    dist.init_process_group(
        "gloo", store=store, rank=int(rank), world_size=int(world), timeout=timedelta(seconds=300)
    )
    name, sizes = json.loads(shape)
    of = Shape(name, sizes)
    found = timed(of, int(rounds)) if what == "timed" else training_memory(of)
    (Path(folder) / rank).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main(options: Options) -> None:
    rounds = max(3, options.rounds // 3)
    lines = ["| op | ranks | ms a step, all ranks | MB sent by a rank |", "| --- | ---: | ---: | ---: |"]
    results: dict = {"timed": {}, "memory": {}}
    for world in WORLDS:
        ranks = results["timed"][world] = on_ranks(world, "timed", TIMED, rounds)
        for rows in zip(*ranks):
            sent = max(row["bytes"] for row in rows) / 1e6
            lines.append(f"| {rows[0]['op']} | {world} | {rows[0]['ms']:.1f} | {sent:.3f} |")
    memory = results["memory"] = on_ranks(4, "memory", LARGE, rounds)
    worst = max(memory, key=lambda row: row["peak"])
    facts = environment(options)
    kept = (
        f"{LARGE.name}, 4 ranks, lists under lazy Adam, {LARGE.sizes}: peak memory of a rank above an idle one "
        f"{worst['peak'] / 2**20:.0f} MiB, {worst['times_slice_and_moments']:.3f} times its rows and two moments "
        f"({3 * worst['slice'] / 2**20:.0f} MiB)."
    )
    text = "\n".join(
        [
            "# sharded_items", "", "Two cores, gloo: ranks of one thread each, on a busy machine of two cores: bytes are exact, times are not.", "",
            f"commit {facts['commit']}, device {facts['device']}, torch {facts['torch']}, rounds {rounds}, wall time", "",
            f"{TIMED.name}, the whole batch of all ranks: {TIMED.sizes}", "", *lines, "",
            kept,
        ]
    )  # fmt: skip
    if options.save:
        options.out.mkdir(parents=True, exist_ok=True)
        stored = {"op": "sharded_items", "environment": facts, "results": results}
        (options.out / "sharded-items-two-cores-gloo.json").write_text(json.dumps(stored, indent=1) + "\n")
        (options.out / "sharded-items-two-cores-gloo.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(*sys.argv[1:])
    else:
        main(Options())
