"""What serving costs: latency, throughput and memory of exact top-k lists, of several models side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from rankdistill import memory
from rankdistill.data.csr import CSR
from rankdistill.machine import processor_name
from rankdistill.models import Factors
from rankdistill.ops import checks, inner_product_topk
from rankdistill.ops.native import _native
from rankdistill.ops.prepared_items import prepare_items
from rankdistill.report import markdown

Result = TypeVar("Result")

OP = "bench-serving"
LEAST_QUERIES = 100  # for a 99th percentile
HEADER = (
    "model", "users per query", "p50 ms", "p99 ms", "ms per user", "users/s", "p50 × first", "user table", "item table",
    "prepared", "call",
)  # fmt: skip


@dataclass(frozen=True)
class Served:
    """One model at one number of users per query: times in milliseconds, memory in bytes (None: not known here)."""

    model: str
    batch_size: int
    queries: int
    p50_ms: float
    p99_ms: float
    mean_ms: float
    users_per_second: float
    times_first: float
    user_bytes: int
    item_bytes: int
    prepared_bytes: int
    call_bytes: int | None


class Server:
    """The model as a server holds it: tables in memory, the item table prepared once if asked for."""

    def __init__(self, factors: Factors, k: int, exclude: CSR | None, prepares: bool) -> None:
        self.k, self.exclude, self.factors = k, exclude, factors
        self.items: object = factors.items.contiguous()
        self.bias, self.prepared_bytes = factors.item_bias, 0
        if prepares:
            self.items, self.bias = prepare_items(self.items, self.bias), None
            self.prepared_bytes = 0 if self.items.buffer is None else self.items.buffer.nbytes

    def query(self, users: Tensor) -> None:
        """One query, from users' rows to their lists: the look-up of vectors and excluded items, and the top k."""
        exclude = None if self.exclude is None else self.exclude.rows(users)
        found = inner_product_topk(
            self.factors.users.index_select(0, users), self.items, self.k, exclude, self.bias
        )
        if self.factors.user_bias is not None:
            found.scores.add_(self.factors.user_bias[users, None])
        if users.is_cuda:
            torch.cuda.synchronize()


class ScoreServer:
    """Anything else with `topk(users, k, exclude)`, such as a `ScoreTeacher`; the size of its tables is not known."""

    prepared_bytes = 0

    def __init__(self, model, k: int, exclude: CSR | None) -> None:
        self.model, self.k, self.exclude = model, k, exclude

    def query(self, users: Tensor) -> None:
        self.model.topk(users, self.k, None if self.exclude is None else self.exclude.rows(users))


def measure(
    models: dict[str, Factors | object],
    k: int,
    batch_sizes: Sequence[int] = (1, 256),
    *,
    queries: int = 300,
    exclude: CSR | None = None,
    prepares: bool = True,
    warmup: float = 1.0,
    seed: int = 0,
) -> list[Served]:
    """Times single queries of every model, one after another in turn, the order reversed from round to round.

    Args:
        models: name → factors on one device, or anything with `topk`, `n_users` and `n_items`, on the processor; the first
            is what the others are compared with.
        k: list length.
        batch_sizes: users per query.
        queries: of every model and batch size, >= 100.
        exclude: items that users are not recommended (U rows), or None; looking them up is part of a query.
        prepares: whether the items are prepared once, before any query (`prepare_items`).
        warmup: seconds of untimed queries of every model and batch size before the timed ones.
        seed: of the users that ask; all models are asked for the same ones.

    Returns:
        For every batch size one `Served` of every model, in order. Throughput is that of queries one at a time.

    Example:
        >>> measure({"student": Factors(torch.ones(9, 4), torch.ones(99, 4))}, k=5, batch_sizes=[1])[0].queries
        300
    """
    checks.expect(queries >= LEAST_QUERIES, OP, f"queries of {LEAST_QUERIES} or more, for p99", queries)
    checks.expect(k >= 1, OP, "k of 1 or more", k)
    checks.expect(bool(batch_sizes) and min(batch_sizes) >= 1, OP, "batch_sizes of 1 or more", batch_sizes)
    n_users = min(factors.n_users for factors in models.values())
    if exclude is not None:
        for name, factors in models.items():
            got = f"{factors.n_users} × {factors.n_items} of {name}"
            fits = (exclude.n_rows, exclude.n_columns) == (factors.n_users, factors.n_items)
            checks.expect(fits, OP, f"models of {exclude.n_rows} users × {exclude.n_columns} items", got)
    servers = {
        name: Server(model, k, exclude, prepares)
        if isinstance(model, Factors)
        else ScoreServer(model, k, exclude)
        for name, model in models.items()
    }
    rows = []
    for batch_size in batch_sizes:
        generator = torch.Generator().manual_seed(seed)
        device = next(
            (m.users.device for m in models.values() if isinstance(m, Factors)), torch.device("cpu")
        )
        drawn = torch.randint(n_users, (queries, batch_size), generator=generator).to(device)
        for server in servers.values():
            stop = time.perf_counter() + warmup
            server.query(drawn[0])
            while time.perf_counter() < stop:
                server.query(drawn[0])
        times: dict[str, list[float]] = {name: [] for name in servers}
        for number, users in enumerate(drawn):
            for name in list(servers)[:: -1 if number % 2 else 1]:
                started = time.perf_counter()
                servers[name].query(users)
                times[name].append((time.perf_counter() - started) * 1e3)
        rows += [
            _served(name, servers[name], batch_size, values, next(iter(times.values())), drawn[0])
            for name, values in times.items()
        ]
    return rows


def _served(
    name: str, server: Server | ScoreServer, batch_size: int, ms: list[float], first: list[float], users
) -> Served:
    times, base = torch.tensor(ms, dtype=torch.float64), torch.tensor(first, dtype=torch.float64)
    size = lambda *tables: sum(t.nbytes for t in tables if t is not None)
    sizes = (0, 0)
    if isinstance(server, Server):
        own = server.factors
        sizes = size(own.users, own.user_bias), size(own.items, own.item_bias)
    return Served(
        name, batch_size, len(ms), float(times.quantile(0.5)), float(times.quantile(0.99)), float(times.mean()),
        batch_size * 1e3 / float(times.mean()), float(times.quantile(0.5) / base.quantile(0.5)),
        *sizes, server.prepared_bytes,
        peak_beside(lambda: server.query(users), users.is_cuda)[0],
    )  # fmt: skip


def peak_beside(call: Callable[[], Result], on_cuda: bool) -> tuple[int | None, Result]:
    """Bytes that a call needs at its peak beside what stood before (None where the system does not tell), and its result."""
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        return torch.cuda.max_memory_allocated() - before, result

    before = memory.reset_peak()
    result = call()
    return None if before is None else memory.peak_since(before), result


def conditions(device: torch.device, k: int, exclude: CSR | None, prepares: bool) -> dict[str, object]:
    """Under what the numbers were measured."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "torch_threads": torch.get_num_threads(),
        "native_threads": None if _native is None else _native.max_threads(),
        "isa": None if _native is None else _native.isa(),
        "torch": torch.__version__,
        "k": k,
        "excluded_items_per_user": None if exclude is None else len(exclude.indices) / max(1, exclude.n_rows),
        "prepared": prepares,
    }


def as_text(rows: Sequence[Served], facts: dict[str, object]) -> str:
    """The table and its conditions, as Markdown."""
    mib = lambda size: "–" if size is None else f"{size / 2**20:.2f} MiB"
    table = [HEADER]
    for r in rows:
        table.append((
            r.model, f"{r.batch_size}", f"{r.p50_ms:.3f}", f"{r.p99_ms:.3f}", f"{r.p50_ms / r.batch_size:.4f}",
            f"{r.users_per_second:,.0f}", f"{r.times_first:.2f}", mib(r.user_bytes), mib(r.item_bytes),
            mib(r.prepared_bytes), mib(r.call_bytes),
        ))  # fmt: skip
    left_out = facts["excluded_items_per_user"]
    return (
        f"{markdown(table)}\n\nExact top {facts['k']}, "
        f"{'nothing' if left_out is None else f'{left_out:.1f} items per user'} left out, item tables "
        f"{'prepared once' if facts['prepared'] else 'as they are'}; {rows[0].queries} queries each, one at a time and in "
        f"turn, wall time from users' rows to lists; `call` is the peak of memory that one needs besides. {facts['device']}, "
        f"{facts['torch_threads']} threads of torch, {facts['native_threads']} of the native kernels ({facts['isa']})."
    )
