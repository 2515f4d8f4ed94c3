"""Timing with a correctness gate: nothing is timed before every variant has given the right answer.

A benchmark file `benchmarks/<op>.py` defines `main(options)`, which calls `run` once; one that wants more than a table
calls `measure` and `report`. All variants of a shape are timed in turn, round by round, and with them the machine's
peak of fp32 multiply-adds, so that a busy machine disturbs all of them alike.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    variants: str = ""


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


@dataclass(frozen=True)
class PerShape:
    """A variant with preparations that are not timed (an index, a converted table): `make(*args)` gives the call."""

    make: Callable[..., Callable]


@dataclass(frozen=True)
class Missing:
    """A variant that cannot run here, and why: it stands in the table, never silently dropped."""

    reason: str


def compiled(variant: Callable[[Callable], Callable], composition: Callable) -> Callable | Missing:
    """`variant` of torch.compile of a composition, which the gate's call compiles before anything is timed."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return Missing(f"torch.compile needs a C++ compiler, and {compiler} is not on PATH")
    return variant(torch.compile(composition, dynamic=False))


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


def finished(call: Callable):
    """What it returns, once the device has made it."""
    result = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def time_once(call: Callable, timing: Timing) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    result = finished(call)
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
        finished(call)
        while time.perf_counter() < stop:
            finished(call)
    for _ in range(options.rounds):
        for name, call in calls.items():
            if options.threads > 1:
                time.sleep(SETTLE_S)
            time_once(call, timings[name])
    return timings


SETTLE_S = 0.02  # the workers of another library's threads spin for a while after their call
PEAK = "multiply-adds on registers"
PEAK_STEPS = 400_000  # 2.6 ms on AVX-512 at 115 GFLOP/s


def multiply_adds(what: int) -> tuple[Callable, float]:
    """A loop on registers alone, on all threads, and the operations it does: none without the native module."""
    try:
        from rankdistill import _native
    except ImportError:
        return (lambda: None), 0.0
    return (lambda: _native.multiply_adds(what, PEAK_STEPS)), float(_native.multiply_adds(what, PEAK_STEPS))


def by_tf32(sides: list[torch.Tensor]) -> torch.Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return torch.mm(*sides)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def ceilings(options: Options) -> dict[str, float]:
    """What this machine reaches now: multiply-adds on registers (a GPU: bf16 and TF32 products too) and torch's matrix
    products in GFLOP/s, a copy (read + write) in GB/s."""
    sizes = ((2048, 2048), (512, 64), (64, 8192), (512, 8192), (16 << 20,), (16 << 20,))
    square, users, items, out, source, target = (torch.randn(size, device=options.device) for size in sizes)
    works = {
        "torch.mm 2048x2048x2048, GFLOP/s": (lambda: torch.mm(square, square), 2 * 2048**3),
        "torch.mm 512x8192x64, GFLOP/s": (lambda: torch.mm(users, items, out=out), 2 * 512 * 8192 * 64),
        "copy of 64 MiB, GB/s": (lambda: target.copy_(source), 2 * 4 * (16 << 20)),
    }
    if options.device == "cuda":
        sides = [torch.randn(8192, 8192, device="cuda") for _ in range(2)]
        halves = [side.bfloat16() for side in sides]
        works["torch.mm of bf16, 8192x8192x8192, GFLOP/s"] = (lambda: torch.mm(*halves), 2 * 8192**3)
        works["torch.mm by TF32, 8192x8192x8192, GFLOP/s"] = (lambda: by_tf32(sides), 2 * 8192**3)
    else:
        for what, kind in enumerate(("fp32", "bf16", "int8")):
            loop = multiply_adds(what)
            if loop[1]:
                works[f"{kind} {PEAK}, Gop/s"] = loop
    timings = interleaved({name: call for name, (call, _) in works.items()}, options)
    return {name: works[name][1] / milliseconds(t, options, 0.5) / 1e6 for name, t in timings.items()}


def milliseconds(timing: Timing, options: Options, q: float) -> float:
    """One thread is quoted in process CPU time, which other processes do not disturb; several in wall time."""
    return quantile(quoted(timing, options), q)


def quoted(timing: Timing, options: Options) -> list[float]:
    own = options.threads == 1 and options.device == "cpu"
    return timing.cpu_ms if own else timing.wall_ms


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


def ratio(timing: Timing, other: Timing, options: Options) -> float:
    """The median over the rounds of how many times as long as `other` it took."""
    pairs = zip(quoted(timing, options), quoted(other, options), strict=True)
    return quantile([a / b for a, b in pairs], 0.5)


def row(name: str, timing: Timing, first: Timing, peak: float | None, work: Work, options: Options) -> dict:
    """`peak`: the multiply-adds per millisecond that this machine reached in the same rounds."""
    median = milliseconds(timing, options, 0.5)
    return {
        "variant": name,
        "ms": median,
        "p10": milliseconds(timing, options, 0.1),
        "p90": milliseconds(timing, options, 0.9),
        "cpu_ms": quantile(timing.cpu_ms, 0.5),
        "wall_ms": quantile(timing.wall_ms, 0.5),
        "times_first": ratio(timing, first, options),
        "gflops": work.flops / median / 1e6 or None,
        "of_peak": work.flops / median / peak if peak and work.flops else None,
        "gbytes": work.bytes / median / 1e6 or None,
        "extra_mb": timing.extra_mb,
    }


COLUMNS = "| shape | variant | {clock} | p10–p90 | × {first} | GFLOP/s | of fp32 peak | GB/s | extra MB |"


def number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def table(results: list[dict], facts: dict) -> str:
    """Markdown rows of what `measure` gave. The ratio says how many times as long as the first variant one took."""
    clock = "CPU-ms" if facts["time"] == "process CPU" else "ms"
    lines, first = [], None
    for result in results:
        rows = result["variants"]
        if rows[0]["variant"] != first:
            first = rows[0]["variant"]
            lines += ["", COLUMNS.format(clock=clock, first=first), "| --- | --- |" + " ---: |" * 7]
        sizes = ", ".join(f"{k}={v}" for k, v in result["sizes"].items())
        for r in rows:
            lines.append(
                f"| {result['shape']} ({sizes}) | {r['variant']} | {number(r['ms'], 2)} "
                f"| {number(r['p10'], 2)}–{number(r['p90'], 2)} | {number(r['times_first'], 2)} "
                f"| {number(r['gflops'])} | {number(r['of_peak'], 2)} | {number(r['gbytes'])} | {number(r['extra_mb'])} |"
            )
        for name, reason in result["missing"].items():
            lines.append(f"| {result['shape']} ({sizes}) | {name} | {reason} |" + " |" * 6)
    return "\n".join(lines[1:])


def measure(
    shapes: Sequence[Shape],
    prepare: Callable[[Shape], tuple],
    variants: dict[str, Callable | PerShape | Missing],
    gate: Callable[[Shape, tuple, dict], None],
    work: Callable[[Shape], Work],
    options: Options,
) -> list[dict]:
    """Times every variant on every shape whose name contains `options.shapes`; see `run`."""
    first = next(name for name, v in variants.items() if not isinstance(v, Missing))
    asked = {name: v for name, v in variants.items() if name == first or options.variants in name}
    missing = {name: v.reason for name, v in asked.items() if isinstance(v, Missing)}
    wanted = {name: v for name, v in asked.items() if name not in missing}
    loop, operations = multiply_adds(0) if options.device == "cpu" else (None, 0.0)
    results = []
    for shape in (s for s in shapes if options.shapes in s.name):
        args = moved(prepare(shape), options.device)
        calls = {
            name: v.make(*args) if isinstance(v, PerShape) else (lambda v=v, args=args: v(*args))
            for name, v in wanted.items()
        }
        gate(shape, args, {name: call() for name, call in calls.items()})
        timings = interleaved(calls | ({PEAK: loop} if operations else {}), options)
        peak = cores = None
        if operations:
            loop_timing = timings.pop(PEAK)
            peak = operations / milliseconds(loop_timing, options, 0.5)
            cores = sum(loop_timing.cpu_ms) / sum(loop_timing.wall_ms)
        for name, call in calls.items():
            timings[name].extra_mb = extra_memory_mb(call, options)
        rows = [row(name, t, timings[first], peak, work(shape), options) for name, t in timings.items()]
        results.append(
            {
                "shape": shape.name,
                "sizes": shape.sizes,
                "work": asdict(work(shape)),
                "peak_gflops": peak and peak / 1e6,
                "cores": cores,
                "variants": rows,
                "missing": missing,
            }
        )
    return results


def in_files(name: str) -> str:
    """A name as those of results' files have it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def report(
    name: str, results: list[dict], limits: dict[str, float], options: Options, notes: Sequence[str] = ()
) -> None:
    """Prints the page, and stores it as Markdown and JSON in `options.out`. `notes` stand between the facts and the table."""
    facts = environment(options)
    lines = [f"# {name}", "", ", ".join(f"{k} {v}" for k, v in facts.items() if k != "native")]
    lines += ["", "Ceilings: " + "; ".join(f"{k}: {v:.1f}" for k, v in limits.items())]
    cores = [f"{result['cores']:.2f}" for result in results if result["cores"]]
    if cores:
        lines += ["", f"Cores that {PEAK} got, of {options.threads}, shape by shape: {', '.join(cores)}"]
    for note in notes:
        lines += ["", note]
    text = "\n".join([*lines, "", table(results, facts)]) + "\n"
    if options.save:
        out = Path(options.out)
        out.mkdir(parents=True, exist_ok=True)
        slug = in_files(f"{name}-{facts['device']}-{options.threads}t")
        stored = {
            "op": name,
            "environment": facts,
            "ceilings": limits,
            "notes": list(notes),
            "results": results,
        }
        (out / f"{slug}.json").write_text(json.dumps(stored, indent=1) + "\n")
        (out / f"{slug}.md").write_text(text)
    print(text)


@contextmanager
def threads(options: Options) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(
    name: str,
    shapes: Sequence[Shape],
    prepare: Callable[[Shape], tuple],
    variants: dict[str, Callable | PerShape | Missing],
    gate: Callable[[Shape, tuple, dict], None],
    work: Callable[[Shape], Work],
    options: Options,
) -> list[dict]:
    """Times every variant on every shape whose name contains `options.shapes`, and stores and prints the table.

    `prepare(shape)` makes the arguments that each variant is called with; the first variant is the one that the others
    are compared with. `gate(shape, args, outputs)` gets what each variant returned and raises (AssertionError)
    unless all are right; then nothing is timed at all.
    """
    with threads(options):
        limits = ceilings(options)
        results = measure(shapes, prepare, variants, gate, work, options)
    report(name, results, limits, options)
    return results
