"""Rankings of a million users from files into a folder, within a limit of memory, each shape in a process of its own.

The process ranks all users, once; then calls again, with the folder finished and with a shard lost; and lists a few
users by torch in chunks for comparison. A sample of the lists is compared with fp64 scores before anything is reported.
Needs 1.6 GB in the folder for temporary files (TMPDIR).
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file

from benchmarks.harness import (
    Options,
    Shape,
    Timing,
    Work,
    ceilings,
    multiply_adds,
    report,
    resident_kb,
    row,
    threads,
    time_once,
)
from benchmarks.inner_product_topk import gate_ours, torch_chunked
from rankdistill import extract_rankings
from rankdistill.data import CSR

EXCLUDED = 50  # items per user
CHECKED = 64  # users whose lists are compared with fp64 scores
COMPARED = 512  # users that torch lists
SECONDS_BETWEEN_LOOKS = 0.01
LOST = "rankings-00000-of-*.safetensors"

SHAPES = [
    Shape("1M users, 100k items", {"U": 1_000_000, "N": 100_000, "D": 64, "K": 100, "MiB": 1024}),
    Shape("20k users, 2M items, beyond memory", {"U": 20_000, "N": 2_000_000, "D": 64, "K": 100, "MiB": 256}),
]


def prepare(shape: Shape, folder: Path) -> None:
    """Tables and exclusions as files: one excluded item in each of 50 stretches of the items."""
    generator = torch.Generator().manual_seed(0)
    U, N = shape["U"], shape["N"]
    for name, rows in (("users", U), ("items", N)):
        save_file({name: torch.randn(rows, shape["D"], generator=generator)}, folder / name)
        (folder / name).rename(folder / f"{name}.safetensors")
    stretch = N // EXCLUDED
    drawn = torch.randint(stretch, (U, EXCLUDED), generator=generator) + torch.arange(EXCLUDED) * stretch
    indptr = torch.arange(U + 1) * EXCLUDED
    save_file({"indptr": indptr, "indices": drawn.reshape(-1)}, folder / "exclude.safetensors")


@contextmanager
def anonymous_peak(peak: list[int]):
    """Appends the peak of anonymous memory (RssAnon) above what stood before, in bytes: mapped files do not count."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = most = resident_kb("RssAnon")
    ended = threading.Event()

    def look() -> None:
        nonlocal most
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            most = max(most, resident_kb("RssAnon"))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        peak.append((most - before) * 1024)


def check(rankings, users, items, k: int, exclude: CSR) -> None:
    """A sample of the lists, the first and last users among them, is that of fp64 scores."""
    U = len(users)
    sample = torch.randint(U, (CHECKED,), generator=torch.Generator().manual_seed(1))
    sample = torch.cat([sample, torch.tensor([0, U - 1])]).sort().values
    lists = SimpleNamespace(scores=rankings.scores[sample], indices=rankings.indices[sample])
    rows = exclude.rows(sample)
    gate_ours(lists, users[sample], items, k, (rows.indptr, rows.indices), len(sample))


def measured(shape: Shape, folder: Path, options: Options) -> dict:
    """What a fresh process measures on the files of `prepare`: a result for `report`, with "facts" beside it."""
    settings = {"shape": asdict(shape), "threads": options.threads}
    (folder / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "benchmarks.extraction", str(folder)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def child(folder: Path) -> dict:
    settings = json.loads((folder / "settings.json").read_text())
    shape, options = Shape(**settings["shape"]), Options(threads=settings["threads"])
    torch.set_num_threads(options.threads)
    k, out = shape["K"], folder / "out"
    parts = load_file(folder / "exclude.safetensors")
    exclude = CSR(parts["indptr"], parts["indices"], shape["N"])
    loop, operations = multiply_adds(0)
    beside = Timing()  # the loop on registers, once per step

    def progress(steps):
        for step in steps:
            time_once(loop, beside)
            yield step

    def extract(progress=iter):
        files = (folder / f"{name}.safetensors" for name in ("users", "items"))
        return extract_rankings(
            *files, k, exclude, out=out, memory_limit=f"{shape['MiB']}MiB", progress=progress
        )

    extract_rankings(torch.randn(5000, 8), torch.randn(5000, 8), 10, out=folder / "warm", progress=iter)
    timings = {name: Timing() for name in ("extract_rankings", "again: finished", "again: a shard lost")}
    whole, finished, lost = timings.values()
    peak: list[int] = []
    with anonymous_peak(peak):
        time_once(lambda: extract(progress), whole)
    whole.wall_ms[0] -= sum(beside.wall_ms)
    whole.cpu_ms[0] -= sum(beside.cpu_ms)
    whole.extra_mb = peak[0] / 2**20
    time_once(extract, finished)
    (shard,) = out.glob(LOST)
    before = shard.read_bytes()
    shard.unlink()
    (out / "rankings.json").unlink()
    time_once(extract, lost)
    assert shard.read_bytes() == before, "expected the same bytes of a shard that was lost"

    users, items = (load_file(folder / f"{name}.safetensors")[name] for name in ("users", "items"))
    check(extract(), users, items, k, exclude)
    compared = min(COMPARED, len(users))
    cut = slice(0, int(exclude.indptr[compared]))
    sample = users[:compared], items, k, (exclude.indptr[: compared + 1], exclude.indices[cut])
    torch_name = f"torch in chunks, {compared} users × {len(users) / compared:g}"
    timings[torch_name] = Timing()
    time_once(lambda: torch_chunked(*sample), timings[torch_name])
    for values in (timings[torch_name].wall_ms, timings[torch_name].cpu_ms):
        values[0] *= len(users) / compared

    pace = sum(beside.cpu_ms if options.threads == 1 else beside.wall_ms) / len(beside.wall_ms)
    ceiling = operations / pace if operations else None
    work = Work(flops=2.0 * shape["U"] * shape["N"] * shape["D"])
    rows = [
        row(name, timing, whole, ceiling, Work() if name.startswith("again") else work, options)
        for name, timing in timings.items()
    ]
    written = sum(path.stat().st_size for path in out.iterdir())
    facts = {
        "wall_s": whole.wall_ms[0] / 1e3, "cpu_s": whole.cpu_ms[0] / 1e3, "peak_bytes": peak[0], "written_bytes": written,
        "users_per_s": 1e3 * shape["U"] / whole.wall_ms[0], "shards": len(list(out.glob("*.safetensors"))),
        "finished_s": finished.wall_ms[0] / 1e3, "lost_shard_s": lost.wall_ms[0] / 1e3,
    }  # fmt: skip
    return {
        "shape": shape.name, "sizes": shape.sizes, "work": asdict(work), "peak_gflops": ceiling and ceiling / 1e6,
        "cores": sum(beside.cpu_ms) / sum(beside.wall_ms), "variants": rows, "missing": {}, "facts": facts,
        "threads": options.threads,
    }  # fmt: skip


def note(result: dict) -> str:
    facts, limit = result["facts"], result["sizes"]["MiB"] << 20
    busy = " (busy machine)" if result["cores"] < 0.8 * result["threads"] else ""
    verdict = "within" if facts["peak_bytes"] <= limit else "ABOVE"
    return (
        f"{result['shape']}{busy}: {facts['wall_s']:.1f} s wall, {facts['cpu_s']:.1f} s CPU, {facts['users_per_s']:,.0f} users/s; "
        f"anonymous memory beside the inputs at most {facts['peak_bytes'] / 2**20:.0f} MiB, {verdict} the limit of "
        f"{result['sizes']['MiB']} MiB; {facts['written_bytes'] / 1e6:,.1f} MB in {facts['shards']} shards; a call that finds "
        f"all done {facts['finished_s']:.1f} s, one that finds a shard lost {facts['lost_shard_s']:.1f} s. {CHECKED + 2} "
        "lists compared with fp64 scores."
    )


def main(options: Options) -> None:
    with threads(options):
        limits = ceilings(options)
    results = []
    for shape in (s for s in SHAPES if options.shapes in s.name):
        with tempfile.TemporaryDirectory() as scratch:
            prepare(shape, Path(scratch))
            results.append(measured(shape, Path(scratch), options))
    notes = ["Each shape is extracted once; rows of torch are extrapolated from a part of the users."]
    report("extraction", results, limits, options, notes + [note(result) for result in results])


if __name__ == "__main__":
    print(json.dumps(child(Path(sys.argv[1]))))
