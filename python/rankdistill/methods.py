"""The methods that the command line offers by name, and what their constructors are given."""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass

from rankdistill.data import Dataset
from rankdistill.losses import (
    CollaborativeDistillation,
    Distillation,
    DistillationExperts,
    DualCorrection,
    FrequencyDistillation,
    FullTopologyDistillation,
    HierarchicalTopologyDistillation,
    HintRegression,
    ItemSideRankingRegularization,
    ListwiseDistillation,
    PersonalizedHintRegression,
    PreferenceConsistentDistillation,
    RankingDistillation,
    RelationalKnowledgeDistillation,
    RelaxedRankingDistillation,
    UnbiasedDistillation,
)
from rankdistill.models import as_teacher
from rankdistill.rankings import Rankings

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
}
OF_A_TEACHER = ("teacher", "teacher_users", "teacher_items", "item_rankings")
GIVEN = ("rankings", "exclude", "train", "student_width", *OF_A_TEACHER)  # not by the settings
LISTED_USERS = 500  # of an item, in the teacher's rankings of users


@dataclass(frozen=True)
class Given:
    """What methods may ask for: a data set, a teacher's rankings, the student's width, and the teacher itself if there
    is one at hand."""

    dataset: Dataset
    rankings: Rankings
    student_width: int
    teacher: object | None = None
    seed: int = 0

    def value(self, name: str) -> object:
        """By the name of a constructor's argument; None for what only a teacher has, where there is none."""
        if name in ("exclude", "train"):
            return self.dataset.train.csr()
        if name not in ("teacher_users", "teacher_items", "item_rankings"):
            return getattr(self, name)
        if not hasattr(self.teacher, "user_vectors"):
            return None
        if name == "teacher_users":
            return self.teacher.user_vectors().detach().float()
        if name == "teacher_items":
            return self.teacher.item_vectors().detach().float()
        k, seen = min(LISTED_USERS, self.dataset.n_users), self.dataset.train.csr().transposed()
        return as_teacher(self.teacher).swapped().rankings(k, seen)


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
            got = "none" if given.teacher is None else f"a {type(given.teacher).__name__}, which has none"
            raise ValueError(
                f"method {name}: expected a teacher with user and item vectors, as a model's folder, a file of factors or "
                f"users.npy,items.npy; got {got}"
            )
        if value is not None:
            arguments[key] = value
    return METHODS[name](**arguments)


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
            f"  needs: {', '.join(sorted(method.needs))}",
            f"  weight: {method.default_weight:g}",
            f"  options: {settings}",
        )
    )
