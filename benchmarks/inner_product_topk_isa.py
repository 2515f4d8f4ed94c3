"""Exact top-K under each instruction set, a process each, since the set is chosen when the package is imported.

Each process measures its own peak of fp32 multiply-adds in the same rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Options, ceilings, number, report, threads
from benchmarks.inner_product_topk import OURS, verdict
from rankdistill import _native

# Share of the fp32 peak from 100k items on: (floor, target).
GOALS = {"avx512": (0.7, 0.8), "avx2": (0.6, 0.7)}
MANY_ITEMS = 100_000


def under(isa: str | None, options: Options, folder: Path) -> tuple[str, list[dict]]:
    """(the set that was used, results) of a process; None lets it choose."""
    variables = {k: v for k, v in os.environ.items() if k != "RANKDISTILL_ISA"}
    if isa is not None:
        variables["RANKDISTILL_ISA"] = isa
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "inner_product_topk",
        "--variants",
        OURS,
        "--out",
        str(folder),
    ]
    command += [f"--threads={options.threads}", f"--rounds={options.rounds}", f"--shapes={options.shapes}"]
    subprocess.run(command, env=variables, check=True, stdout=subprocess.DEVNULL)
    (page,) = folder.glob("*.json")
    stored = json.loads(page.read_text())
    return stored["environment"]["native"]["isa"], stored["results"]


def main(options: Options) -> None:
    merged: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for isa in (None, *reversed(_native.supported_isas())):
            folder = Path(scratch, str(isa))
            chosen, results = under(isa, options, folder)
            label = isa or f"none forced ({chosen})"
            for result in results:
                rows = [r | {"variant": f"{label}: {r['variant']}"} for r in result["variants"]]
                known = merged.setdefault(result["shape"], result | {"variants": []})
                known["variants"] += rows
                base = known["variants"][0]["ms"]
                for r in rows:
                    r["times_first"] = r["ms"] / base
    results = list(merged.values())
    with threads(options):
        limits = ceilings(options)
    report("inner_product_topk_isa", results, limits, options, [goals(results)])


def goals(results: list[dict]) -> str:
    lines = [
        "| shape | share of the fp32 peak | floor | target | reached | |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for result in (r for r in results if r["sizes"]["N"] >= MANY_ITEMS):
        for r in result["variants"]:
            isa = r["variant"].split(":")[0]
            if isa in GOALS:
                floor, target = GOALS[isa]
                lines.append(
                    f"| {result['shape']} | {r['variant']} | {floor} | {target} | {number(r['of_peak'], 2)} "
                    f"| {verdict(r['of_peak'], floor, target)} |"
                )
    return "\n".join(lines)
