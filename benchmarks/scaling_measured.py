"""The scaling model against measurements of one process and of two over gloo: `python -m benchmarks.scaling_measured`.

Bandwidths are measured first. Bytes are those of the loopback device, alone in a network namespace where the system lets us
have one. Times of a busy machine say little: medians of several rounds, and the ratio to the model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.scaling_model import Machine, Work, step
from rankdistill import Batch, MatrixFactorization, Objective, Share, reduce_gradients
from rankdistill.losses import Distillation
from rankdistill.losses.list_scores import list_above_the_rest, unique_rows
from rankdistill.optim import make_optimizers

WORKS = {
    "few rows of large tables": Work(60_000, 120_000, 32, 1024, 40),
    "most rows of small tables": Work(2_000, 3_000, 64, 2048, 80),
    "dense Adam": Work(60_000, 120_000, 32, 1024, 40, optimizer="adam"),
}
TINY = Work(50, 50, 4, 8, 2)
STEPS = 6
LOADED = 20 << 20  # bytes of code and threads that a first step brings


class RandomLists(Distillation):
    """Lists of uniform items, those of a user always the same: what a step costs, not what it teaches."""

    divides = "users"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def forward(self, student, batch):
        users, _ = unique_rows(batch, "lists", self.work.users)
        places = torch.arange(self.work.listed)
        items = (users[:, None] * 7919 + places * 104_729 + users[:, None] * places * 31) % self.work.items
        lengths = torch.full((len(users),), self.work.listed // 2)
        return list_above_the_rest("lists", student, users, items, self.work.listed // 2, lengths, "sum")


def loopback_bytes() -> int:
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line)
    return int(line.split(":")[1].split()[8])


def steps_of(work: Work) -> dict:
    """Median seconds of a step, bytes sent by all in a step, and this process's bytes above those before the model."""
    size = dist.get_world_size()
    share = Share(dist.get_rank(), size) if size > 1 else None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lazy = work.optimizer != "adam"
    model = MatrixFactorization(work.users, work.items, work.width, sparse_grad=lazy or size > 1)
    objective = Objective(model, [(1.0, RandomLists(work))])
    optimizers = make_optimizers(work.optimizer, model.tables(), [], 1e-3, 0.0).values()
    best = [p.detach().clone() for p in model.parameters()]
    seconds, sent = [], []
    for at in range(STEPS):
        generator = torch.Generator().manual_seed(at)
        users = torch.randint(work.users, (work.batch,), generator=generator)
        items = torch.randint(work.items, (work.batch, 2), generator=generator)
        dist.barrier()
        started, counted = time.perf_counter(), loopback_bytes()
        for optimizer in optimizers:
            optimizer.zero_grad()
        objective(Batch(users, items[:, 0], items[:, 1:], share)).backward()
        reduce_gradients(model.parameters())
        for p in model.parameters():
            if not lazy and p.grad.is_sparse:
                p.grad = p.grad.to_dense()
        for optimizer in optimizers:
            optimizer.step()
        seconds.append(time.perf_counter() - started)
        dist.barrier()
        sent.append(loopback_bytes() - counted)
    held = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {
        "seconds": statistics.median(seconds),
        "sent": statistics.median(sent),
        "held": held,
        "best": len(best),
    }


def machine_of() -> Machine:
    """Bandwidths of this process, and what a step costs beside them."""
    table = torch.ones(1 << 24)

    def median(call, n: int = 7) -> float:
        times = []
        for _ in range(n):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    other = torch.zeros_like(table)
    memory = 2 * table.numel() * 4 / median(lambda: other.copy_(table))
    link, hop, size = 1e30, 0.0, dist.get_world_size()
    if size > 1:
        few = torch.zeros(1)
        hop = median(lambda: dist.all_reduce(few), 50) / 2
        link = 2 * (size - 1) / size * table.numel() * 4 / median(lambda: dist.all_reduce(table))
    machine = Machine(memory, link, hop, 0.0)
    tiny = steps_of(TINY)["seconds"]
    return Machine(memory, link, hop, max(tiny - step(TINY, machine, size).seconds, 0.0))


def rank_main(rank: int, size: int, folder: Path, name: str, timed: bool) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{size}-{name}"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=120))
    found = steps_of(WORKS[name])  # first: memory is counted from its highest mark
    unknown = Machine(1.0, 1.0, 0.0, 0.0)
    found["machine"] = asdict(machine_of() if timed else unknown)
    if rank == 0:
        (folder / f"answer-{size}-{name}").write_text(json.dumps(found))
    dist.destroy_process_group()


def measured(name: str, size: int, folder: Path, timed: bool = True) -> dict:
    command = [
        sys.executable,
        "-m",
        "benchmarks.scaling_measured",
        "--folder",
        str(folder),
        "--work",
        name,
        "--size",
        str(size),
    ]
    command += [] if timed else ["--untimed"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    processes = [subprocess.Popen([*command, "--rank", str(rank)], env=environment) for rank in range(size)]
    statuses = [process.wait(300) for process in processes]
    if any(statuses):
        raise RuntimeError(f"scaling_measured: expected {size} processes to end well; got a failure")
    return json.loads((folder / f"answer-{size}-{name}").read_text())


def compared(name: str, size: int, found: dict) -> dict[str, float]:
    """Measured over modelled: seconds, bytes sent, bytes held."""
    model = step(WORKS[name], Machine(**found["machine"]), size)
    return {
        "seconds": found["seconds"] / model.seconds,
        "sent": found["sent"] / (size * model.sent) if size > 1 else 1.0,
        "held": found["held"] / (model.held + LOADED),
    }


def alone() -> bool:
    """Begins again in a network namespace of its own, so that nobody else's bytes are counted."""
    if os.environ.get("SCALING_ALONE") or not shutil.which("unshare") or not shutil.which("ip"):
        return bool(os.environ.get("SCALING_ALONE"))
    if subprocess.run(
        ["unshare", "-rn", "ip", "link", "set", "lo", "up"], stderr=subprocess.DEVNULL
    ).returncode:
        return False
    os.environ["SCALING_ALONE"] = "1"
    os.execvp(
        "unshare",
        [
            "unshare",
            "-rn",
            "sh",
            "-c",
            'ip link set lo up && exec "$@"',
            "sh",
            sys.executable,
            *sys.orig_argv[1:],
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling_measured", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", default="", help="works whose name contains this")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    parser.add_argument("--untimed", dest="timed", action="store_false", help="bytes alone")
    for option, kind in (("--folder", Path), ("--work", str), ("--size", int), ("--rank", int)):
        parser.add_argument(option, type=kind, help="of a single process, which this program starts itself")
    given = parser.parse_args()
    if given.rank is not None:
        rank_main(given.rank, given.size, given.folder, given.work, given.timed)
        return
    print("" if alone() else "The loopback device is shared: bytes of others are counted too.")
    head = "| work | processes | step, ms | measured / model: seconds | bytes sent | bytes held |"
    print(f"{head}\n| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in WORKS if given.only in name):
            for size in given.sizes:
                found = measured(name, size, Path(folder), given.timed)
                ratios = compared(name, size, found)
                cells = [
                    name,
                    str(size),
                    f"{1e3 * found['seconds']:.1f}",
                    *(f"{r:.2f}" for r in ratios.values()),
                ]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
