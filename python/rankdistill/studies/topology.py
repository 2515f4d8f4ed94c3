"""Topology distillation on CiteULike: learning curves of students without it, with FTD and with HTD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankdistill.config import MethodConfig, ModelConfig, ReproduceConfig, TrainingConfig
from rankdistill.document import Document
from rankdistill.methods import METHODS as COMMAND_LINE
from rankdistill.methods import STUDENTS
from rankdistill.pictures import Curve, Panel, draw_panels
from rankdistill.seeds import Protocol, seeds_of
from rankdistill.studies import accounts
from rankdistill.studies.runner import Entry, Plan, Results, Runner, offset_beside
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


def key_of(entry: Entry) -> tuple[int, str]:
    """Of `PUBLISHED`: the width, and teacher, base or a method."""
    if entry.name == "teacher":
        return entry.model.width, "teacher"
    return entry.model.width, entry.methods[0].name if entry.methods else "base"


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
    others = [name for name, method in COMMAND_LINE.items() if "checkpoints" not in method.needs]
    methods = config.chosen_methods((*METHODS, *(name for name in others if name not in METHODS)), METHODS)
    students = []
    for width in config.chosen_widths(WIDTHS):
        for method in methods:
            alone = method == "base"
            students.append(
                Entry(
                    f"{method}-{width}", f"{method}, D = {width}", ModelConfig(STUDENTS.get(method, "mf"), width), training,
                    () if alone else (MethodConfig(method),), () if alone else ("teacher",),
                    seed_offset=offset_beside(width, TEACHER_WIDTH),
                )
            )  # fmt: skip
    return Plan(dataset, (teacher, *students), Protocol.of(dataset, METRIC)), origin


def reproduce(config: ReproduceConfig, out: Path) -> Results:
    planned, origin = plan(config)
    chosen = seeds_of(SEED if config.seeds is None else config.seeds)
    runner = Runner(planned, out, config.progress, config.device)
    return runner.carry_out(chosen, lambda results: report(results, runner, chosen, origin).write(out))


def curve(results: Results, name: str) -> list[tuple[int, float]]:
    """The mean over seeds of the test metric, by epoch."""
    curves = [outcome.curve(f"test/{METRIC}") for outcome in results.outcomes[name].values()]
    return [(points[0][0], sum(value for _, value in points) / len(points)) for points in zip(*curves)]


def published(entry: Entry) -> list[tuple[int, float]]:
    return [(EVERY * at, value) for at, value in enumerate(PUBLISHED.get(key_of(entry), ()))]


def judged(results: Results) -> list[list[str]]:
    """Final numbers beside the published ones, and whether a target is met."""
    lines, full = [list(accounts.JUDGED)], results.plan.entries[0].training.epochs == EPOCHS
    for entry in results.finished:
        ours = results.spread(entry.name, lambda outcome: outcome.curve(f"test/{METRIC}")[-1][1])
        if key_of(entry) not in PUBLISHED:
            lines.append([entry.label, str(ours), *"––––"])
            continue
        allowance = ALLOWANCE if full and entry.model.width in TARGETS else None
        lines.append(accounts.judged_line(entry.label, ours, PUBLISHED[key_of(entry)][-1], allowance))
    return lines


def by_width(results: Results) -> dict[int, list[Entry]]:
    """The finished students, by their width."""
    found: dict[int, list[Entry]] = {}
    for entry in results.finished:
        if entry.name != "teacher":
            found.setdefault(entry.model.width, []).append(entry)
    return found


def orders(results: Results) -> list[str]:
    """For every width of two or more published methods, whether they are ordered as published."""
    said = []
    for width, entries in by_width(results).items():
        ours = {key_of(e): curve(results, e.name)[-1][1] for e in entries if key_of(e) in PUBLISHED}
        if len(ours) < 2:
            continue
        mine = [method for _, method in sorted(ours, key=ours.get)]
        theirs = [method for _, method in sorted(ours, key=lambda key: PUBLISHED[key][-1])]
        verdict = "as published" if mine == theirs else f"published: {', '.join(theirs)}"
        said.append(f"D = {width}, from the lowest: {', '.join(mine)} ({verdict}).")
    return said


def curves_table(results: Results) -> list[list[str]]:
    epochs = sorted({epoch for entry in results.finished for epoch, _ in curve(results, entry.name)})
    lines = [["model", "", *map(str, epochs)]]
    for entry in results.finished:
        for whose, points in (("ours", curve(results, entry.name)), ("published", published(entry))):
            at = dict(points)
            if at:
                shown = (f"{at[epoch]:.4f}" if epoch in at else "–" for epoch in epochs)
                lines.append([entry.label, whose, *shown])
    return lines


def panels(results: Results) -> list[Panel]:
    """One of each width: ours drawn through, published dashed, the teacher in grey."""
    made = []
    for width, entries in by_width(results).items():
        curves = []
        for colour, entry in enumerate(entries):
            method = key_of(entry)[1]
            curves.append(Curve(f"{method}, ours", curve(results, entry.name), colour))
            if published(entry):
                curves.append(Curve(f"{method}, published", published(entry), colour, dashed=True))
        if "teacher" in results.outcomes:
            curves.append(Curve("teacher, ours", curve(results, "teacher")))
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
    for entries in by_width(results).values():
        base = next((entry.name for entry in entries if not entry.methods), None)
        if base is not None:
            names = {entry.name for entry in entries}
            accounts.compare(page, results.only(names), base, (METRIC,))
    accounts.costs(page, results, runner, METRIC)
    return page
