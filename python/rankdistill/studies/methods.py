"""Every method of the command line on data sets, published or one's own, beside the undistilled student: accuracy, time, memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from rankdistill.config import MethodConfig, ModelConfig, ReproduceConfig, TrainingConfig
from rankdistill.data import Dataset, load
from rankdistill.document import Document
from rankdistill.methods import METHODS, STUDENTS
from rankdistill.pictures import Curve, Panel, draw_panels
from rankdistill.seeds import Protocol, Spread, seeds_of
from rankdistill.studies import accounts
from rankdistill.studies.runner import Entry, Plan, Results, Runner, offset_beside
from rankdistill.studies.sources import CITEULIKE_FULL, MOVIELENS

METRIC, METRICS = "recall@50", ("recall@50", "ndcg@50", "recall@10", "ndcg@10")
TEACHER_WIDTH, STUDENT_WIDTH = 200, 20
SEEDS = "0..2"
LISTED = 500


@dataclass(frozen=True)
class Setting:
    """How the models of a data set are trained.

    Args:
        training: of the student and of the methods.
        teacher_rate: the teacher's learning rate.
        options: of methods by their names, before those of `OPTIONS`.
    """

    training: TrainingConfig
    teacher_rate: float
    options: dict[str, dict[str, object]] = field(default_factory=dict)


class Opened(NamedTuple):
    """A data set, where it came from and how models are trained on it."""

    dataset: Dataset
    origin: str
    setting: Setting


# As published for CiteULike.
SPARSE = Setting(
    TrainingConfig(epochs=101, evaluate_every=10, evaluate_test=True, patience=3, metric=METRIC), 1e-3
)
# A pass of ML-1M is five of CiteULike's: fewer and larger steps, at which the student comes within 2 % of what 101 epochs
# of SPARSE make of it, in a sixth of the time. What counts epochs counts half as many.
DENSE = Setting(
    replace(
        SPARSE.training, epochs=51, batch_size=8192, learning_rate=4e-3, weight_decay=3e-3, evaluate_every=5
    ),
    2e-3,
    {"htd": {"n_epochs": 50}, "bd": {"period": 5}, "concf": {"period": 5}, "hetcomp": {"period": 5}},
)
DATA = {"citeulike": (CITEULIKE_FULL, SPARSE), "ml-1m": (MOVIELENS, DENSE)}
# Beside published settings, which take hours: 30 experts, and a network of 17 million numbers.
OPTIONS = {
    "de": {"n_experts": 5},
    "pckd": {"n_experts": 5},
    "phr": {"hidden_width": 256},
    "concf": {"recommends": "multinomial"},
}
# A head of ConCF's model has a quarter of its numbers: this many times the student's, it recommends by as many as the student.
WIDTHS = {"concf": 4}
# Its consensus begins after epoch 50.
TRAINING = {"concf": {"learning_rate": 0.01, "weight_decay": 1e-5, "patience": 6}}
STATED = {
    "de": "DE has 5 experts, fewer than published",
    "pckd": "PCKD has 5 experts, fewer than published",
    "phr": "PHR has a hidden width of 256, less than published",
    "concf": "ConCF has its own optimiser (Adam 1e-2, decay 1e-5), may go 6 times without a better one and has vectors four times "
    "as wide as the student's, of which the head that recommends, its multinomial, keeps a quarter",
}


def options_of(name: str, dataset: Dataset, setting: Setting) -> dict[str, object]:
    """Settings of a method; lists no longer than the catalogue allows."""
    options = setting.options.get(name, {}) | OPTIONS.get(name, {})
    allowed = max(2, dataset.n_items // 4)
    for method, key, usual in (
        ("hetcomp", "n_listed", 100), ("hetcomp", "n_compared", 50), ("concf", "n_listed", 100), ("rce_kd", "n_ranked", 200),
        ("listwise", "n_listed", 100), ("pckd", "list_length", 100),
    ):  # fmt: skip
        if method == name and usual > allowed:
            options[key] = allowed // 2 if key == "n_compared" else allowed
    return options


def plan(config: ReproduceConfig, dataset: Dataset, setting: Setting) -> Plan:
    epochs = config.epochs or setting.training.epochs
    every = min(setting.training.evaluate_every, max(1, epochs // 4))
    training = replace(setting.training, epochs=epochs, evaluate_every=every)
    width = config.chosen_width(STUDENT_WIDTH)
    chosen = config.chosen_methods(tuple(METHODS))
    offset = offset_beside(width, TEACHER_WIDTH)
    entries = [
        Entry(
            "teacher", f"teacher, D = {TEACHER_WIDTH}", ModelConfig(width=TEACHER_WIDTH),
            replace(training, learning_rate=setting.teacher_rate),
            trajectory=max(1, epochs // 8) if "hetcomp" in chosen else 0,
        ),
        Entry("student", f"student, D = {width}", ModelConfig(width=width), training, seed_offset=offset),
    ]  # fmt: skip
    length = min(LISTED, max(1, dataset.n_items // 2))
    for name in chosen:
        model = ModelConfig(STUDENTS.get(name, "mf"), width * WIDTHS.get(name, 1))
        own = replace(training, **TRAINING.get(name, {}))
        method = MethodConfig(name, list_length=length, options=options_of(name, dataset, setting))
        entries.append(Entry(name, name, model, own, (method,), ("teacher",), seed_offset=offset))
    return Plan(dataset, tuple(entries), Protocol.of(dataset, METRIC))


def reproduce(config: ReproduceConfig, out: Path) -> dict[str, Results]:
    chosen = seeds_of(SEEDS if config.seeds is None else config.seeds)
    found: dict[str, tuple[Results, Runner, Opened]] = {}
    for name, opened in opened_datasets(config).items():
        runner = Runner(
            plan(config, opened.dataset, opened.setting), out / name, config.progress, config.device
        )

        def write(results: Results, name=name, runner=runner, opened=opened) -> None:
            found[name] = results, runner, opened
            report(found, chosen).write(out)

        runner.carry_out(chosen, write)
    return {name: results for name, (results, _, _) in found.items()}


def opened_datasets(config: ReproduceConfig) -> dict[str, Opened]:
    """Data sets, where they came from and how they are trained on, by the name of their folder in the study's."""
    opened: dict[str, Opened] = {}
    for named in config.datasets or DATA:
        if named in DATA:
            source, setting = DATA[named]
            name, found = named, Opened(*source.open(config.data), setting)
        else:
            name, dataset = Path(named).resolve().stem, load(named)
            found = Opened(replace(dataset, name=name), named, SPARSE)
            if not len(dataset.valid) or not len(dataset.test):
                raise ValueError(
                    f"reproduce: expected validation and test interactions in {named}; got none of one"
                )
        if in_files(name) in map(in_files, opened):
            raise ValueError(f"reproduce: expected datasets of different names; got two of the name {name}")
        # Only a folder that has train files itself, as --data, is of two names.
        if found.origin in (other.origin for other in opened.values()):
            raise ValueError(
                f"reproduce: expected folders of {' and '.join([*opened, name])} in {config.data}; got one with the "
                f"interactions of one data set: name it as --datasets=[{config.data}]"
            )
        opened[name] = found
    return opened


def in_files(name: str) -> str:
    """A data set's name as those of its pictures have it."""
    return re.sub(r"[^\w.-]+", "-", name)


def report(found: dict[str, tuple[Results, Runner, Opened]], chosen: Sequence[int]) -> Document:
    names = [results.plan.dataset.name for results, _, _ in found.values()]
    page = Document(f"Every method on {' and '.join(names)}")
    run = {entry.name for results, _, _ in found.values() for entry in results.plan.entries}
    stated = "; ".join(text for name, text in STATED.items() if name in run)
    page.text(
        f"The whole catalogue ranked; matrix factorisation by BPR, teacher of width {TEACHER_WIDTH}; the weights of the best "
        f"validation Recall@50. Settings are as published and untuned{stated and ', but '}{stated}. Memory is what training "
        "needed beside what stood before, the method's own tables made before not counted."
    )
    for name, (results, runner, opened) in found.items():
        what = [f"Data: {opened.origin}.", trained(results.plan, opened.setting)]
        own = accounts.begun(name, what, results, chosen)
        page.heading(results.plan.dataset.name)
        page.parts += own.parts
        page.table(
            accounts.overview(results, METRICS, "student"), f"Test metrics on {results.plan.dataset.name}"
        )
        lines = accounts.comparisons(results, "student", (METRIC,)) if "student" in results.values else []
        if len(lines) > 1:
            page.table(lines, "Against the undistilled student: paired tests, two-sided")
        draw(page, results, f"curves-{in_files(name)}")
        accounts.costs(page, results, runner, METRIC, f"costs-{in_files(name)}")
    return page


def trained(plan: Plan, setting: Setting) -> str:
    """How the models were trained, in words."""
    teacher, student = (entry.training for entry in plan.entries[:2])
    run = {entry.name for entry in plan.entries}
    own = "; ".join(
        f"{name} {key} {value}"
        for name, options in setting.options.items()
        if name in run
        for key, value in options.items()
    )
    return (
        f"Adam {student.learning_rate:g} (teacher {teacher.learning_rate:g}), decay {student.weight_decay:g}, batches of "
        f"{student.batch_size}, {student.epochs} epochs at most, looked at every {student.evaluate_every}, and no further "
        f"after {student.patience} times without a better one.{own and f' Shortened as the training is: {own}.'}"
    )


def draw(page: Document, results: Results, picture: str) -> None:
    """Learning curves of the first seed, the best six methods in colour."""
    value = {entry.name: Spread.of(results.values[entry.name], METRIC).mean for entry in results.finished}
    shown = sorted((n for n in value if n not in ("teacher", "student")), key=value.get, reverse=True)[:6]
    curves = []
    for entry in results.finished:
        points = next(iter(results.outcomes[entry.name].values())).curve(f"valid/{METRIC}")
        if entry.name in ("teacher", "student"):
            curves.append(Curve(entry.label, points, None, dashed=entry.name == "student"))
        elif entry.name in shown:
            curves.append(Curve(entry.label, points, shown.index(entry.name)))
    if curves:
        alt = f"Validation Recall@50 by epoch on {results.plan.dataset.name}: teacher, student and the best of the methods, "
        alt += ", ".join(f"{method} (test {value[method]:.4f})" for method in shown) + "."
        page.picture(
            draw_panels(
                picture,
                alt,
                [Panel(results.plan.dataset.name, curves)],
                "epoch",
                "validation Recall@50",
                columns=1,
            )
        )
