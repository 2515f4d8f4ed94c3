"""What every step of a training by RRD costs as the catalogue grows: Gowalla, and generated catalogues."""

from __future__ import annotations

import dataclasses
import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rankdistill import memory
from rankdistill.config import ReproduceConfig, TrainingConfig
from rankdistill.data import Dataset
from rankdistill.document import Document
from rankdistill.files import SETTINGS, alone_in, expect_settings, json_in, write_text
from rankdistill.losses import RelaxedRankingDistillation
from rankdistill.losses.batch import Batch
from rankdistill.machine import processor_name
from rankdistill.models import MatrixFactorization
from rankdistill.models.ranked import unseen_rankings
from rankdistill.pictures import Curve, Panel, draw_panels
from rankdistill.sampling import sample_negatives, within_row_positions
from rankdistill.studies.sources import GOWALLA, VARIABLE
from rankdistill.trainer import Term, Trainer

logger = logging.getLogger("rankdistill")

N_USERS, PER_USER = 10_000, 20
TEACHER_WIDTH, STUDENT_WIDTH, LISTED, BATCH, STEPS = 64, 20, 500, 1024, 20
SEED = 0
OPTIMISERS = {"adam": 1e-3, "lazy_adam": 0.0}  # and its decay


@dataclass(frozen=True)
class Cost:
    """One step on one data set: seconds for an epoch, and bytes at the peak beside what stood (None: not known here)."""

    step: str
    seconds: float
    peak_bytes: int | None


def generated(n_items: int) -> Dataset:
    """Users of 20 items by Zipf's law: what a step costs depends on sizes, not on what can be learnt."""
    rng = np.random.default_rng(SEED)
    users = np.arange(min(N_USERS, max(50, n_items))).repeat(PER_USER)
    items = np.exp(rng.random(len(users)) * np.log(n_items)).astype(np.int64).clip(max=n_items - 1)
    items = rng.permutation(n_items)[items]
    train = np.unique(np.stack([users, items], axis=1), axis=0)
    indptr = np.searchsorted(train[:, 0], np.arange(users.max() + 2))
    csr = torch.from_numpy(indptr), torch.from_numpy(train[:, 1])
    return Dataset.from_csr(csr, n_items=n_items, name=f"{n_items:,} items")


def timed(step: str, call: Callable[[], object]) -> tuple[Cost, object]:
    """A call's cost, and what it gives."""
    before = memory.reset_peak()
    started = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - started
    return Cost(step, seconds, None if before is None else memory.peak_since(before)), result


def measured(dataset: Dataset, width: int) -> list[Cost]:
    """Every step of an epoch, the steps over batches from `STEPS` of them."""
    teacher = MatrixFactorization(dataset.n_users, dataset.n_items, TEACHER_WIDTH, seed=SEED, init_std=1.0)
    k = min(LISTED, dataset.n_items // 2)
    cost, rankings = timed("extraction (once)", lambda: unseen_rankings(teacher, dataset, k))
    costs = [cost]
    method = RelaxedRankingDistillation(rankings, dataset.train.csr(), seed=SEED)
    student = MatrixFactorization(dataset.n_users, dataset.n_items, width, seed=SEED)
    cost, _ = timed("sampling: lists", lambda: method.begin_epoch(0, student))
    users, positives, exclude = dataset.train.users, dataset.train.items, dataset.train.csr()
    positions = within_row_positions(users)
    negatives, drawn = timed(
        "sampling: negatives", lambda: sample_negatives(users, positions, exclude, seed=SEED, epoch=0)
    )
    costs += [cost, negatives]
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(SEED)).split(BATCH)
    batches = [Batch(users[rows], positives[rows], drawn[rows]) for rows in order[: STEPS + 1]]
    for optimizer, decay in OPTIMISERS.items():
        training = TrainingConfig(batch_size=BATCH, optimizer=optimizer, weight_decay=decay)
        student = MatrixFactorization(dataset.n_users, dataset.n_items, width, seed=SEED)
        trainer = Trainer(student, dataset, training, [Term(1e-3, method)])
        costs += over_batches(trainer, batches, len(order), optimizer)
    return costs


def over_batches(trainer: Trainer, batches: list[Batch], n_batches: int, optimizer: str) -> list[Cost]:
    """Loss with its gradients, and the optimiser, apart: seconds of all batches but the first, which warms up, and memory
    of one more pass over the last."""

    def loss(batch: Batch) -> None:
        trainer.batch_loss(batch).backward()

    def update(batch: Batch) -> None:
        for each in trainer.optimizers.values():
            each.step()
            each.zero_grad(set_to_none=True)

    steps = {f"loss and gradients, {optimizer}": loss, f"optimiser, {optimizer}": update}
    seconds = {name: [] for name in steps}
    for batch in batches:
        for name, call in steps.items():
            started = time.perf_counter()
            call(batch)
            seconds[name].append(time.perf_counter() - started)
    peaks = {name: timed(name, partial(call, batches[-1]))[0].peak_bytes for name, call in steps.items()}
    return [
        Cost(name, statistics.median(took[1:] or took) * n_batches, peaks[name])
        for name, took in seconds.items()
    ]


def reproduce(config: ReproduceConfig, out: Path) -> dict[str, list[Cost]]:
    width = config.chosen_width(STUDENT_WIDTH)
    out.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], Dataset]] = {}
    for size in sorted(set(config.sizes)):
        makers[f"{size}"] = lambda size=size: generated(size)
    makers["gowalla"] = lambda: GOWALLA.open(config.data)[0]
    found: dict[str, tuple[dict, list[Cost]]] = {}
    missing = ""
    with alone_in(out, "reproduce", "study"):
        expect_settings("reproduce", out / SETTINGS, {"width": width, "threads": torch.get_num_threads()})
        for name, make in makers.items():
            path = out / f"costs-{name}.json"
            if not path.is_file():
                logger.info("scaling: %s", name)
                try:
                    dataset = make()
                except ValueError as error:
                    if name != "gowalla" or config.data:
                        raise
                    missing = f"Gowalla is not measured: {error}"
                    logger.warning("%s", missing)
                    continue
                sizes = {
                    "name": dataset.name, "users": dataset.n_users, "items": dataset.n_items,
                    "interactions": len(dataset.train),
                }  # fmt: skip
                costs = [dataclasses.asdict(cost) for cost in measured(dataset, width)]
                write_text(path, json.dumps({"sizes": sizes, "costs": costs}, indent=1) + "\n")
            kept = json_in("reproduce", path)
            found[name] = kept["sizes"], [Cost(**cost) for cost in kept["costs"]]
        if not found:
            raise ValueError(
                f"reproduce: expected sizes of generated catalogues, or Gowalla's data; got neither. {missing}"
            )
        report(found, width, missing).write(out)
    return {name: costs for name, (_, costs) in found.items()}


def report(found: dict[str, tuple[dict, list[Cost]]], width: int, missing: str = "") -> Document:
    page = Document("What training costs as the catalogue grows")
    page.text(
        f"RRD on matrix factorisation: teacher D = {TEACHER_WIDTH}, student D = {width}, lists of {LISTED}, K = L = 40, batches "
        f"of {BATCH}. Generated catalogues have {N_USERS:,} users of {PER_USER} items or fewer each. Seconds are those of an "
        f"epoch; losses and optimisers are measured on {STEPS} batches. {processor_name()}, threads: "
        f"{torch.get_num_threads()}, torch {torch.__version__}."
    )
    if missing:
        page.text(f"{missing} (--data or {VARIABLE}).")
    steps = [cost.step for cost in next(iter(found.values()))[1]]
    of = {name: {cost.step: cost for cost in costs} for name, (_, costs) in found.items()}
    header = ["step", *(sizes["name"] for sizes, _ in found.values())]
    lines = [header, ["items", *(f"{sizes['items']:,}" for sizes, _ in found.values())],
             ["users", *(f"{sizes['users']:,}" for sizes, _ in found.values())],
             ["train interactions", *(f"{sizes['interactions']:,}" for sizes, _ in found.values())]]  # fmt: skip
    page.heading("Seconds for an epoch")
    page.table([*lines, *([step, *(f"{of[name][step].seconds:.3f}" for name in found)] for step in steps)])
    mib = lambda size: "–" if size is None else f"{size / 2**20:,.1f}"
    page.heading("MiB at the peak, beside what stood before")
    page.text("Tables, the optimisers' states and gradients that stand are not counted again.")
    page.table([header, *([step, *(mib(of[name][step].peak_bytes) for name in found)] for step in steps)])
    grown = [name for name in found if name != "gowalla"]
    if len(grown) > 1:
        panels = []
        for title, value in (
            ("seconds for an epoch", lambda c: c.seconds),
            ("MiB at the peak", lambda c: (c.peak_bytes or 0) / 2**20),
        ):
            curves = [
                Curve(step, [(found[name][0]["items"], value(of[name][step])) for name in grown], at)
                for at, step in enumerate(steps)
                if min(value(of[name][step]) for name in grown) > 0
            ]
            panels.append(Panel(title, curves))
        first, last = found[grown[0]][0]["items"], found[grown[-1]][0]["items"]
        alt = (
            f"Cost of every step against the number of items, {first:,} to {last:,}, both axes logarithmic. "
            + " ".join(
                f"{step}: {of[grown[0]][step].seconds:.3f} to {of[grown[-1]][step].seconds:.3f} s."
                for step in steps
            )
        )
        page.heading("Growth")
        page.picture(draw_panels("growth", alt, panels, "items", "", log=True))
    return page
