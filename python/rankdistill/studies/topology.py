"""Topology distillation on CiteULike: learning curves of students without it, with FTD and with HTD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankdistill.config import MethodConfig, ModelConfig, ReproduceConfig, TrainingConfig
from rankdistill.document import Document
from rankdistill.pictures import Curve, Panel, draw_panels
from rankdistill.seeds import Protocol, seeds_of
from rankdistill.studies import accounts
from rankdistill.studies.runner import Entry, Plan, Results, Runner
from rankdistill.studies.sources import CITEULIKE_FULL

SOURCE = (
    "Kang, Hwang, Kweon, Yu: Topology Distillation for Recommender System, KDD 2021; logs of the released code "
    "(SeongKu-Kang/Topology_Distillation_KDD21), BPR, one seed"
)
EPOCHS, EVERY, TEACHER_WIDTH, METRIC = 101, 10, 200, "recall@50"
WIDTHS, METHODS = (10, 20, 100, 200), ("base", "ftd", "htd")
SEED = 0
ALLOWANCE = 0.012  # that our final Recall@50 may lie below the published one
TARGETS = (10, 20)  # widths with a target

# Test Recall@50 after epochs 0, 10, …, 100; (student's width, method), or the teacher.
PUBLISHED: dict[tuple[int, str], tuple[float, ...]] = {
    (200, "teacher"): (
        0.0918,
        0.2198,
        0.2543,
        0.2681,
        0.2884,
        0.2974,
        0.3002,
        0.3116,
        0.3066,
        0.3062,
        0.3123,
    ),
    (10, "base"): (0.0293, 0.1175, 0.1303, 0.1416, 0.1485, 0.1552, 0.1604, 0.1665, 0.1701, 0.1759, 0.1788),
    (10, "ftd"): (0.0910, 0.1577, 0.1372, 0.1496, 0.1684, 0.1834, 0.1941, 0.2008, 0.2025, 0.2066, 0.2112),
    (10, "htd"): (0.0634, 0.1625, 0.1882, 0.2064, 0.2125, 0.2186, 0.2225, 0.2238, 0.2263, 0.2276, 0.2282),
    (20, "base"): (0.0374, 0.1255, 0.1508, 0.1700, 0.1857, 0.1941, 0.2077, 0.2129, 0.2171, 0.2226, 0.2276),
    (20, "ftd"): (0.1295, 0.1774, 0.1874, 0.2094, 0.2255, 0.2353, 0.2407, 0.2441, 0.2500, 0.2502, 0.2516),
    (20, "htd"): (0.1050, 0.1962, 0.2240, 0.2418, 0.2504, 0.2552, 0.2596, 0.2700, 0.2686, 0.2732, 0.2744),
    (100, "base"): (0.0690, 0.1933, 0.2309, 0.2493, 0.2648, 0.2738, 0.2786, 0.2870, 0.2909, 0.2979, 0.2976),
    (100, "ftd"): (0.1826, 0.2439, 0.2774, 0.2924, 0.3020, 0.3064, 0.3125, 0.3106, 0.3114, 0.3098, 0.3116),
    (100, "htd"): (0.1602, 0.2376, 0.2684, 0.2801, 0.2909, 0.2970, 0.3033, 0.3058, 0.3083, 0.3089, 0.3116),
    (200, "base"): (0.0945, 0.2192, 0.2516, 0.2767, 0.2868, 0.2978, 0.3031, 0.3068, 0.3050, 0.3116, 0.3152),
    (200, "ftd"): (0.1897, 0.2640, 0.2987, 0.3039, 0.3091, 0.3127, 0.3114, 0.3154, 0.3135, 0.3123, 0.3175),
    (200, "htd"): (0.1542, 0.2499, 0.2750, 0.2912, 0.3010, 0.3117, 0.3152, 0.3165, 0.3146, 0.3181, 0.3200),
}


def entry_name(width: int, method: str) -> str:
    return "teacher" if method == "teacher" else f"{method}-{width}"


def plan(config: ReproduceConfig) -> tuple[Plan, str]:
    """The models, and where the data came from."""
    dataset, origin = CITEULIKE_FULL.open(config.data)
    training = TrainingConfig(
        epochs=config.epochs or EPOCHS,
        evaluate_every=EVERY,
        evaluate_test=True,
        keep_best=False,
        metric=METRIC,
    )
    teacher = Entry("teacher", f"teacher, D = {TEACHER_WIDTH}", ModelConfig(width=TEACHER_WIDTH), training)
    methods = config.chosen_methods(METHODS)
    students = [
        Entry(
            entry_name(width, method), f"{method}, D = {width}", ModelConfig(width=width), training,
            () if method == "base" else (MethodConfig(method),), () if method == "base" else ("teacher",),
            seed_offset=int(width == TEACHER_WIDTH),  # or its base would be the teacher again
        )
        for width in config.chosen_widths(WIDTHS) for method in methods
    ]  # fmt: skip
    needed = [teacher] if any(entry.teachers for entry in students) or "teacher" in methods else []
    return Plan(dataset, (*needed, *students), Protocol.of(dataset, METRIC)), origin


def reproduce(config: ReproduceConfig, out: Path) -> Results:
    planned, origin = plan(config)
    chosen = seeds_of(SEED if config.seeds is None else config.seeds)
    runner = Runner(planned, out, config.progress)
    return runner.carry_out(chosen, lambda results: report(results, runner, chosen, origin).write(out))


def curve(results: Results, name: str) -> list[tuple[int, float]]:
    """The mean over seeds of the test metric, by epoch."""
    curves = [outcome.curve(f"test/{METRIC}") for outcome in results.outcomes[name].values()]
    return [(points[0][0], sum(value for _, value in points) / len(points)) for points in zip(*curves)]


def published(width: int, method: str) -> list[tuple[int, float]]:
    values = PUBLISHED.get((width, method), ())
    return [(EVERY * at, value) for at, value in enumerate(values)]


def judged(results: Results) -> list[list[str]]:
    """Final numbers beside the published ones, and whether a target is met."""
    lines, full = [list(accounts.JUDGED)], results.plan.entries[0].training.epochs == EPOCHS
    for width, method in PUBLISHED:
        name = entry_name(width, method)
        if name in results.outcomes:
            ours = results.spread(name, lambda outcome: outcome.curve(f"test/{METRIC}")[-1][1])
            allowance = ALLOWANCE if full and width in TARGETS else None
            published = PUBLISHED[width, method][-1]
            lines.append(accounts.judged_line(f"{method}, D = {width}", ours, published, allowance))
    return lines


def orders(results: Results) -> list[str]:
    """For every width whose methods are finished, whether they are ordered as published."""
    said = []
    for width in WIDTHS:
        found = {
            m: curve(results, entry_name(width, m))[-1][1]
            for m in METHODS
            if entry_name(width, m) in results.outcomes
        }
        if len(found) < 2:
            continue
        ours = sorted(found, key=found.get)
        theirs = sorted(found, key=lambda method: PUBLISHED[width, method][-1])
        verdict = "as published" if ours == theirs else f"published: {' < '.join(theirs)}"
        said.append(f"D = {width}: {' < '.join(ours)} ({verdict}).")
    return said


def curves_table(results: Results) -> list[list[str]]:
    epochs = sorted({epoch for name in results.outcomes for epoch, _ in curve(results, name)})
    lines = [["model", "", *map(str, epochs)]]
    for width, method in PUBLISHED:
        name = entry_name(width, method)
        if name in results.outcomes:
            for whose, points in (("ours", curve(results, name)), ("published", published(width, method))):
                at = dict(points)
                lines.append([
                    f"{method}, D = {width}", whose, *(f"{at[epoch]:.4f}" if epoch in at else "–" for epoch in epochs)
                ])  # fmt: skip
    return lines


def panels(results: Results) -> list[Panel]:
    """One of each width: ours drawn through, published dashed, the teacher in grey."""
    made = []
    for width in WIDTHS:
        curves = []
        for colour, method in enumerate(METHODS):
            if entry_name(width, method) in results.outcomes:
                curves.append(Curve(f"{method}, ours", curve(results, entry_name(width, method)), colour))
                curves.append(Curve(f"{method}, published", published(width, method), colour, dashed=True))
        if curves and "teacher" in results.outcomes:
            curves.append(Curve("teacher, ours", curve(results, "teacher")))
        if curves:
            made.append(Panel(f"student of width {width}", curves))
    return made


def report(results: Results, runner: Runner, chosen: Sequence[int], origin: str) -> Document:
    epochs = results.plan.entries[0].training.epochs
    protocol = (
        f"Recall@50 on the test items, the whole catalogue ranked, after epochs 0, 10, … of {epochs}, without early "
        f"stopping; matrix factorisation by BPR, Adam 1e-3, decay 1e-3, batches of 1024, teacher of width "
        f"{TEACHER_WIDTH}, published weights and settings. Published: {SOURCE}. Data: {origin}."
    )
    page = accounts.begun(
        "Topology distillation on CiteULike",
        [protocol, *([f"A trial of {epochs} epochs: not comparable with the published {EPOCHS}."] if epochs != EPOCHS else [])],
        results, chosen,
    )  # fmt: skip
    page.heading("Final Recall@50")
    page.table(judged(results), f"Targets: published − {ALLOWANCE}")
    for sentence in orders(results):
        page.text(sentence)
    page.heading("Learning curves")
    drawn = panels(results)
    if drawn:
        alt = (
            "Test Recall@50 by epoch, a panel for each width of the student, our curves drawn through and the published "
            "ones dashed. "
            + " ".join(" ".join(line[:2]) + f" (published {line[2]})." for line in judged(results)[1:])
        )
        page.picture(draw_panels("curves", alt, drawn, "epoch", "test Recall@50"))
    page.table(
        curves_table(results), "Test Recall@50 by epoch" + (", mean over seeds" if len(chosen) > 1 else "")
    )
    page.heading("All models")
    page.table(
        accounts.overview(results, (METRIC, "ndcg@50", "recall@10", "ndcg@10")),
        "Test metrics after the last epoch",
    )
    for width in WIDTHS:
        compare_width(page, results, width)
    accounts.costs(page, results, runner, METRIC)
    return page


def compare_width(page: Document, results: Results, width: int) -> None:
    base = entry_name(width, "base")
    mine = {entry_name(width, method) for method in METHODS}
    own = Results(
        results.plan,
        {name: found for name, found in results.outcomes.items() if name in mine},
        {name: found for name, found in results.values.items() if name in mine},
    )
    accounts.compare(page, own, base, (METRIC,))
