"""Seconds that an epoch takes on CiteULike with each method of the command line, beside a plain torch loop.

    RANKDISTILL_DATA=… python -m benchmarks.citeulike_epochs [--threads 1] [--rounds 5] [--methods rrd ftd …]

Student D = 20 of a teacher D = 200, batches of 1024. Loops are interleaved, one epoch of each in turn. Methods of `EXCERPTS` run
the first batches of an epoch, and their times are multiplied; those that are matrix products for the most part stand beside the
time of these products alone, each as torch computes it in the same run, and at the rate of a large one. The first epoch, where lists are drawn and tables
made, is a column of its own. What a method's knowledge costs before the first epoch (rankings, graphs) is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.citeulike_rrd import PlainLoop, citeulike, machine_line
from rankdistill import MatrixFactorization, Rankings, Term, Trainer
from rankdistill.config import TrainingConfig
from rankdistill.files import write_text
from rankdistill.losses import (
    Batch,
    Distillation,
    DistillationExperts,
    FrequencyDistillation,
    HierarchicalTopologyDistillation,
    PersonalizedHintRegression,
)
from rankdistill.methods import METHODS, Given, make_method

EXCERPTS, BATCHES = ("de", "phr", "htd", "rkd", "freqd", "pckd"), 6
COLD, EPOCHS_TO_COLD = "htd, one-hot", 101  # as its routing is at the end
NETWORKS = (
    DistillationExperts, FrequencyDistillation, HierarchicalTopologyDistillation, PersonalizedHintRegression,
)  # fmt: skip
SLOW = 15.0  # seconds of a first epoch that has no second
LIST_LENGTH = 500
COMPARED = [name for name, method in METHODS.items() if method.default_base_weight]  # beside the base loss
PLAIN, BASE = "plain torch, no distillation", "rankdistill, no distillation"


class Loop:
    """A trainer's epochs, or their first batches, from an epoch on."""

    def __init__(self, trainer: Trainer, excerpt: bool = False, start: int = 0) -> None:
        self.trainer, self.start = trainer, start
        n = -(-len(trainer.dataset.train) // trainer.config.batch_size)
        self.times = n / BATCHES if excerpt else 1.0
        if excerpt:
            whole, rows = trainer._epoch_interactions, slice(BATCHES * trainer.config.batch_size)
            trainer._epoch_interactions = lambda epoch: [part[rows] for part in whole(epoch)]

    def train_epoch(self, epoch: int) -> None:
        self.trainer.train_epoch(self.start + epoch)

    def products(self) -> list[Product]:
        """Those of the networks for the first batch."""
        methods = [term.method for term in self.trainer.terms if isinstance(term.method, NETWORKS)]
        if not methods:
            return []
        rows = slice(self.trainer.config.batch_size)
        batch = Batch(*(column[rows] for column in self.trainer._epoch_interactions(0)))
        return [p for method in methods for p in network_products(method, self.trainer.model, batch)]


class Product(NamedTuple):
    """How often matrices [rows, inner] and [inner, columns] are multiplied."""

    rows: int
    inner: int
    columns: int
    times: int = 1

    @property
    def operations(self) -> float:
        return 2.0 * self.rows * self.inner * self.columns * self.times

    def seconds(self) -> float:
        a, b = torch.ones(self.rows, self.inner), torch.ones(self.inner, self.columns)
        out = torch.empty(self.rows, self.columns)
        taken = []
        for _ in range(4):
            started = time.perf_counter()
            torch.mm(a, b, out=out)
            taken.append(time.perf_counter() - started)
        return statistics.median(taken[1:]) * self.times


@torch.no_grad()
def network_products(method: Distillation, student, batch: Batch) -> list[Product]:
    """A batch's products in a method's networks, forward and backward."""
    together = isinstance(method, HierarchicalTopologyDistillation)
    sides = method.together(student, batch) if together else method.sides(student, batch)
    D_t, D_s, found = method.teacher_width, student.width, []
    for rows in sides:
        n = len(rows.ids)
        if isinstance(method, PersonalizedHintRegression):
            H, out = len(method.bias_in), D_t * D_s
            found += [Product(n, D_t, H), Product(H, n, D_t)]  # the condition gets no gradient
            found += [Product(n, H, out), Product(out, n, H), Product(n, out, H)]
            continue
        experts, shown = getattr(method, rows.side), n
        if isinstance(method, FrequencyDistillation):
            shown = len(method.filter_rows(rows, slice(0, n))[1])  # to the first layers alone
        else:
            experts = experts.experts
        M, H = experts.bias_in.shape
        for n_rows, into, out in ((shown, D_s, H), (n, H, D_t)):
            found += [
                Product(n_rows, into, out, M), Product(out, n_rows, into, M), Product(n_rows, out, into, M)
            ]  # fmt: skip
    return found


def loops(methods: list[str]) -> dict:
    data = citeulike()
    teacher = MatrixFactorization(data.n_users, data.n_items, 200, init_std=1.0)
    vectors = [table.detach() for table in (teacher.user_vectors(), teacher.item_vectors())]
    given = Given(data, Rankings.from_vectors(*vectors, LIST_LENGTH, data.train.csr()), 20, teacher, 0)

    def loop(name: str | None = None, start: int = 0) -> Loop:
        terms = [Term(METHODS[name].default_weight, make_method(name, given, {}))] if name else ()
        student = MatrixFactorization(data.n_users, data.n_items, 20)
        return Loop(Trainer(student, data, TrainingConfig(), terms), name in EXCERPTS, start)

    made = {PLAIN: PlainLoop(data), BASE: loop()} | {name: loop(name) for name in methods}
    return made | ({COLD: loop("htd", EPOCHS_TO_COLD)} if "htd" in methods else {})


def timed(options: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, tuple[float, float]]]:
    """Seconds of each loop's epochs, and of its products: alone, and at the rate of a large one."""
    times: dict[str, list[float]] = {}
    made, rates, alone = loops(options.methods), [], {}
    running, large = dict(made), Product(2048, 2048, 2048)
    work = {name: loop.products() for name, loop in made.items() if isinstance(loop, Loop) and name != COLD}
    for epoch in range(options.rounds + 1):
        rates.append(large.operations / large.seconds())
        for name, loop in list(running.items()):
            if work.get(name):
                alone.setdefault(name, []).append(sum(product.seconds() for product in work[name]))
            started = time.perf_counter()
            loop.train_epoch(epoch)
            times.setdefault(name, []).append((time.perf_counter() - started) * getattr(loop, "times", 1.0))
            print(f"epoch {epoch}: {name}: {times[name][-1]:.3f} s", flush=True)
            if times[name][0] > SLOW and getattr(loop, "times", 1.0) == 1.0:
                del running[name]
    found = {}
    for name, batches in alone.items():
        trainer = made[name].trainer
        n = len(trainer.dataset.train) / trainer.config.batch_size
        at_rate = sum(product.operations for product in work[name]) / statistics.median(rates)
        found[name] = n * statistics.median(batches), n * at_rate
    return times, found


def page(times: dict[str, list[float]], products: dict[str, tuple[float, float]], threads: int) -> str:
    usual = {name: statistics.median(values[1:] or values) for name, values in times.items()}
    lines = [
        f"# Seconds per epoch on CiteULike, D = 20, batch 1024, {threads} thread{'s' * (threads > 1)}", "",
        "| loop | median s | fastest | slowest | first epoch | × plain torch | own products, s | × these | at 2048³, s | × these |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name, (first, *later) in times.items():
        later = later or [first]
        own = products.get(name, ())
        beside = " | ".join(f"{s:.2f} | {usual[name] / s:.2f}" for s in own) or " | | | "
        lines.append(
            f"| {name} | {usual[name]:.3f} | {min(later):.3f} | {max(later):.3f} | {first:.3f} "
            f"| {usual[name] / usual[PLAIN]:.2f} | {beside} |"
        )
    rounds = max(len(values) for values in times.values()) - 1
    notes = (
        "Sampling is included; loops interleaved, one epoch of each in turn. Untrained tables: times do not depend on them. "
        f"{', '.join(name for name in EXCERPTS if name in times)}: by {BATCHES} batches of each epoch. Own products: those of "
        "the method's networks, forward and backward, each alone by torch.mm in turn with the epochs (those of the first batch, "
        "times the batches); and at the rate of a 2048³ product in the same run."
    )
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
    times, products = timed(options)
    text, name = page(times, products, options.threads), f"citeulike_epochs_{options.threads}"
    write_text(options.out / f"{name}.md", text)
    write_text(
        options.out / f"{name}.json", json.dumps({"seconds": times, "products": products}, indent=1) + "\n"
    )
    print(text)


if __name__ == "__main__":
    main()
