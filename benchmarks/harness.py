"""Timing with a correctness gate: nothing is timed before every variant has given the right answer.

A benchmark file `benchmarks/<op>.py` defines `main(options)`, which calls `run` once.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Options:
    threads: int = 1
    rounds: int = 9
    warmup_s: float = 0.3
    shapes: str = ""
    save: bool = True
    device: str = "cpu"
    out: Path = RESULTS


@dataclass(frozen=True)
class Shape:
    """`name` says what it stands for; `sizes` are in the house's letters: {"B": 1024, "N": 100_000, …}."""

    name: str
    sizes: dict[str, int]

    def __getitem__(self, letter: str) -> int:
        return self.sizes[letter]


@dataclass(frozen=True)
class Work:
    """What one call has to do at least: floating-point operations, and bytes read and written."""

    flops: float = 0.0
    bytes: float = 0.0


@dataclass
class Timing:
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    extra_mb: float | None = None


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def time_once(call: Callable, timing: Timing) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    timing.cpu_ms.append((time.process_time() - cpu) * 1e3)
    timing.wall_ms.append((time.perf_counter() - wall) * 1e3)
    del result


def resident_kb(what: str) -> int:
    return int(re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def moved(value, device: str):
    """Tensors, and tuples of them, on `device`; leaves that require gradients stay such."""
    if isinstance(value, tuple):
        return tuple(moved(part, device) for part in value)
    if isinstance(value, torch.Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    return value


def extra_memory_mb(call: Callable, options: Options) -> float | None:
    """Peak memory of one call above what stood before it: resident (Linux), or the device's."""
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_kb("VmRSS")
        result = call()
        peak = resident_kb("VmHWM")
        del result
    except OSError:
        return None
    return max(0, peak - before) / 1024


def interleaved(calls: dict[str, Callable], options: Options) -> dict[str, Timing]:
    timings = {name: Timing() for name in calls}
    for call in calls.values():
        stop = time.perf_counter() + options.warmup_s
        call()
        while time.perf_counter() < stop:
            call()
    for _ in range(options.rounds):
        for name, call in calls.items():
            time_once(call, timings[name])
    return timings


def ceilings(options: Options) -> dict[str, float]:
    """What this machine reaches now: torch's matrix products in GFLOP/s, a copy (read + write) in GB/s."""
    sizes = ((2048, 2048), (512, 64), (64, 8192), (512, 8192), (16 << 20,), (16 << 20,))
    square, users, items, out, source, target = (torch.randn(size, device=options.device) for size in sizes)
    works = {
        "torch.mm 2048x2048x2048, GFLOP/s": (lambda: torch.mm(square, square), 2 * 2048**3),
        "torch.mm 512x8192x64, GFLOP/s": (lambda: torch.mm(users, items, out=out), 2 * 512 * 8192 * 64),
        "copy of 64 MiB, GB/s": (lambda: target.copy_(source), 2 * 4 * (16 << 20)),
    }
    timings = interleaved({name: call for name, (call, _) in works.items()}, options)
    return {name: works[name][1] / milliseconds(t, options, 0.5) / 1e6 for name, t in timings.items()}


def milliseconds(timing: Timing, options: Options, q: float) -> float:
    """One thread is quoted in process CPU time, which other processes do not disturb; several in wall time."""
    own = options.threads == 1 and options.device == "cpu"
    return quantile(timing.cpu_ms if own else timing.wall_ms, q)


def device(options: Options) -> str:
    if options.device == "cuda":
        return torch.cuda.get_device_name()
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return model[1] if model else platform.machine()


def environment(options: Options) -> dict:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    described = subprocess.run(git, capture_output=True, text=True, check=False)
    try:
        from rankdistill import _native

        native = {"isa": _native.isa(), "compiler": _native.compiler(), "openmp": _native.openmp()}
    except ImportError:
        native = None
    return {
        "commit": described.stdout.strip() or None,
        "device": device(options),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "native": native,
        "threads": options.threads,
        "rounds": options.rounds,
        "time": "process CPU" if options.threads == 1 and options.device == "cpu" else "wall",
    }


def row(name: str, timing: Timing, work: Work, options: Options) -> dict:
    median = milliseconds(timing, options, 0.5)
    return {
        "variant": name,
        "ms": median,
        "p10": milliseconds(timing, options, 0.1),
        "p90": milliseconds(timing, options, 0.9),
        "wall_ms": quantile(timing.wall_ms, 0.5),
        "gflops": work.flops / median / 1e6 or None,
        "gbytes": work.bytes / median / 1e6 or None,
        "extra_mb": timing.extra_mb,
    }


def table(name: str, results: list[dict], facts: dict, limits: dict[str, float]) -> str:
    clock = "CPU-ms" if facts["time"] == "process CPU" else "ms"
    lines = [f"# {name}", "", ", ".join(f"{k} {v}" for k, v in facts.items() if k != "native"), ""]
    lines += ["Ceilings: " + "; ".join(f"{k}: {v:.1f}" for k, v in limits.items()), ""]
    lines += [f"| shape | variant | {clock} | p10–p90 | GFLOP/s | GB/s | extra MB |", "| --- " * 7 + "|"]

    def number(value: float | None, digits: int = 1) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    for result in results:
        sizes = ", ".join(f"{k}={v}" for k, v in result["sizes"].items())
        for r in result["variants"]:
            lines.append(
                f"| {result['shape']} ({sizes}) | {r['variant']} | {number(r['ms'], 2)} "
                f"| {number(r['p10'], 2)}–{number(r['p90'], 2)} | {number(r['gflops'])} | {number(r['gbytes'])} "
                f"| {number(r['extra_mb'])} |"
            )
    return "\n".join(lines) + "\n"


def run(
    name: str,
    shapes: list[Shape],
    prepare: Callable[[Shape], tuple],
    variants: dict[str, Callable],
    gate: Callable[[Shape, tuple, dict], None],
    work: Callable[[Shape], Work],
    options: Options,
) -> list[dict]:
    """Times every variant on every shape whose name contains `options.shapes`, and stores and prints the table.

    `prepare(shape)` makes the arguments that each variant is called with. `gate(shape, args, outputs)` gets what
    each variant returned and raises (AssertionError) unless all are right; then nothing is timed at all.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        results = []
        limits = ceilings(options)
        for shape in (s for s in shapes if options.shapes in s.name):
            args = moved(prepare(shape), options.device)
            calls = {k: (lambda v=v, args=args: v(*args)) for k, v in variants.items()}
            gate(shape, args, {k: call() for k, call in calls.items()})
            timings = interleaved(calls, options)
            for k, call in calls.items():
                timings[k].extra_mb = extra_memory_mb(call, options)
            rows = [row(k, t, work(shape), options) for k, t in timings.items()]
            results.append(
                {"shape": shape.name, "sizes": shape.sizes, "work": asdict(work(shape)), "variants": rows}
            )
    finally:
        torch.set_num_threads(threads)
    facts = environment(options)
    text = table(name, results, facts, limits)
    if options.save:
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        slug = re.sub(r"[^a-z0-9]+", "-", f"{name}-{facts['device']}-{options.threads}t".lower()).strip("-")
        stored = {"op": name, "environment": facts, "ceilings": limits, "results": results}
        (out / f"{slug}.json").write_text(json.dumps(stored, indent=1) + "\n")
        (out / f"{slug}.md").write_text(text)
    print(text)
    return results
