"""The methods that the command line offers by name, and what their constructors are given."""

from __future__ import annotations

import difflib
import inspect

from rankdistill.data import Dataset
from rankdistill.losses import (
    CollaborativeDistillation,
    Distillation,
    DualCorrection,
    ListwiseDistillation,
    RankingDistillation,
    RelaxedRankingDistillation,
    UnbiasedDistillation,
)
from rankdistill.rankings import Rankings

METHODS: dict[str, type[Distillation]] = {
    "rrd": RelaxedRankingDistillation,
    "rd": RankingDistillation,
    "cd": CollaborativeDistillation,
    "dcd": DualCorrection,
    "listwise": ListwiseDistillation,
    "unkd": UnbiasedDistillation,
}
GIVEN = (
    "rankings",
    "exclude",
    "item_rankings",
    "teacher",
)  # from the teacher and the data set, not by the settings


def settings_of(name: str) -> dict[str, object]:
    """A method's settings with their defaults."""
    parameters = inspect.signature(METHODS[name]).parameters
    return {key: p.default for key, p in parameters.items() if key not in GIVEN}


def make_method(
    name: str, rankings: Rankings, dataset: Dataset, seed: int, options: dict[str, object]
) -> Distillation:
    """The method with these settings; a ValueError that names the nearest key where it has not one of them."""
    known = settings_of(name)
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, 1)
            hint = f" The nearest key is {close[0]}." if close else ""
            raise ValueError(f"method.options: expected keys of {', '.join(known)}; got {option!r}.{hint}")
    given = {"rankings": rankings, "exclude": dataset.train.csr(), "seed": seed}
    wanted = inspect.signature(METHODS[name]).parameters
    return METHODS[name](**({key: value for key, value in given.items() if key in wanted} | options))


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
