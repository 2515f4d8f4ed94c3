"""Seconds that an epoch takes on CiteULike with each method of the command line, beside a plain torch loop.

    RANKDISTILL_DATA=… python -m benchmarks.citeulike_epochs [--threads 1] [--rounds 5] [--methods rrd ftd …]

Student D = 20 of a teacher D = 200, batches of 1024. Loops are interleaved, one epoch of each in turn; a method whose first
epoch takes more than `SLOW` seconds is timed in that one alone. The first epoch, where lists are drawn and tables made,
is a column of its own. What a method's knowledge costs before the first epoch (rankings, graphs) is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.citeulike_rrd import PlainLoop, citeulike, machine_line
from rankdistill import MatrixFactorization, Rankings, Term, Trainer
from rankdistill.config import TrainingConfig
from rankdistill.files import write_text
from rankdistill.methods import METHODS, Given, make_method

SLOW = 15.0
LIST_LENGTH = 500
COMPARED = [name for name, method in METHODS.items() if method.default_base_weight]  # beside the base loss
PLAIN, BASE = "plain torch, no distillation", "rankdistill, no distillation"


def loops(methods: list[str]) -> dict:
    data = citeulike()
    teacher = MatrixFactorization(data.n_users, data.n_items, 200, init_std=1.0)
    vectors = [table.detach() for table in (teacher.user_vectors(), teacher.item_vectors())]
    given = Given(data, Rankings.from_vectors(*vectors, LIST_LENGTH, data.train.csr()), 20, teacher, 0)

    def trainer(terms=()):
        return Trainer(MatrixFactorization(data.n_users, data.n_items, 20), data, TrainingConfig(), terms)

    own = {
        name: trainer([Term(METHODS[name].default_weight, make_method(name, given, {}))]) for name in methods
    }
    return {PLAIN: PlainLoop(data), BASE: trainer(), **own}


def timed(options: argparse.Namespace) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    running = loops(options.methods)
    for epoch in range(options.rounds + 1):
        for name, loop in list(running.items()):
            started = time.perf_counter()
            loop.train_epoch(epoch)
            times.setdefault(name, []).append(time.perf_counter() - started)
            print(f"epoch {epoch}: {name}: {times[name][-1]:.3f} s", flush=True)
            if times[name][0] > SLOW:
                del running[name]
    return times


def page(times: dict[str, list[float]], threads: int) -> str:
    usual = {name: statistics.median(values[1:] or values) for name, values in times.items()}
    lines = [
        f"# Seconds per epoch on CiteULike, D = 20, batch 1024, {threads} thread{'s' * (threads > 1)}", "",
        "| loop | median s | fastest | slowest | first epoch | × plain torch |", "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name, (first, *later) in times.items():
        later = later or [first]
        lines.append(
            f"| {name} | {usual[name]:.3f} | {min(later):.3f} | {max(later):.3f} | {first:.3f} "
            f"| {usual[name] / usual[PLAIN]:.2f} |"
        )
    rounds = max(len(values) for values in times.values()) - 1
    notes = "Sampling is included; loops interleaved, one epoch of each in turn. Untrained tables: times do not depend on them."
    command = (
        f"`RANKDISTILL_DATA=… python -m benchmarks.citeulike_epochs --threads {threads} --rounds {rounds}`"
    )
    return "\n".join([*lines, "", notes, "", command, "", machine_line()]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=COMPARED, default=COMPARED)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    times = timed(options)
    write_text(options.out / f"citeulike_epochs_{options.threads}.md", page(times, options.threads))
    write_text(
        options.out / f"citeulike_epochs_{options.threads}.json",
        json.dumps({"seconds": times}, indent=1) + "\n",
    )
    print(page(times, options.threads))


if __name__ == "__main__":
    main()
