"""Models as files: one safetensors file with what is needed to build the model again and to check its data set."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from rankdistill.checkpoint import load_checkpoint, save_checkpoint
from rankdistill.config import GENERATED
from rankdistill.data.dataset import Dataset
from rankdistill.models.factor_files import is_model_file, model_of
from rankdistill.models.factors import Factors
from rankdistill.models.kinds import MODELS, make_model, model_settings
from rankdistill.models.self_attentive_recommendation import LENGTH, histories_of
from rankdistill.models.teachers import ScoreTeacher, as_teacher
from rankdistill.rankings.stored_ids import ids_as_tensor

logger = logging.getLogger("rankdistill")

MODEL_FILE = "model.safetensors"


def build_model(
    name: str, dataset: Dataset, width: int, seed: int = 0, options: Mapping[str, object] | None = None
) -> nn.Module:
    """A new model for a data set's users and items, with settings beside its width.

    Raises:
        ValueError: no such model or setting; interactions without timestamps for a model of sequences.
    """
    options = options or {}
    given = {
        "n_users": lambda: dataset.n_users,
        "n_items": lambda: dataset.n_items,
        "train": lambda: dataset.train.csr(),
        "histories": lambda: histories_of(dataset.train, int(options.get("length", LENGTH)) + 1),
        "seed": lambda: seed,
    }
    return make_model("build_model", name, width, given, options)


def name_of(model: nn.Module) -> str:
    """By which `build_model` knows a model's class."""
    for name, made in MODELS.items():
        if type(model) is made:
            return name
    raise TypeError(f"save_model: expected a model of {', '.join(MODELS)}; got {type(model).__name__}")


def save_model(path: str | os.PathLike, model: nn.Module, name: str, dataset: Dataset) -> None:
    """Writes a model, the ids that its rows are numbered by, and their hashes."""
    facts, ids = described_model(model, name, dataset)
    save_checkpoint(path, {"model": model.state_dict(), "ids": ids}, facts)


def described_model(model: nn.Module, name: str, dataset: Dataset) -> tuple[dict, dict[str, Tensor]]:
    """What is written beside a model's weights: facts to build it again, and the ids of its rows."""
    facts = {
        "model": name,
        "width": model.width,
        "n_users": model.n_users,
        "n_items": model.n_items,
        "options": {key: getattr(model, key) for key in model_settings(name)},
        "user_vocabulary": dataset.users.sha256,
        "item_vocabulary": dataset.items.sha256,
        "train": dataset.train_sha256,
    }
    return facts, ids_as_tensor("user_ids", dataset.users.ids) | ids_as_tensor("item_ids", dataset.items.ids)


def load_model(path: str | os.PathLike, dataset: Dataset) -> nn.Module:
    """Reads a model that `save_model` wrote; `path` may be its folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model, or a model of another data set.
    """
    path = Path(path)
    path = path / MODEL_FILE if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"load_model: expected a model file; got {path}, which does not exist")
    groups, facts = load_checkpoint(path)
    if "model" not in facts:
        raise ValueError(f"load_model: expected a model; got {path}, a checkpoint of something else")
    for side, vocabulary in (("user", dataset.users), ("item", dataset.items)):
        if facts[f"{side}_vocabulary"] != vocabulary.sha256:
            default = ". The data set is the generated one, the default: --data.source names another"
            raise ValueError(
                f"load_model: expected a model of this data set's {side}s ({len(vocabulary)} ids, SHA-256 "
                f"{vocabulary.sha256[:12]}…); got {facts[f'{side}_vocabulary'][:12]}… in {path}"
                f"{default * (dataset.name == GENERATED)}"
            )
    warn_of_another_split(str(path), facts.get("train"), dataset)
    return model_of(groups["model"], facts)


def warn_of_another_split(what: str, train: str | None, dataset: Dataset) -> None:
    """What was learned from other interactions of the same users and items may know those that this data set holds out."""
    if train is not None and train != dataset.train_sha256:
        logger.warning(
            "%s comes from another train part of these users and items, by another split or seed: it may have learned from "
            "what is held out here",
            what,
        )


def load_teacher(source: str, dataset: Dataset) -> nn.Module | Factors | ScoreTeacher:
    """A teacher, or any model to evaluate: a model that `save_model` wrote, or whatever `as_teacher` takes as text.

    Args:
        source: a model's folder or file; a file of factors, or several by commas (`load_factors`); or "module:name", an
            object or a function of a Python module, for `as_teacher`.
        dataset: whose users and items it ranks.

    Raises:
        FileNotFoundError: no such file. ValueError: a file of something else, or of another data set.
        ModuleNotFoundError: no such module.
    """
    path = Path(source)
    model = path / MODEL_FILE if path.is_dir() else path
    if is_model_file(model):
        return load_model(model, dataset)
    module, colon, name = source.partition(":")
    if not colon or path.exists() or "," in source:
        return as_teacher(source, dataset)
    found = importlib.import_module(module)
    if not hasattr(found, name):
        raise ValueError(f"load_teacher: expected a name in {found.__name__}; got {name!r}, which it has not")
    return as_teacher(getattr(found, name), dataset)
