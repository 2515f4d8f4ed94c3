"""A model of one step of data-parallel training: time, memory and bytes sent, `python -m benchmarks.scaling_model`.

Not a measurement. It counts what `rankdistill.parallel` does for a model of two tables with a list-wise method that
divides users, and divides by bandwidths; `python -m benchmarks.scaling_measured` compares it with two processes here.

Assumptions: ids are drawn uniformly (skew makes batches share more rows, and everything cheaper); a ring for every
collective; nothing overlaps; numbers are float32; kernels are bound by memory, gathering whole cache lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BYTES = 4  # of a number
LINE = 64  # bytes that a gathered row costs at least
AT_HAND = 1 << 22  # users whose lists of an epoch are held at once
# How often a step passes over a number: of gathered rows forward (read), backward (read, read and write the
# gradient); of dense Adam's tables (weights, two moments: read and write; gradient: read); of a gradient made dense.
ROW_PASSES, ADAM_PASSES, DENSE_GRADIENT_PASSES = 4, 7, 2


@dataclass(frozen=True)
class Work:
    """users U and items N of width D; a step of `batch` interactions with `negatives` each, and lists of `listed` items
    of each of its users; with `catalogue`, losses over all items instead of the lists."""

    users: int
    items: int
    width: int
    batch: int
    listed: int
    negatives: int = 1
    optimizer: str = "lazy_adam"  # or adam
    interactions: int = 0
    catalogue: bool = False


@dataclass(frozen=True)
class Machine:
    """What one process has: bytes/s of memory, bytes/s sent to others, seconds of a collective's hop and of a step's
    calls, operations/s of products, bytes that fit."""

    memory: float
    link: float
    hop: float
    calls: float
    products: float = 1e10
    capacity: float = math.inf  # bytes


@dataclass(frozen=True)
class Step:
    """Of each process: seconds, bytes sent, bytes held."""

    compute: float
    optimizer: float
    exchange: float
    sent: float
    held: float

    @property
    def seconds(self) -> float:
        return self.compute + self.optimizer + self.exchange


def distinct(draws: float, n: int) -> float:
    """Expected different ones among uniform draws of n."""
    return -n * math.expm1(draws * math.log1p(-1 / n)) if n > 1 else min(draws, n)


def gathers(ranks: int, rows: float, table: int, width: int) -> bool:
    """The choice that `rankdistill.parallel.gradients.gathering_is_less` makes."""
    return ranks * rows * (8 + width * BYTES) <= 2 * table * (width + 1) * BYTES


def step(work: Work, machine: Machine, ranks: int) -> Step:
    row = work.width * BYTES
    line = -(-row // LINE) * LINE
    own = work.batch / ranks
    listed_users = distinct(work.batch, work.users) / ranks
    # A share of interactions, by position, and a share of the batch's users, by id, are different users.
    draws = {"users": own + listed_users, "items": own * (1 + work.negatives) + listed_users * work.listed}
    sizes = {"users": work.users, "items": work.items}
    compute = ROW_PASSES * line * sum(draws.values()) / machine.memory
    if work.catalogue:  # scores forward and, made again, backward, and a product for each of both gradients
        compute += 8 * listed_users * work.items * work.width / machine.products
    sent = hops = merging = touched_bytes = buffers = 0.0
    for side, n_draws in draws.items():
        table = sizes[side]
        full = work.catalogue and side == "items"
        rows = table if full else distinct(n_draws, table)
        if ranks > 1 and not full and gathers(ranks, rows, table, work.width):
            sent += (ranks - 1) * rows * (8 + row)
            hops += 2 * (ranks - 1)
            merging += 3 * ranks * rows * (8 + row)  # written by the exchange, sorted, added up
            buffers += 2 * ranks * rows * (8 + row)
        elif ranks > 1:
            whole = table * (work.width + 1) * BYTES
            sent += 2 * (ranks - 1) / ranks * whole
            hops += 2 * (ranks - 1)
            merging += 5 * whole  # cleared, filled, added to, searched, taken from
            buffers += whole
        touched_bytes += (table if full else distinct(n_draws * ranks, table)) * row
    if ranks > 1:
        hops += ranks - 1  # how many rows each has
        sent += (ranks - 1) * 8 * 2
    tables = (work.users + work.items) * row
    passes = ADAM_PASSES + DENSE_GRADIENT_PASSES if work.optimizer == "adam" else 0
    optimizer = (passes * tables or ADAM_PASSES * touched_bytes) / machine.memory
    gradient = tables if work.optimizer == "adam" else touched_bytes
    lists = 4 * work.listed * work.users if work.users <= AT_HAND else 0
    interactions = 8 * (6 + 2 * work.negatives) * work.interactions
    return Step(
        compute + machine.calls,
        optimizer + merging / machine.memory,
        sent / machine.link + hops * machine.hop if ranks > 1 else 0.0,
        sent,
        4 * tables + gradient + buffers + lists + interactions,  # weights, the best ones, two moments
    )


# One H100 SXM: 3.35 TB/s, of which gathers reach some 60 %; 450 GB/s each way over NVLink within a node of 8, of which
# collectives reach some 70 %; 67 TFLOP/s in float32, of which tiles reach some 45 %; one port of 400 Gb/s for each GPU between nodes, of which they reach some 80 %.
GPU = Machine(memory=2e12, link=315e9, hop=5e-6, calls=2e-3, products=30e12, capacity=80e9)
BETWEEN_NODES = replace(GPU, link=40e9, hop=15e-6)


def on_gpus(ranks: int) -> Machine:
    return GPU if ranks <= 8 else BETWEEN_NODES


def table(each: int = 8192, width: int = 64, listed: int = 80) -> str:
    """Markdown: the same number of interactions for every GPU, so that a step's work grows with them."""
    head = ["method, optimiser", "items (and users)", "GPUs", "held, GB", "sent a step, MB", "compute, ms"]
    head += ["rows and optimiser, ms", "exchange, ms", "step, ms", "interactions/s", "times one GPU"]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for method, optimizer in (("lists", "adam"), ("lists", "lazy_adam"), ("whole catalogue", "adam")):
        for items in (1_000_000, 10_000_000, 100_000_000):
            first = 0.0
            for ranks in (1, 8, 64):
                work = Work(items, items, width, each * ranks, listed, 1, optimizer, 0, method != "lists")
                found = step(work, on_gpus(ranks), ranks)
                rate = work.batch / found.seconds
                first = rate if ranks == 1 else first
                held = f"{found.held / 1e9:.1f}" + ": does not fit" * (found.held > GPU.capacity)
                times = found.compute, found.optimizer, found.exchange, found.seconds
                cells = [f"{method}, {optimizer}", f"{items // 1_000_000} M", str(ranks), held]
                cells += [f"{found.sent / 1e6:.0f}", *(f"{1e3 * t:.1f}" for t in times)]
                cells += [f"{rate:,.0f}", f"{rate / first:.1f}"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(__doc__)
    print(
        "A model, not a measurement: 8192 interactions a GPU and step, D = 64, lists of 80 items, on H100s.\n"
    )
    print(table())
