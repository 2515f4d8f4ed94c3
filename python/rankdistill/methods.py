"""The methods that the command line offers by name, and what their constructors are given."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rankdistill.config import DistillConfig, MethodConfig
from rankdistill.data import Dataset
from rankdistill.losses import (
    BidirectionalDistillation,
    CollaborativeDistillation,
    ConsensusLearning,
    Distillation,
    DistillationExperts,
    DualCorrection,
    FrequencyDistillation,
    FullTopologyDistillation,
    HeterogeneousCompression,
    HierarchicalTopologyDistillation,
    HintRegression,
    ItemSideRankingRegularization,
    ListwiseDistillation,
    PersonalizedHintRegression,
    PreferenceConsistentDistillation,
    RankingDistillation,
    RejuvenatedCrossEntropyDistillation,
    RelationalKnowledgeDistillation,
    RelaxedRankingDistillation,
    UnbiasedDistillation,
)
from rankdistill.models.saved import build_model, load_model
from rankdistill.models.trajectory import KeptTrajectory, evenly
from rankdistill.rankings import Rankings
from rankdistill.rankings.ensemble import ensemble_rankings

METHODS: dict[str, type[Distillation]] = {
    "rrd": RelaxedRankingDistillation,
    "ir-rrd": ItemSideRankingRegularization,
    "rd": RankingDistillation,
    "cd": CollaborativeDistillation,
    "dcd": DualCorrection,
    "listwise": ListwiseDistillation,
    "unkd": UnbiasedDistillation,
    "hint": HintRegression,
    "de": DistillationExperts,
    "phr": PersonalizedHintRegression,
    "ftd": FullTopologyDistillation,
    "htd": HierarchicalTopologyDistillation,
    "rkd": RelationalKnowledgeDistillation,
    "freqd": FrequencyDistillation,
    "pckd": PreferenceConsistentDistillation,
    "bd": BidirectionalDistillation,
    "concf": ConsensusLearning,
    "rce_kd": RejuvenatedCrossEntropyDistillation,
    "hetcomp": HeterogeneousCompression,
}
STUDENTS = {"concf": "multi_head"}  # of methods that teach one kind of model alone
OF_A_TEACHER = ("teacher", "teacher_users", "teacher_items", "item_rankings", "full_rankings")
OF_TRAJECTORIES = ("checkpoints", "observed")
# What constructors are given, not by the settings.
GIVEN = ("rankings", "exclude", "train", "student_width", *OF_A_TEACHER, *OF_TRAJECTORIES)
LISTED = 500  # users of an item, or items with train items, in the teacher's rankings made here


@dataclass(frozen=True)
class Given:
    """What methods may ask for: a data set, a teacher's rankings, the student's width, and, where they are at hand, the
    teacher itself and trajectories of several teachers."""

    dataset: Dataset
    rankings: Rankings | None
    student_width: int
    teacher: object | None = None
    seed: int = 0
    trajectories: Sequence[KeptTrajectory] = ()

    def __post_init__(self) -> None:
        sizes = self.dataset.n_users, self.dataset.n_items
        known = [("rankings", (r.n_users, r.n_items)) for r in (self.rankings,) if r is not None]
        if self.has_vectors:
            known += [("teacher", (len(self.teacher.user_vectors()), len(self.teacher.item_vectors())))]
        for name, found in known:
            if found != sizes:
                raise ValueError(
                    f"methods: expected a {name.removesuffix('s')} of {sizes[0]} users × {sizes[1]} items, as the data "
                    f"set; got {found[0]} × {found[1]}"
                )

    @property
    def has_vectors(self) -> bool:
        return hasattr(self.teacher, "user_vectors") and hasattr(self.teacher, "item_vectors")

    def value(self, name: str) -> object:
        """By the name of a constructor's argument; None for what is not at hand."""
        if name in ("exclude", "train"):
            return self.dataset.train.csr()
        if name in OF_TRAJECTORIES:
            return getattr(self, name)() if self.trajectories else None
        if name not in OF_A_TEACHER or name == "teacher" or not self.has_vectors:
            return getattr(self, name, None)
        users, items = self.teacher.user_vectors().detach(), self.teacher.item_vectors().detach()
        if name == "teacher_users":
            return users
        if name == "teacher_items":
            return items
        if name == "full_rankings":
            return Rankings.from_vectors(users, items, min(LISTED, self.dataset.n_items))
        k, seen = min(LISTED, self.dataset.n_users), self.dataset.train.csr().transposed()
        return Rankings.from_vectors(items, users, k, seen)

    def checkpoints(self) -> list[list[Rankings]]:
        return evenly(self.trajectories)

    def observed(self) -> torch.Tensor:
        """[U, P] int64 train items, in the order of all teachers together."""
        k = min(kept.seen.k for kept in self.trajectories)
        return ensemble_rankings(
            torch.stack([kept.seen.indices[:, :k].long() for kept in self.trajectories]), k
        )


def given_for(config: DistillConfig, dataset: Dataset) -> Given:
    """What a command's settings put at hand."""
    rankings = teacher = None
    if config.rankings is not None:
        vocabularies = {"user_vocabulary": dataset.users, "item_vocabulary": dataset.items}
        rankings = Rankings.load(config.rankings, **vocabularies)
    if config.new_teacher is not None:
        chosen = [m.name for m in (config.method, *config.also)]
        if config.teacher is not None or not any("model" in METHODS[name].needs for name in chosen):
            raise ValueError(
                f"distill: expected new_teacher for a method that trains its teacher along, without teacher; "
                f"got {', '.join(chosen)} with teacher={config.teacher}"
            )
        made = config.new_teacher
        teacher = build_model(made.name, dataset, made.width, seed=config.training.seed + 1)
    elif config.teacher is not None:
        teacher = load_model(config.teacher, dataset)
    trajectories = [KeptTrajectory.load(folder, dataset) for folder in config.trajectories]
    return Given(dataset, rankings, config.student.width, teacher, config.training.seed, trajectories)


def base_weight(methods: Sequence[MethodConfig], chosen: float | None) -> float:
    """Of the student's own loss beside these methods: as chosen, or as they are published."""
    return min(METHODS[m.name].default_base_weight for m in methods) if chosen is None else chosen


def student_of(name: str) -> str:
    """The model that a method teaches, as --student.name has it."""
    return STUDENTS.get(name, "mf")


def settings_of(name: str) -> dict[str, object]:
    """A method's settings with their defaults."""
    parameters = inspect.signature(METHODS[name]).parameters
    return {key: p.default for key, p in parameters.items() if key not in GIVEN}


def make_method(name: str, given: Given, options: dict[str, object]) -> Distillation:
    """The method with these settings; a ValueError that names the nearest key where it has not one of them, or that says
    what it needs."""
    known = settings_of(name)
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, 1)
            hint = f" The nearest key is {close[0]}." if close else ""
            raise ValueError(f"method.options: expected keys of {', '.join(known)}; got {option!r}.{hint}")
    arguments = dict(options)
    for key, parameter in inspect.signature(METHODS[name]).parameters.items():
        if key in options or key not in (*GIVEN, "seed"):
            continue
        value = given.value(key)
        if value is None and parameter.default is inspect.Parameter.empty:
            found = (
                "none" if given.teacher is None or key not in OF_A_TEACHER else type(given.teacher).__name__
            )
            raise ValueError(f"method {name}: expected {missing(key)}; got {found}. {remedy(key)}")
        if key == "teacher" and "model" in METHODS[name].needs:
            value = copy.deepcopy(value)  # which the method trains
        if value is not None:
            arguments[key] = value
    return METHODS[name](**arguments)


def missing(argument: str) -> str:
    if argument in OF_TRAJECTORIES:
        return "trajectories, folders of trainings with trajectory.every"
    if argument in OF_A_TEACHER:
        return "a teacher, a model's folder or file, for its vectors"
    return "rankings, a file or folder of rankdistill extract"


def remedy(argument: str) -> str:
    """How a caller gives what is missing."""
    if argument in OF_TRAJECTORIES:
        return "Give them as --trajectories, or as Given(trajectories=…)"
    if argument == "teacher":
        return "Give it as --teacher, or as Given(teacher=…); one that trains along is made by --new_teacher.width"
    if argument in OF_A_TEACHER:
        return "Give one with user_vectors() and item_vectors() as --teacher, or as Given(teacher=…)"
    return "Give them as --rankings, or as Given(rankings=…)"


def described(name: str) -> str:
    """A method's title, source, needs and settings, as text."""
    method = METHODS[name]
    text = inspect.getdoc(method)
    title, source = (
        " ".join(text.split("\n\n")[0].split()),
        " ".join(text.split("Source:")[1].split("\n\n")[0].split()),
    )
    settings = ", ".join(f"{key}={value}" for key, value in settings_of(name).items())
    return "\n".join(
        (
            f"{name}: {title}",
            f"  source: {source}",
            f"  needs: {', '.join(sorted(method.needs)) or 'no teacher'}",
            f"  weight: {method.default_weight:g}{'' if method.default_base_weight else ', without a base loss'}",
            f"  options: {settings}",
        )
    )
