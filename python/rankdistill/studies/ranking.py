"""RRD, DE and IR-RRD on CiteULike: one held-out item among 499 sampled ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from rankdistill.config import MethodConfig, ModelConfig, ReproduceConfig, TrainingConfig
from rankdistill.document import Document
from rankdistill.metrics import evaluate_candidates
from rankdistill.pictures import Curve, Panel, draw_panels
from rankdistill.sampling import sample_candidates
from rankdistill.seeds import Protocol, Spread, Values, seeds_of
from rankdistill.studies import accounts
from rankdistill.studies.runner import Entry, Plan, Results, Runner, offset_beside
from rankdistill.studies.sources import CITEULIKE_CANDIDATES

SOURCE = (
    "logs of the released code (SeongKu-Kang/DE-RRD_CIKM20, of Kang, Hwang, Kweon, Yu: DE-RRD, CIKM 2020, and Item-side "
    "ranking regularized distillation, Information Sciences 2021), BPR, teacher 200, student 20, one seed, other candidates"
)
TEACHER_WIDTH, STUDENT_WIDTH = 200, 20
EPOCHS, PATIENCE = 1000, 20
SEEDS = "0..2"
CANDIDATES, CANDIDATE_SEED = 499, 2020
CUTOFFS, SHORT = (5, 10, 20), {"hit_rate": "H", "ndcg": "N", "mrr": "M"}
METRIC = "hit_rate@5"
ALLOWANCE = 0.015
SHOWN = ("hit_rate@5", "ndcg@5", "mrr@5", "hit_rate@10", "ndcg@10", "hit_rate@20", "ndcg@20")

# Test numbers in the order of SHOWN, each cut-off's at its own best epoch of validation, and the last best epoch.
PUBLISHED: dict[str, tuple[float, ...]] = {
    "student": (0.4486, 0.3353, 0.2978, 0.5559, 0.3686, 0.6584, 0.3966, 376),
    "rrd": (0.4698, 0.3554, 0.3175, 0.5727, 0.3879, 0.6679, 0.4132, 365),
    "de": (0.4773, 0.3595, 0.3205, 0.5796, 0.3933, 0.6729, 0.4149, 253),
    "ir-rrd": (0.4947, 0.3747, 0.3349, 0.5951, 0.4072, 0.6915, 0.4263, 174),
}
METHODS = {
    "student": (),
    "rrd": (MethodConfig("rrd"),),
    "de": (MethodConfig("de"),),
    "ir-rrd": (MethodConfig("ir-rrd"),),
    "de+rrd": (MethodConfig("de"), MethodConfig("rrd")),
}


@dataclass(frozen=True)
class CandidateProtocol(Protocol):
    """Metrics of each user's test (or validation) item among items drawn once, the same ones for every model."""

    n_candidates: int = CANDIDATES
    seed: int = CANDIDATE_SEED
    users: Tensor = field(init=False, repr=False, compare=False)
    held_out: Tensor = field(init=False, repr=False, compare=False)  # [n, 2]: valid, test
    candidates: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        data = self.dataset
        for part in ("valid", "test"):
            counts = getattr(data, part).csr().counts
            if not len(getattr(data, part)) or int(counts.max()) != 1:
                raise ValueError(
                    f"reproduce: expected one {part} item of a user at most, and some; got up to {int(counts.max())}"
                )
        item_of = torch.full((data.n_users, 2), -1)
        for column, part in enumerate((data.valid, data.test)):
            item_of[part.users, column] = part.items
        users = (item_of[:, 1] >= 0).nonzero().flatten()
        seen = data.train.csr().union(data.valid.csr()).union(data.test.csr())
        set_once = object.__setattr__
        set_once(self, "users", users)
        set_once(self, "held_out", item_of[users])
        set_once(self, "candidates", sample_candidates(seen, users, self.n_candidates, seed=self.seed))

    def fingerprint(self) -> str:
        more = f"{super().fingerprint()} {self.n_candidates} {self.seed}"
        return hashlib.sha256(more.encode()).hexdigest()

    def found(self, model: nn.Module) -> tuple[Values, Values]:
        """Of validation and test items, by user."""
        device = next(model.parameters()).device
        listed = (part.to(device) for part in (self.users, self.held_out, self.candidates))
        columns = evaluate_candidates(model, *listed, CUTOFFS)
        return tuple({name: value.cpu() for name, value in column.items()} for column in columns)

    def values(self, model: nn.Module) -> Values:
        found = self.found(model)[1]
        return {metric: found[metric] for metric in self.metrics}

    def evaluation(self, model: nn.Module) -> dict[str, float]:
        """Means of both parts, for a `Trainer`."""
        has_valid = self.held_out[:, 0] >= 0
        valid, test = self.found(model)
        numbers = {f"valid/{name}": float(value[has_valid].mean()) for name, value in valid.items()}
        return numbers | {f"test/{name}": float(value.mean()) for name, value in test.items()}


def plan(config: ReproduceConfig) -> tuple[Plan, str]:
    dataset, origin = CITEULIKE_CANDIDATES.open(config.data)
    training = TrainingConfig(
        epochs=config.epochs or EPOCHS, evaluate_every=1, patience=PATIENCE, metric=METRIC
    )
    entries = [Entry("teacher", f"teacher, D = {TEACHER_WIDTH}", ModelConfig(width=TEACHER_WIDTH), training)]
    width = config.chosen_width(STUDENT_WIDTH)
    for name in config.chosen_methods(tuple(METHODS)):
        methods = METHODS[name]
        teachers = ("teacher",) if methods else ()
        entries.append(
            Entry(
                name,
                f"{name}, D = {width}",
                ModelConfig(width=width),
                training,
                methods,
                teachers,
                seed_offset=offset_beside(width, TEACHER_WIDTH),
            )
        )
    protocol = CandidateProtocol(dataset, SHOWN)
    watched = tuple(f"hit_rate@{cutoff}" for cutoff in CUTOFFS)
    return Plan(dataset, tuple(entries), protocol, protocol.evaluation, watched), origin


def reproduce(config: ReproduceConfig, out: Path) -> Results:
    planned, origin = plan(config)
    chosen = seeds_of(SEEDS if config.seeds is None else config.seeds)
    runner = Runner(planned, out, config.progress, config.device)
    return runner.carry_out(chosen, lambda results: report(results, runner, chosen, origin).write(out))


def short(metric: str) -> str:
    name, _, cutoff = metric.partition("@")
    return f"{SHORT[name]}@{cutoff}"


def test_number(results: Results, name: str, metric: str) -> Spread:
    """Over seeds; as in the released code each cut-off's numbers are those of the best epoch by its own hit rate."""
    by = f"valid/hit_rate@{metric.partition('@')[2]}"
    return results.spread(name, lambda outcome: outcome.at_best(f"test/{metric}", by))


def beside_published(results: Results) -> list[list[str]]:
    lines = [["model", "", *map(short, SHOWN), "last best epoch"]]
    for entry in results.finished:
        ours = [str(test_number(results, entry.name, metric)) for metric in SHOWN]
        last = results.spread(entry.name, last_best).mean
        lines.append([entry.label, "ours", *ours, f"{last:.0f}"])
        if entry.name in PUBLISHED:
            *theirs, epoch = PUBLISHED[entry.name]
            lines.append([entry.label, "published", *(f"{value:.4f}" for value in theirs), f"{epoch:.0f}"])
    return lines


def last_best(outcome) -> int:
    """The last epoch at which any cut-off's validation hit rate was better than before."""
    curves = [outcome.curve(f"valid/hit_rate@{cutoff}") for cutoff in CUTOFFS]
    return max(max(points, key=lambda point: (point[1], -point[0]))[0] for points in curves)


def judged(results: Results) -> list[list[str]]:
    lines, full = [list(accounts.JUDGED)], results.plan.entries[0].training.epochs == EPOCHS
    for name, (published, *_) in PUBLISHED.items():
        if name in results.outcomes:
            ours = test_number(results, name, METRIC)
            lines.append(accounts.judged_line(name, ours, published, ALLOWANCE if full else None))
    return lines


def report(results: Results, runner: Runner, chosen: Sequence[int], origin: str) -> Document:
    epochs = results.plan.entries[0].training.epochs
    protocol = (
        f"Each user's test item among {CANDIDATES} items drawn from those that the user has not (seed {CANDIDATE_SEED}, "
        "the same for all models; the published candidates are lost): hit rate H, NDCG N and reciprocal rank M at 5, 10, "
        f"20. Matrix factorisation by BPR, Adam 1e-3, decay 1e-3, batches of 1024; evaluated every epoch, stopped after "
        f"{PATIENCE} epochs without a better validation hit rate at 5, 10 or 20, {epochs} epochs at most; published "
        f"weights and settings. Published: {SOURCE}. Data: {origin}."
    )
    page = accounts.begun(
        "Ranking distillation on CiteULike",
        [protocol, *([f"A trial of {epochs} epochs: not comparable with the published."] if epochs != EPOCHS else [])],
        results, chosen,
    )  # fmt: skip
    page.heading("H@5")
    page.table(judged(results), f"Targets: published − {ALLOWANCE}")
    page.heading("All numbers")
    page.table(
        beside_published(results),
        "Test; each cut-off's numbers at the best epoch of its own validation hit rate",
    )
    page.heading("Learning curves")
    first = {entry.name: next(iter(results.outcomes[entry.name].values())) for entry in results.finished}
    curves = [
        Curve(entry.label, first[entry.name].curve("test/hit_rate@5"), None if not at else at - 1)
        for at, entry in enumerate(results.finished)
    ]
    if curves:
        alt = f"Test H@5 by epoch of {len(curves)} models, seed {chosen[0]}. " + " ".join(
            f"{curve.label}: {curve.points[-1][1]:.4f} after {curve.points[-1][0] + 1} epochs."
            for curve in curves
        )
        page.picture(
            draw_panels("curves", alt, [Panel(f"seed {chosen[0]}", curves)], "epoch", "test H@5", columns=1)
        )
    page.heading("All models")
    page.table(
        accounts.overview(results, SHOWN[:3], "student"),
        "Test metrics of the weights of the best validation H@5",
    )
    accounts.compare(page, results, "student", SHOWN[:2])
    # A gap that is published of one seed; what a second method adds.
    for base, other in (("rrd", "de"), ("de", "de+rrd")):
        if {base, other} <= results.outcomes.keys():
            accounts.compare(page, results.only({base, other}), base, SHOWN[:2])
    accounts.costs(page, results, runner, METRIC)
    return page
