"""Six teachers of different kinds on CiteULike, and one small student of them all: HetComp beside its ensemble."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from rankdistill import serving
from rankdistill.config import MethodConfig, ModelConfig, ReproduceConfig, TrainingConfig
from rankdistill.data import CSR
from rankdistill.document import Document
from rankdistill.files import json_in, write_text
from rankdistill.metrics import ranking_metrics, taken_apart
from rankdistill.models.teachers import as_teacher
from rankdistill.models.trajectory import KeptTrajectory
from rankdistill.pictures import Curve, Panel, Point, draw_costs, draw_panels
from rankdistill.rankings.ensemble import ensemble_rankings
from rankdistill.seeds import Protocol, Spread, Values, seeds_of
from rankdistill.studies import accounts
from rankdistill.studies.runner import Entry, Plan, Results, Runner, offset_beside, trajectory_length
from rankdistill.studies.sources import CITEULIKE_FULL

SOURCE = (
    "Kang, Kweon, Lee, Lian, Xie, Yu: Distillation from Heterogeneous Models for Top-K Recommendation, WWW 2023, whose "
    "numbers are on another split: the method is theirs, teachers, split and student are ours"
)
METRIC = "recall@50"
STUDENT_WIDTH, EPOCHS, EVERY = 20, 300, 10
SEED = 0
SHARE, COST = 0.9, 0.1  # the student's aims: of the ensemble's accuracy, and of its inference time
LATENCY_FILE = "ensemble_latencies.json"
LISTED, QUERIES = 50, 100


def base_training(epochs: int, **more) -> TrainingConfig:
    settings = {"evaluate_every": 5, "patience": 4, "weight_decay": 0.0} | more
    return TrainingConfig(epochs=epochs, evaluate_test=True, metric=METRIC, **settings)


TEACHERS: dict[str, tuple[ModelConfig, TrainingConfig]] = {
    "mf": (ModelConfig("mf", 200), base_training(150, weight_decay=1e-3)),
    "cml": (ModelConfig("cml", 100), base_training(150, n_negatives=10, batch_size=4096, learning_rate=5e-3)),
    "neumf": (ModelConfig("neumf", 64), base_training(60, n_negatives=4, batch_size=4096, weight_decay=1e-4)),
    "lightgcn": (ModelConfig("lightgcn", 128), base_training(150, batch_size=8192, learning_rate=5e-3, weight_decay=1e-3)),
    "multvae": (ModelConfig("multvae", 200), base_training(150, batch_size=256)),
    "item_autoencoder": (ModelConfig("item_autoencoder", 200), base_training(100, batch_size=512)),
}  # fmt: skip


@dataclass(frozen=True)
class Ensemble:
    """Several teachers together: each user's lists merged by the sum of exp(−position/10)."""

    teachers: tuple[object, ...]
    n_users: int
    n_items: int

    def topk(self, users: Tensor, k: int, exclude: CSR | None) -> Tensor:
        """[B, k] items, of each teacher's best 2k."""
        length = min(2 * k, self.n_items)
        lists = torch.stack(
            [teacher.topk(users, length, exclude).indices.long() for teacher in self.teachers]
        )
        return ensemble_rankings(lists, k)


def plan(config: ReproduceConfig) -> tuple[Plan, str]:
    dataset, origin = CITEULIKE_FULL.open(config.data)
    shorter = lambda training: replace(
        training, epochs=min(training.epochs, config.epochs or training.epochs)
    )
    every = lambda training: max(1, min(training.evaluate_every, training.epochs // 4))
    teachers = [
        Entry(name, f"teacher {name}, D = {model.width}", model, replace(shorter(training), evaluate_every=every(shorter(training))),
              trajectory=every(shorter(training)))
        for name, (model, training) in TEACHERS.items()
    ]  # fmt: skip
    width = config.chosen_width(STUDENT_WIDTH)
    model, small = ModelConfig(width=width), f"D = {width}"
    alone = shorter(base_training(EPOCHS, evaluate_every=EVERY, patience=5, weight_decay=1e-3))
    distilled = replace(alone, weight_decay=1e-5)
    listed = min(100, dataset.n_items // 2)
    options = {"n_listed": listed, "n_compared": max(1, listed // 2)}
    offset = offset_beside(width, TEACHERS["mf"][0].width)
    students = {
        "student": Entry("student", f"student, {small}", model, alone, seed_offset=offset),
        **{
            f"rrd-{teacher}": Entry(
                f"rrd-{teacher}", f"RRD of {teacher}, {small}", model, alone, (MethodConfig("rrd"),), (teacher,),
                seed_offset=offset,
            )
            for teacher in TEACHERS
        },
        "hetcomp": Entry(
            "hetcomp", f"HetComp of all, {small}", model, distilled, (MethodConfig("hetcomp", options=options),),
            tuple(TEACHERS), seed_offset=offset,
        ),
    }  # fmt: skip
    chosen = config.chosen_methods(tuple(students))
    return Plan(
        dataset, (*teachers, *(students[name] for name in chosen)), Protocol.of(dataset, METRIC)
    ), origin


def reproduce(config: ReproduceConfig, out: Path) -> Results:
    planned, origin = plan(config)
    chosen = seeds_of(SEED if config.seeds is None else config.seeds)
    runner = Runner(planned, out, config.progress, config.device)
    return runner.carry_out(chosen, lambda results: report(results, runner, chosen, origin).write(out))


def without(lists: Tensor, excluded: CSR) -> Tensor:
    """Lists [U, K] of items, -1 for none, without the excluded ones of each row; what follows one moves up."""
    rows = torch.arange(len(lists))[:, None].expand_as(lists)
    dropped = (lists >= 0) & excluded.contains(rows.flatten(), lists.clamp_min(0).flatten()).view_as(lists)
    order = dropped.long().sort(dim=1, stable=True).indices
    return lists.masked_fill(dropped, -1).gather(1, order)


def ensemble_values(results: Results, runner: Runner, seed: int) -> Values:
    """Of the ensemble's list of every user with test items, by the teachers' kept rankings."""
    dataset = results.plan.dataset
    kept = [
        KeptTrajectory.load(runner.folder(name, seed) / "trajectory", dataset, least=0) for name in TEACHERS
    ]
    length, part = trajectory_length(results.plan), results.plan.protocol.part
    # Train items are in no list; the other held-out items of a user are not ranked either, as a model alone has none.
    other = dataset.held_out_exclude(part)
    lists = [without(trajectory.checkpoints[-1].indices[:, :length].long(), other) for trajectory in kept]
    merged = ensemble_rankings(torch.stack(lists), min(2 * length, dataset.n_items))
    truth = getattr(dataset, part).csr()
    users = (truth.counts > 0).nonzero().flatten()
    names, cutoffs = taken_apart(results.plan.protocol.metrics)
    found = ranking_metrics(merged[users], truth.rows(users), cutoffs, names)
    return {metric: found[metric] for metric in results.plan.protocol.metrics}


def measured_latencies(results: Results, runner: Runner, seed: int) -> dict[str, float]:
    """Milliseconds of one user's list, of every kind of teacher, the ensemble and the student; measured in turn, once."""
    path = runner.out / LATENCY_FILE
    student = next(entry for entry in results.finished if entry.name not in TEACHERS)
    if path.is_file():
        kept = json_in("reproduce", path)
        if student.name in kept:
            return kept
    teachers = {name: as_teacher(runner.model(name, seed)) for name in TEACHERS}
    sizes = results.plan.dataset.n_users, results.plan.dataset.n_items
    models = {student.name: as_teacher(runner.model(student.name, seed)), **teachers}
    models["ensemble"] = Ensemble(tuple(teachers.values()), *sizes)
    served = serving.measure(
        models,
        min(LISTED, sizes[1]),
        (1,),
        queries=QUERIES,
        exclude=results.plan.dataset.train.csr(),
        warmup=accounts.WARMUP,
    )
    times = {row.model: row.p50_ms for row in served}
    write_text(path, json.dumps(times, indent=1) + "\n")
    return times


def report(results: Results, runner: Runner, chosen: Sequence[int], origin: str) -> Document:
    longest = max(entry.training.epochs for entry in results.plan.entries)
    protocol = (
        "Recall@50 on the test items, the whole catalogue ranked. Teachers of six kinds, each stopped by its validation "
        f"Recall@50; students of {longest} epochs at most with the weights of the best validation. The ensemble ranks by the "
        "sum over teachers of exp(−position/10); HetComp learns it from the teachers' early rankings on, without a loss of "
        f"its own; RRD learns one teacher. Source: {SOURCE}. Data: {origin}."
    )
    page = accounts.begun("One student of six kinds of teachers", [protocol], results, chosen)
    whole = [s for s in chosen if all(s in results.outcomes.get(name, {}) for name in TEACHERS)]
    students = [entry for entry in results.finished if entry.name not in TEACHERS]
    metrics = results.plan.protocol.metrics
    if whole:
        runs = {seed: ensemble_values(results, runner, seed) for seed in whole}
        ensemble = Spread.of(runs, METRIC)
        parameters = sum(next(iter(results.outcomes[name].values())).parameters for name in TEACHERS)
    if whole and students:
        times = measured_latencies(results, runner, whole[0])
        verdicts(page, results, students, ensemble, parameters, times)
        beside_ensemble(page, results, students, ensemble, parameters, times)
    page.heading("Learning curves")
    first = {entry.name: next(iter(results.outcomes[entry.name].values())) for entry in results.finished}
    drawn = []
    for title, names in (("teachers", list(TEACHERS)), ("students", [entry.name for entry in students])):
        curves = [
            Curve(name, first[name].curve(f"valid/{METRIC}"), at)
            for at, name in enumerate(names)
            if name in first
        ]
        drawn += [Panel(title, curves)] if curves else []
    if drawn:
        alt = f"Validation Recall@50 by epoch, seed {chosen[0]}. " + " ".join(
            f"{curve.label}: best {max(value for _, value in curve.points):.4f}."
            for panel in drawn
            for curve in panel.curves
        )
        page.picture(draw_panels("curves", alt, drawn, "epoch", "validation Recall@50"))
    page.heading("All models")
    lines = accounts.overview(results, metrics, "student")
    if whole:
        spreads = [str(Spread.of(runs, metric)) for metric in metrics]
        lines.insert(1, ["ensemble of six", f"{parameters:,}", *spreads, "–", "–", "–", "–", "–"])
    page.table(lines, "Test metrics")
    accounts.compare(page, results, "student", (METRIC,))
    return page


def verdicts(
    page: Document, results: Results, students, ensemble: Spread, parameters: int, times: dict[str, float]
) -> None:
    page.heading("The student beside the ensemble")
    small = times[next(entry.name for entry in students if entry.name in times)]
    cost = small / times["ensemble"]
    for entry in students:
        if entry.name == "hetcomp":
            share = Spread.of(results.values[entry.name], METRIC).mean / max(ensemble.mean, 1e-12)
            said = "reached" if share >= SHARE and cost < COST else "not reached"
            page.text(
                f"HetComp's student keeps {share:.1%} of the ensemble's Recall@50 ({ensemble.mean:.4f}) at {cost:.2%} of its "
                f"inference time ({small:.3f} ms against {times['ensemble']:.3f} ms) and "
                f"{next(iter(results.outcomes[entry.name].values())).parameters / parameters:.2%} of its parameters. The aim, "
                f"{SHARE:.0%} at less than {COST:.0%} of the time, is {said}."
            )


def beside_ensemble(
    page: Document, results: Results, students, ensemble: Spread, parameters: int, times
) -> None:
    """Accuracy, parameters and latency of all, as a table and as a picture."""
    student_ms = times[next(entry.name for entry in students if entry.name in times)]
    points = [
        Point(
            "ensemble of six", {accounts.SIZE: parameters, accounts.LATENCY: times["ensemble"]}, ensemble.mean
        )
    ]
    for entry in results.finished:
        size = next(iter(results.outcomes[entry.name].values())).parameters
        cost = {accounts.SIZE: size, accounts.LATENCY: times.get(entry.name, student_ms)}
        points.append(Point(entry.label, cost, Spread.of(results.values[entry.name], METRIC).mean))
    alt = (
        f"{METRIC} of the ensemble, its teachers and the students against parameters and latency. "
        + " ".join(
            f"{point.label}: {point.value:.4f}, {point.costs[accounts.LATENCY]:.3f} ms." for point in points
        )
    )
    page.picture(draw_costs("costs", alt, points, METRIC))
    lines = [["model", METRIC, "of the ensemble", accounts.SIZE, accounts.LATENCY, "of the ensemble's"]]
    for point in points:
        ms = point.costs[accounts.LATENCY]
        lines.append([
            point.label, f"{point.value:.4f}", f"{point.value / max(ensemble.mean, 1e-12):.1%}", f"{point.costs[accounts.SIZE]:,}",
            f"{ms:.3f}", f"{ms / times['ensemble']:.2%}",
        ])  # fmt: skip
    page.table(lines, f"Median of {QUERIES} queries, one user each: the exact top {LISTED}, train items out")
