"""`python -m benchmarks <op> [--threads 1] [--rounds 9] [--shapes TEXT] [--variants TEXT] [--no-save] [--out DIR] …`"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

NOT_OPS = {
    "__init__",
    "__main__",
    "harness",
    "competitors",
    "item_tables",
    "citeulike_rrd",
    "gpu_visit",
    "models",
    "sampling_laws",
    "scaling_model",
    "scaling_measured",
}
OPS = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in NOT_OPS)

SETTLED = "RANKDISTILL_BENCHMARKS_SETTLED"


def settle(blas_kernels: str) -> None:
    """Starts this process again with variables that libraries read only while they load.

    Idle workers of one library's OpenMP must not spin while another library is timed. OpenBLAS takes its kernels by
    OPENBLAS_CORETYPE, or by the processor's name; the copy in faiss is older than Zen 4 and takes AVX2 ones there,
    which are slower than those for Skylake-X, its best where there is AVX-512.
    """
    if os.environ.get(SETTLED):
        return
    cpuinfo = Path("/proc/cpuinfo")
    if not blas_kernels and cpuinfo.exists() and "avx512f" in cpuinfo.read_text():
        blas_kernels = "SkylakeX"
    variables = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    variables |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", SETTLED: "1"}
    if blas_kernels not in ("", "auto"):
        variables["OPENBLAS_CORETYPE"] = blas_kernels
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], variables)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Times an op against its baselines."
    )
    parser.add_argument("op", choices=OPS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shapes", default="", help="only shapes whose name contains this")
    parser.add_argument(
        "--variants", default="", help="only the first variant and those whose name contains this"
    )
    parser.add_argument("--no-save", dest="save", action="store_false", help="print the table only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument(
        "--blas-kernels",
        default="",
        help="OPENBLAS_CORETYPE; auto lets each OpenBLAS choose; the best by default",
    )
    arguments = vars(parser.parse_args())
    settle(arguments.pop("blas_kernels"))
    module = importlib.import_module(f"benchmarks.{arguments.pop('op')}")
    from benchmarks.harness import Options

    module.main(Options(**arguments))


if __name__ == "__main__":
    main()
