"""Everything that only a GPU machine can tell, in one go and without a network: `python benchmarks/gpu_visit.py --out DIR`.

Builds the package from this tree into a scratch folder, tests it on the device, looks for memory errors and
races, and times every op. A step that fails is recorded and the rest goes on; `summary.json` says what ran.
Exit code: 0 all well, 1 a step failed, 2 no CUDA device.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TOTAL_SECONDS = 570  # a whole visit, so that a ten-minute lease also fits the start and the summary
TAIL_LINES = 25
OF_SEVERAL_OPS = {"device_calls", "training_step"}

IMPORTS_FROM = """
import sys, rankdistill, rankdistill._native, rankdistill._cuda
files = [m.__file__ for m in (rankdistill, rankdistill._native, rankdistill._cuda)]
sys.exit(0 if all(f.startswith(sys.argv[1]) for f in files) else f"expected modules in {sys.argv[1]}; got {files}")
"""


class Step(NamedTuple):
    name: str
    command: list[str]
    limit: int  # seconds
    variables: dict[str, str]


def steps(out: Path, scratch: Path, architecture: str) -> list[Step]:
    python, site = sys.executable, scratch / "site"
    variables = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "", "TRITON_CACHE_DIR": str(scratch / "triton")}
    pytest = [python, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    side_by_side = (
        ["-n", str(min(12, os.cpu_count() or 1)), "--dist", "worksteal"] if installed("xdist") else []
    )
    # The oracles of a dozen processes, each with all threads, would fight over the processor's cores.
    tested = variables | {"OMP_NUM_THREADS": "1"} if side_by_side else variables
    build = [python, "-m", "pip", "install", "-v", "--no-index", "--no-build-isolation", "--no-deps"]
    build += ["--upgrade", "--target", str(site)]
    definitions = [
        f"build-dir={scratch / 'build'}",
        "cmake.define.RANKDISTILL_CUDA=ON",
        f"cmake.define.CMAKE_CUDA_ARCHITECTURES={architecture}",
    ]
    plan = [
        Step("machine", ["nvidia-smi"], 30, {}),
        Step("build", [*build, *(part for d in definitions for part in ("-C", d)), str(ROOT)], 180, {}),
        # An editable install would win over PYTHONPATH, and another tree would be tested.
        Step("import", [python, "-c", IMPORTS_FROM, str(site)], 60, variables),
        Step("collect_env", [python, "-m", "rankdistill.collect_env"], 60, variables),
        Step(
            "gpu_tests",
            [
                *pytest,
                *side_by_side,
                "-m",
                "gpu",
                "tests/parallel/test_gpu.py",
                "tests/test_studies.py",
                "tests/ops",
            ],
            300,
            tested,
        ),
        Step(
            "cpu_contract",
            [*pytest, *side_by_side, "-m", "not gpu and not slow", "tests/ops"],
            120,
            tested,
        ),
    ]
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer:
        small = [
            *pytest,
            "-m",
            "gpu",
            "-k",
            "smallest",
            "tests/ops/test_gpu.py",
            "tests/ops/test_gpu_topk.py",
        ]
        for tool in ("memcheck", "racecheck"):
            plan.append(
                Step(
                    tool,
                    [sanitizer, "--tool", tool, "--error-exitcode", "9", *small],
                    90,
                    # torch's caching allocator would hide an access past the end of a tensor
                    variables | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                )
            )
    for op in benchmarked_ops():
        command = [python, "-m", "benchmarks", op, "--device", "cuda", "--out", str(out)]
        plan.append(Step(f"benchmark_{op}", command, 90, variables))
    return plan


def benchmarked_ops() -> list[str]:
    """Ops (and losses) with a benchmark of their own name, and what times several, if the harness is there."""
    if not (ROOT / "benchmarks" / "__main__.py").is_file():
        return []
    package = ROOT / "python" / "rankdistill"
    names = {p.stem for folder in ("ops", "losses") for p in (package / folder).glob("*.py")}
    there = {p.stem for p in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    return sorted((names | OF_SEVERAL_OPS) & there)


def run(step: Step, log: Path, limit: float) -> tuple[int, float]:
    """(exit code, seconds); 124 where the step was stopped at its limit, 127 where its program is missing."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RANKDISTILL_")} | step.variables
    begin = time.monotonic()
    with log.open("w") as stream:
        stream.write("$ " + command_line(step) + "\n\n")
        stream.flush()
        try:
            # A group of its own: what the step started ends with it.
            process = subprocess.Popen(
                step.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=stream,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            stream.write(f"{error}\n")
            return 127, time.monotonic() - begin
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            stream.write(f"\nstopped after {limit:.0f} s\n")
            code = 124
    return code, time.monotonic() - begin


def command_line(step: Step) -> str:
    words = [*(f"{k}={v}" for k, v in step.variables.items()), *step.command]
    return " ".join(word if word and not set(word) & set(" \n\"'$;") else shlex.quote(word) for word in words)


def visit(plan: list[Step], out: Path, total: float = TOTAL_SECONDS) -> int:
    """Runs the plan; writes a log per step, summary.json and summary.md; returns the exit code."""
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    deadline, results = time.monotonic() + total, []
    for step in plan:
        limit = min(step.limit, deadline - time.monotonic())
        log = logs / f"{step.name}.log"
        print(f"== {step.name}", flush=True)
        if limit < 5:
            result = {"step": step.name, "rc": None, "seconds": 0.0, "last_line": "not run: no time was left"}
        else:
            code, seconds = run(step, log, limit)
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            result = {
                "step": step.name,
                "rc": code,
                "seconds": round(seconds, 1),
                "last_line": lines[-1][:200],
            }
            if code != 0 or step.name == "collect_env":
                print("\n".join(lines[-TAIL_LINES:]), flush=True)
        result["command"] = command_line(step)
        results.append(result)
        # After each step, so that a visit that is cut short leaves a record.
        (out / "summary.json").write_text(json.dumps(results, indent=1) + "\n")
    rows = [f"| {r['step']} | {r['rc']} | {r['seconds']} | {escaped(r['last_line'])} |" for r in results]
    table = "\n".join(["| step | rc | seconds | last line |", "| --- | --- | --- | --- |", *rows])
    (out / "summary.md").write_text(f"# GPU visit\n\n{table}\n")
    print(table, flush=True)
    return 0 if all(r["rc"] == 0 for r in results) else 1


def escaped(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def device() -> tuple[str | None, str]:
    """(architecture of device 0 for CMake, None without one; what was found)."""
    if not installed("torch"):
        return None, "torch is not installed"
    import torch

    if not torch.cuda.is_available():
        return None, f"torch {torch.__version__} finds none"
    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}{minor}-real", torch.cuda.get_device_name(0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    parser.add_argument(
        "--only", metavar="REGEX", default="", help="run the steps whose name matches, and the build"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        help="a folder to build in and keep; --only then builds again only where it matches",
    )
    options = parser.parse_args(arguments)
    architecture, found = device()
    with tempfile.TemporaryDirectory(prefix="rankdistill-visit-") as temporary:
        scratch = (options.scratch or Path(temporary)).resolve()
        plan = steps(options.out.resolve(), scratch, architecture or "90-real")
        built = (scratch / "site" / "rankdistill").is_dir()
        plan = [s for s in plan if re.search(options.only, s.name) or (s.name == "build" and not built)]
        if options.dry_run:
            for step in plan:
                print(f"# {step.name}: at most {step.limit} s\n{command_line(step)}")
            return 0
        if architecture is None:
            print(f"gpu_visit: expected a CUDA device; got none: {found}", file=sys.stderr)
            return 2
        print(f"gpu_visit on {found}", flush=True)
        return visit(plan, options.out.resolve())


if __name__ == "__main__":
    raise SystemExit(main())
