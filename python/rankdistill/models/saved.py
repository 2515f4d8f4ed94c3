"""Models as files: one safetensors file with what is needed to build the model again and to check its data set."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from torch import nn

from rankdistill.checkpoint import load_checkpoint, save_checkpoint
from rankdistill.data.dataset import Dataset
from rankdistill.models.factor_files import ids_as_tensor, is_model_file
from rankdistill.models.factors import Factors
from rankdistill.models.kinds import MODELS
from rankdistill.models.teachers import ScoreTeacher, as_teacher

MODEL_FILE = "model.safetensors"


def build_model(name: str, dataset: Dataset, width: int, seed: int = 0) -> nn.Module:
    """A new model for a data set's users and items."""
    if name not in MODELS:
        raise ValueError(f"build_model: expected a model of {', '.join(MODELS)}; got {name!r}")
    return MODELS[name](dataset.n_users, dataset.n_items, width, seed=seed)


def name_of(model: nn.Module) -> str:
    """By which `build_model` knows a model's class."""
    for name, made in MODELS.items():
        if type(model) is made:
            return name
    raise TypeError(f"save_model: expected a model of {', '.join(MODELS)}; got {type(model).__name__}")


def save_model(path: str | os.PathLike, model: nn.Module, name: str, dataset: Dataset) -> None:
    """Writes a model, the ids that its rows are numbered by, and their hashes."""
    facts = {
        "model": name,
        "width": model.width,
        "user_vocabulary": dataset.users.sha256,
        "item_vocabulary": dataset.items.sha256,
    }
    ids = ids_as_tensor("user_ids", dataset.users.ids) | ids_as_tensor("item_ids", dataset.items.ids)
    save_checkpoint(path, {"model": model.state_dict(), "ids": ids}, facts)


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
            raise ValueError(
                f"load_model: expected a model of this data set's {side}s ({len(vocabulary)} ids, SHA-256 "
                f"{vocabulary.sha256[:12]}…); got {facts[f'{side}_vocabulary'][:12]}… in {path}"
            )
    model = build_model(facts["model"], dataset, facts["width"])
    model.load_state_dict(groups["model"])
    return model


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
