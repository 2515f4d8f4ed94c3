"""The methods that the command line offers by name, and what their constructors are given."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from types import NoneType
from typing import get_args, get_type_hints

import torch

from rankdistill.config import DistillConfig, MethodConfig, ModelConfig, TrainConfig, TuneConfig
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
from rankdistill.losses.settings import expect_options
from rankdistill.models import as_teacher
from rankdistill.models.ranked import unseen_rankings
from rankdistill.models.saved import build_model, load_teacher, warn_of_another_split
from rankdistill.models.trajectory import KeptTrajectory, evenly
from rankdistill.parallel.agreement import hashed, teacher_tensors
from rankdistill.rankings import Rankings, rankings_from_table
from rankdistill.rankings.ensemble import ensemble_rankings
from rankdistill.rankings.listed import is_table
from rankdistill.sampling import role_seed

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
# Of settings: their type, in words, and the values that are of it.
KINDS = (
    (int, "a whole number", Integral),
    (float, "a number", Real),
    (bool, "true or false", bool),
    (str, "a word", str),
    (NoneType, "null", NoneType),
)
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
        if hasattr(self.teacher, "n_users") and hasattr(self.teacher, "n_items"):
            known += [("teacher", (self.teacher.n_users, self.teacher.n_items))]
        for name, found in known:
            if found != sizes:
                raise ValueError(
                    f"methods: expected a {name.removesuffix('s')} of {sizes[0]} users × {sizes[1]} items, as the data "
                    f"set; got {found[0]} × {found[1]}"
                )

    def value(self, name: str) -> object:
        """By the name of a constructor's argument; None for what is not at hand."""
        if name in ("exclude", "train"):
            return self.dataset.train.csr()
        if name in OF_TRAJECTORIES:
            return getattr(self, name)() if self.trajectories else None
        if name not in OF_A_TEACHER or name == "teacher" or self.teacher is None:
            return getattr(self, name, None)
        if name == "full_rankings":
            return as_teacher(self.teacher).rankings(min(LISTED, self.dataset.n_items))
        if not hasattr(self.teacher, "user_vectors"):
            return None
        if name == "teacher_users":
            return self.teacher.user_vectors().detach().float()
        if name == "teacher_items":
            return self.teacher.item_vectors().detach().float()
        k, seen = min(LISTED, self.dataset.n_users), self.dataset.train.csr().transposed()
        return as_teacher(self.teacher).swapped().rankings(k, seen)

    def checkpoints(self) -> list[list[Rankings]]:
        return evenly(self.trajectories)

    def observed(self) -> torch.Tensor:
        """[U, P] int64 train items, in the order of all teachers together."""
        k = min(kept.seen.k for kept in self.trajectories)
        return ensemble_rankings(
            torch.stack([kept.seen.indices[:, :k].long() for kept in self.trajectories]), k
        )

    def under(self, seed: int, new_teacher: ModelConfig | None) -> Given:
        """The same for a run with another seed, with a new teacher of its own where there is one to be trained."""
        teacher = self.teacher
        if new_teacher is not None:
            teacher = build_model(
                new_teacher.name,
                self.dataset,
                new_teacher.width,
                role_seed(seed, "new teacher"),
                new_teacher.options,
            )
        return replace(self, seed=seed, teacher=teacher)


def given_for(
    config: DistillConfig | TuneConfig, dataset: Dataset, progress: Callable[[Iterable], Iterator] = iter
) -> Given:
    """What a command's settings put at hand; the rankings are made of the teacher where a method reads some and none
    are named."""
    chosen = [config.method, *config.also]
    rankings = teacher = None
    if config.new_teacher is not None:
        names = [m.name for m in chosen]
        if config.teacher is not None or not any("model" in METHODS[name].needs for name in names):
            raise ValueError(
                f"distill: expected new_teacher for a method that trains its teacher along, without teacher; "
                f"got {', '.join(names)} with teacher={config.teacher}"
            )
    elif config.teacher is not None:
        teacher = load_teacher(config.teacher, dataset)
    if config.rankings is not None and is_table(config.rankings):
        rankings = rankings_from_table(config.rankings, dataset)
    elif config.rankings is not None:
        vocabularies = {"user_vocabulary": dataset.users, "item_vocabulary": dataset.items}
        rankings = Rankings.load(config.rankings, **vocabularies)
        warn_of_another_split(config.rankings, rankings.metadata.get("train"), dataset)
    elif teacher is not None and any(
        "rankings" in inspect.signature(METHODS[m.name]).parameters for m in chosen
    ):
        k = max(m.list_length for m in chosen)
        rankings = unseen_rankings(teacher, dataset, k, progress, device=config.device)
    trajectories = [KeptTrajectory.load(folder, dataset) for folder in config.trajectories]
    given = Given(dataset, rankings, config.student.width, teacher, trajectories=trajectories)
    return given.under(config.training.seed, config.new_teacher)


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


def with_defaults(config: MethodConfig) -> MethodConfig:
    """The same method with its weight and every setting said: what a folder of finished work remembers, so that a default
    that has changed since is noticed. A seed follows from the training's where none is said."""
    expect_settings_of(config.name, config.options)
    options = {key: value for key, value in settings_of(config.name).items() if key != "seed"}
    return replace(config, weight=weight_of(config), options=options | config.options)


def remembered(config: TrainConfig | DistillConfig | TuneConfig, given: Given | None) -> dict:
    """A command's settings with those of its methods said in full, and hashes of what it reads its knowledge from."""
    contents = {}
    if given is not None:
        chosen = [config.method, *config.also]
        if config.rankings is not None:
            lists = given.rankings
            contents["contents of rankings"] = hashed(lists.indices, lists.lengths, lists.scores)
        if config.teacher is not None:
            contents["contents of teacher"] = hashed(*teacher_tensors(given.teacher))
        for path, kept in zip(config.trajectories, given.trajectories):
            lists = [*kept.checkpoints, kept.seen]
            contents[f"contents of {path}"] = hashed(
                *(part for r in lists for part in (r.indices, r.lengths))
            )
        config = replace(
            config,
            method=with_defaults(config.method),
            also=list(map(with_defaults, config.also)),
            base_weight=base_weight(chosen, config.base_weight),
        )
    return asdict(config) | contents


def weight_of(config: MethodConfig) -> float:
    """Of a method's loss, as chosen or as published."""
    return METHODS[config.name].default_weight if config.weight is None else config.weight


def make_method(name: str, given: Given, options: dict[str, object]) -> Distillation:
    """The method with these settings; a ValueError that names the nearest key where it has not one of them, or that says
    what it needs."""
    expect_settings_of(name, options)
    arguments = dict(options)
    for key, parameter in inspect.signature(METHODS[name]).parameters.items():
        if key in options or key not in (*GIVEN, "seed"):
            continue
        value = given.value(key)
        if value is None and parameter.default is inspect.Parameter.empty:
            found = described_teacher(given.teacher) if key in OF_A_TEACHER else "none"
            raise ValueError(f"method {name}: expected {missing(key)}; got {found}. {remedy(key)}")
        if key == "teacher" and "model" in METHODS[name].needs:
            if not isinstance(value, torch.nn.Module):
                raise ValueError(
                    f"method {name}: expected a teacher that can be trained along, a model's folder or file; got "
                    f"a {type(value).__name__}"
                )
            value = copy.deepcopy(value)  # which the method trains
        if value is not None:
            arguments[key] = value
    return METHODS[name](**arguments)


def expect_settings_of(name: str, options: dict[str, object]) -> None:
    """Keys that the method has, and values of the kinds that its settings have."""
    expect_options("method.options", "keys", options, settings_of(name))
    hints = get_type_hints(METHODS[name].__init__)
    for key, value in options.items():
        kinds = set(get_args(hints[key]) or (hints[key],))
        wanted = [text for kind, text, _ in KINDS if kind in kinds]
        fits = any(kind in kinds and isinstance(value, types) for kind, _, types in KINDS)
        if not fits or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"method {name}: expected options.{key} as {' or '.join(wanted)}; got {value!r}")


def missing(argument: str) -> str:
    if argument in OF_TRAJECTORIES:
        return "trajectories, folders of trainings with trajectory.every"
    if argument in ("teacher", "full_rankings"):
        return "a teacher, a model's folder or file, factors or a function of scores"
    if argument in OF_A_TEACHER:
        return "a teacher with user and item vectors, as a model's folder, a file of factors or users.npy,items.npy"
    return "rankings, a file or folder of rankdistill extract, or a teacher that makes them"


def described_teacher(teacher: object) -> str:
    return "none" if teacher is None else f"a {type(teacher).__name__}, which has none"


def remedy(argument: str) -> str:
    """How a caller gives what is missing."""
    if argument in OF_TRAJECTORIES:
        return "Give them as --trajectories, or as Given(trajectories=…)"
    if argument == "teacher":
        return "Give it as --teacher, or as Given(teacher=…); one that trains along is made by --new_teacher.width"
    if argument == "full_rankings":
        return "Give one as --teacher, or as Given(teacher=…)"
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
