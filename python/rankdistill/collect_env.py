"""What serves which op on this machine, and why: `python -m rankdistill.collect_env` prints it for a bug report."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from rankdistill import __version__
from rankdistill.machine import CUDA_CURE, NATIVE_CURE, cuda_driver, processor_name

Lines = Iterator[tuple[str, str]]

FOREIGN_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TRITON_INTERPRET")


def versions() -> Lines:
    yield "rankdistill", f"{__version__} in {Path(__file__).parent}"
    yield "python", f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    yield "platform", f"{platform.platform()}, {platform.machine()}"
    for package in ("torch", "numpy", "safetensors", "triton"):
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, "not installed"


def processor() -> Lines:
    yield "model", processor_name()
    yield "logical processors", f"{os.cpu_count()}, {len(os.sched_getaffinity(0))} of them for this process"
    import torch

    yield "torch threads", str(torch.get_num_threads())
    native = module("_native")
    if native is None:
        yield "native module", f"not built. {NATIVE_CURE}"
        return
    yield "native module", f"{native.__file__}, compiler {native.compiler()}"
    yield "instruction sets", f"{', '.join(native.supported_isas())} supported; {native.isa()} in use"
    yield "native threads", str(native.max_threads()) if native.openmp() else "1, built without OpenMP"


def openmp() -> Lines:
    runtimes = openmp_runtimes()
    for path in runtimes:
        yield "runtime", path
    if not runtimes:
        yield "runtime", "none mapped"
    if len(runtimes) > 1:
        warning = (
            f"{len(runtimes)} OpenMP runtimes in one process: torch.set_num_threads may not reach the native "
            "kernels, and threads compete. Import torch first, or remove the copy that another package brought."
        )
        yield "WARNING", warning


def cuda() -> Lines:
    import torch

    built = torch.version.cuda
    yield "torch.version.cuda", built or "none: a build of torch without CUDA"
    yield "torch.cuda.is_available()", str(torch.cuda.is_available())
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            yield (
                f"device {index}",
                (
                    f"{facts.name}, sm_{facts.major}{facts.minor}, {facts.total_memory / 2**30:.1f} GiB, "
                    f"{facts.multi_processor_count} multiprocessors"
                ),
            )
    yield "driver", cuda_driver() or "none found"
    compiled = module("_cuda")
    if compiled is None:
        yield "CUDA module", f"not built. {CUDA_CURE}"
        return
    yield "CUDA module", compiled.__file__
    version = compiled.runtime_version()
    yield "runtime", f"{version // 1000}.{version % 1000 // 10}, linked statically"
    yield "architectures built", compiled.architectures()
    yield "usable here", f"no: {compiled.unusable()}" if compiled.unusable() else "yes"


def backends() -> Lines:
    importlib.import_module("rankdistill.ops")
    from rankdistill.ops.registration import CHOICES

    for (op, device), choice in sorted(CHOICES.items()):
        reasons = [f"not {name}: {why.reason}. {why.cure}" for name, why in choice.passed_over.items()]
        yield f"{op} on {device}", "; ".join([choice.backend, *reasons])


def environment() -> Lines:
    names = [n for n in sorted(os.environ) if n.startswith("RANKDISTILL_") or n in FOREIGN_VARIABLES]
    for name in names:
        yield name, os.environ[name]
    if not names:
        yield "RANKDISTILL_*", "none set"


SECTIONS = {
    "versions": versions,
    "processor": processor,
    "CUDA": cuda,
    "backends": backends,
    # After all that may map a runtime.
    "OpenMP": openmp,
    "environment variables": environment,
}


def module(name: str):
    """A compiled module of this package, or None where it was not built."""
    try:
        return importlib.import_module(f"rankdistill.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"rankdistill.{name}":
            raise
        return None


def openmp_runtimes() -> list[str]:
    """The OpenMP runtimes mapped into this process, once each (Linux; elsewhere none are found)."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    paths = {line.split(maxsplit=5)[-1] for line in maps.read_text().splitlines() if "/" in line}
    return sorted(p for p in paths if Path(p).name.startswith(("libgomp", "libiomp5", "libomp")))


def report() -> tuple[str, bool]:
    """The report, and whether every section could be written; one that could not says why in its place."""
    lines, whole = [], True
    for title, section in SECTIONS.items():
        lines.append(f"{title}:")
        try:
            lines += [f"  {label}: {value}" for label, value in section()]
        except Exception as error:  # noqa: BLE001 - a report with a gap says more than a traceback
            lines.append(f"  ERROR: {type(error).__name__}: {error}")
            whole = False
    return "\n".join(lines), whole


def main() -> int:
    text, whole = report()
    print(text)
    return 0 if whole else 1


if __name__ == "__main__":
    raise SystemExit(main())
