"""Trains the models of a study, each once: whatever is finished is read, the same call goes on after an interruption, and
several of it share the models."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from rankdistill import seeds
from rankdistill.config import MethodConfig, ModelConfig, TrainingConfig
from rankdistill.data import Dataset
from rankdistill.files import AtWork, alone_in, json_in, write_text
from rankdistill.fitting import bar, fit, make_terms
from rankdistill.methods import Given, base_weight, with_defaults
from rankdistill.models.ranked import unseen_rankings
from rankdistill.models.saved import MODEL_FILE, load_model, save_model
from rankdistill.models.trajectory import KeptTrajectory, Trajectory
from rankdistill.rankings import Rankings
from rankdistill.rankings.progress import duration
from rankdistill.serving import peak_beside
from rankdistill.trainer import CHECKPOINT

logger = logging.getLogger("rankdistill")

OUTCOME = "outcome.json"
SECONDS_BETWEEN_CHECKPOINTS = 60.0
SECONDS_BETWEEN_REPORTS = 300.0
SECONDS_BETWEEN_LOOKS = 1.0  # at what other processes train


OFFSET = 1 << 20  # of seeds: more than there are


def offset_beside(width: int, teacher_width: int) -> int:
    """`seed_offset` of a student: as wide as its teacher it would be the teacher again, of its own seed or another."""
    return OFFSET if width == teacher_width else 0


@dataclass(frozen=True)
class Entry:
    """One model of a study.

    Args:
        name: of its folder.
        label: of its rows.
        model, training: as for `rankdistill train`; the study's seeds take the place of training.seed.
        methods: what it is distilled by; none for a teacher or an undistilled student.
        teachers: names of earlier entries; methods that read one teacher take the first.
        trajectory: epochs between two rankings of its training that are kept, for hetcomp; 0 for none.
        seed_offset: what is added to the seed, for a model that must not begin as another of the same size.
    """

    name: str
    label: str
    model: ModelConfig
    training: TrainingConfig
    methods: tuple[MethodConfig, ...] = ()
    teachers: tuple[str, ...] = ()
    trajectory: int = 0
    seed_offset: int = 0


@dataclass(frozen=True)
class Plan:
    """The models of a study on one data set, in order, and how they are judged.

    Args:
        dataset: the interactions.
        entries: the models; a teacher before its students.
        protocol: whose metrics every finished model gets for every user.
        evaluation, watched: as for `Trainer`.
    """

    dataset: Dataset
    entries: tuple[Entry, ...]
    protocol: seeds.Protocol
    evaluation: Callable[[nn.Module], dict[str, float]] | None = None
    watched: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What is known of one trained model.

    parameters: of the model; method_parameters: of the methods beside it. seconds: of training, evaluations not counted;
    epochs: how many it ran; best_epoch: whose weights it kept. peak_bytes: memory that training needed beside what stood
    before (None: not known here). history: the trainer's records. gpu: the name of the one that it was trained on, or "".
    """

    parameters: int
    method_parameters: int
    seconds: float
    epochs: int
    best_epoch: int
    peak_bytes: int | None
    history: list[dict] = field(repr=False)
    gpu: str = ""

    @property
    def seconds_per_epoch(self) -> float:
        return self.seconds / max(1, self.epochs)

    def curve(self, key: str) -> list[tuple[int, float]]:
        return [(record["epoch"], record[key]) for record in self.history if key in record]

    def at_best(self, key: str, by: str) -> float:
        """One number of the first epoch whose other number is the largest."""
        return max((r for r in self.history if by in r), key=lambda r: (r[by], -r["epoch"]))[key]


@dataclass
class Results:
    """Everything that is finished: outcomes and every user's metrics, by entry and seed."""

    plan: Plan
    outcomes: dict[str, dict[int, Outcome]] = field(default_factory=dict)
    values: dict[str, dict[int, seeds.Values]] = field(default_factory=dict)

    def add(self, name: str, seed: int, outcome: Outcome, values: seeds.Values) -> None:
        self.outcomes.setdefault(name, {})[seed] = outcome
        self.values.setdefault(name, {})[seed] = values

    @property
    def finished(self) -> list[Entry]:
        return [entry for entry in self.plan.entries if entry.name in self.outcomes]

    def only(self, names: set[str]) -> Results:
        """Those of some entries."""
        kept = [
            {name: found for name, found in part.items() if name in names}
            for part in (self.outcomes, self.values)
        ]
        return Results(self.plan, *kept)

    def spread(self, name: str, of: Callable[[Outcome], float]) -> seeds.Spread:
        return seeds.Spread.of_values([of(outcome) for outcome in self.outcomes[name].values()])


class Runner:
    """Carries a plan out in a folder: out/<entry>/seed-<seed> holds a model, its outcome and every user's metrics.

    What a folder holds may have been trained on any device: a report says which models on a GPU.
    """

    def __init__(self, plan: Plan, out: Path, progress: bool = True, device: str = "cpu") -> None:
        self.plan, self.out, self.progress, self.device = plan, out, progress, device
        self._rankings: tuple[tuple[str, int, int], Rankings] | None = None

    def carry_out(
        self, chosen: Sequence[int], report: Callable[[Results], None] = lambda results: None
    ) -> Results:
        """Every entry under every seed, one seed after another; `report` is called now and then, and at the end.

        What is finished already is read first, and reported before anything is trained. Several processes may do this in
        one folder side by side: each trains what no other one trains, and waits for the rest.
        """
        work = [(entry, seed) for seed in chosen for entry in self.plan.entries]
        done: dict[tuple[str, int], tuple[Outcome, seeds.Values]] = {}
        trained, elsewhere = 0, set()

        def take(number: int, entry: Entry, seed: int) -> bool:
            at, folder = f"{number} of {len(work)}", self.folder(entry.name, seed)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with alone_in(folder, "reproduce", "model"):
                    done[entry.name, seed] = self.one(entry, seed, at)
                return True
            except AtWork:
                if (entry.name, seed) not in elsewhere:
                    logger.info("model %s, %s, seed %d: another process trains it", at, entry.label, seed)
                    elsewhere.add((entry.name, seed))
                return False

        for number, (entry, seed) in enumerate(work, start=1):
            if (self.folder(entry.name, seed) / OUTCOME).is_file():
                take(number, entry, seed)
        if 0 < len(done) < len(work):
            report(self.results(work, done))
        started = reported = time.monotonic()
        while len(done) < len(work):
            before_round = len(done)
            for number, (entry, seed) in enumerate(work, start=1):
                lacks_teachers = any((name, seed) not in done for name in entry.teachers)
                if (entry.name, seed) in done or lacks_teachers:
                    continue
                before = time.monotonic()
                if not take(number, entry, seed):
                    continue
                if time.monotonic() - before > 1:
                    trained += 1
                    left = (time.monotonic() - started) / trained * (len(work) - len(done))
                    logger.info("%d of %d models, some %s left", len(done), len(work), duration(left))
                if len(done) < len(work) and time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
                    reported = time.monotonic()
                    report(self.results(work, done))
            if len(done) == before_round:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        results = self.results(work, done)
        report(results)
        return results

    def results(self, work: Sequence[tuple[Entry, int]], done: dict) -> Results:
        """What is done, in the plan's order."""
        results = Results(self.plan)
        for entry, seed in work:
            if (entry.name, seed) in done:
                results.add(entry.name, seed, *done[entry.name, seed])
        return results

    def folder(self, name: str, seed: int) -> Path:
        return self.out / name / f"seed-{seed}"

    def one(self, entry: Entry, seed: int, at: str = "") -> tuple[Outcome, seeds.Values]:
        """An entry's outcome and values; trained if they are not there."""
        settings = dataclasses.asdict(
            dataclasses.replace(entry, methods=tuple(map(with_defaults, entry.methods)))
        )
        del settings["training"]["seed"], settings["label"]

        def train(seed: int, folder: Path) -> nn.Module:
            logger.info("model %s: %s, seed %d", at, entry.label, seed)
            return self.train(entry, seed, folder)

        values = seeds.run_seeds([seed], self.out / entry.name, settings, self.plan.protocol, train)
        folder = self.folder(entry.name, seed)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        outcome = Outcome(**json_in("reproduce", folder / OUTCOME))
        return outcome, values[seed]

    def train(self, entry: Entry, seed: int, folder: Path) -> nn.Module:
        plan = self.plan
        training = dataclasses.replace(entry.training, seed=seed + entry.seed_offset)
        terms = make_terms(entry.methods, self.given(entry, seed)) if entry.methods else ()
        trajectory = None
        if entry.trajectory:
            trajectory = Trajectory(
                folder / "trajectory", entry.trajectory, trajectory_length(plan), plan.dataset
            )
        on_cuda = self.device == "cuda"
        peak, (model, trainer, history) = peak_beside(
            lambda: fit(
                plan.dataset, entry.model, training, terms, folder, f"{entry.label}, seed {seed}", self.progress,
                trajectory, base_weight(entry.methods, None) if entry.methods else 1.0, device=self.device,
                evaluation=plan.evaluation, watched=plan.watched,
                seconds_between_checkpoints=SECONDS_BETWEEN_CHECKPOINTS,
            ),
            on_cuda,
        )  # fmt: skip
        size = lambda part: sum(p.numel() for p in part.parameters())
        outcome = Outcome(
            size(model), sum(size(term.method) for term in terms), trainer.seconds, len(history),
            trainer.learned_epochs - 1, peak, history, torch.cuda.get_device_name() if on_cuda else "",
        )  # fmt: skip
        save_model(folder / MODEL_FILE, model, entry.model.name, plan.dataset)
        write_text(folder / OUTCOME, json.dumps(dataclasses.asdict(outcome)) + "\n")
        return model

    def model(self, name: str, seed: int) -> nn.Module:
        return load_model(self.folder(name, seed), self.plan.dataset)

    def given(self, entry: Entry, seed: int) -> Given:
        """What an entry's methods learn from."""
        teacher = self.model(entry.teachers[0], seed) if entry.teachers else None
        rankings, trajectories = None, []
        if teacher is not None:
            k = min(max(m.list_length for m in entry.methods), self.plan.dataset.n_items)
            rankings = self.rankings(entry.teachers[0], seed, teacher, k)
        if any(e.trajectory for e in self.plan.entries if e.name in entry.teachers):
            folders = [self.folder(name, seed) / "trajectory" for name in entry.teachers]
            trajectories = [KeptTrajectory.load(folder, self.plan.dataset, least=0) for folder in folders]
        return Given(
            self.plan.dataset, rankings, entry.model.width, teacher, seed + entry.seed_offset, trajectories
        )

    def rankings(self, name: str, seed: int, teacher: nn.Module, k: int) -> Rankings:
        """A teacher's lists, made once for all students that follow one another."""
        if self._rankings is None or self._rankings[0] != (name, seed, k):
            shown = bar("rankings", self.progress)
            made = unseen_rankings(teacher, self.plan.dataset, k, shown, device=self.device)
            self._rankings = (name, seed, k), made
        return self._rankings[1]


def trajectory_length(plan: Plan) -> int:
    """Items per user that a trajectory keeps: what hetcomp reads, or fewer of a small catalogue."""
    wanted = [m.options.get("n_listed", 100) for e in plan.entries for m in e.methods if m.name == "hetcomp"]
    return min(max(wanted, default=100), plan.dataset.n_items)
