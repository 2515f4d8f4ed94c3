"""`python -m benchmarks <op> [--threads 1] [--rounds 9] [--shapes TEXT] [--no-save] [--device cpu] [--out DIR]`"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

OPS = sorted(
    p.stem
    for p in Path(__file__).parent.glob("*.py")
    if p.stem not in ("__init__", "__main__", "harness", "citeulike_rrd", "gpu_visit")
)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Times an op against its baselines."
    )
    parser.add_argument("op", choices=OPS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shapes", default="", help="only shapes whose name contains this")
    parser.add_argument("--no-save", dest="save", action="store_false", help="print the table only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = vars(parser.parse_args())
    module = importlib.import_module(f"benchmarks.{arguments.pop('op')}")
    from benchmarks.harness import Options

    module.main(Options(**arguments))


if __name__ == "__main__":
    main()
