"""A training as commands and studies make it: its data, its model, what it learns from, and how its progress shows."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from rankdistill.checkpoint import FORMAT
from rankdistill.config import (
    GENERATED,
    DataConfig,
    MethodConfig,
    ModelConfig,
    TrainingConfig,
    TrajectoryConfig,
)
from rankdistill.data import DATASETS, Dataset, generate, load, read_interactions
from rankdistill.files import remove_partial
from rankdistill.losses.settings import expect_options
from rankdistill.methods import Given, make_method, weight_of
from rankdistill.models.saved import build_model, described_model, save_model
from rankdistill.models.trajectory import Trajectory
from rankdistill.rankings.distributed import Processes
from rankdistill.rankings.progress import logged
from rankdistill.sharded import ShardedFactorization, write_tables
from rankdistill.sharded.checkpoint import tables_of
from rankdistill.trainer import Term, Trainer


def open_dataset(config: DataConfig) -> Dataset:
    options = {**config.options, **({"format": config.format} if config.format else {})}
    generated = config.train is None and config.source == GENERATED
    known = set(inspect.signature(generate if generated else read_interactions).parameters)
    known -= {"path", "ratios", "seed", "name"}
    if config.train is None and config.source in DATASETS:
        known.add("cache")
    whose = " for the generator" if generated else " for the reader"
    expect_options("data.options", "keys", options, sorted(known), whose)
    if config.train is not None:
        return Dataset.from_files(config.train, config.valid, config.test, **options)
    return load(config.source, split=config.split, ratios=config.ratios, seed=config.seed, **options)


def fit(
    dataset: Dataset,
    model: ModelConfig,
    training: TrainingConfig,
    terms,
    folder: Path,
    label: str,
    progress: bool,
    trajectory: Trajectory | None = None,
    base_weight: float = 1.0,
    device: str = "cpu",
    **more,
):
    """A trained model, its trainer and its history; `more` as for `Trainer`."""
    made = built(model, dataset, training.seed).to(device)
    for _, method in terms:
        method.to(device)
    trainer = Trainer(
        made, dataset, training, terms, base_weight=base_weight, after_epoch=trajectory, folder=folder,
        progress=bar(label, progress and is_first_process()), **more,
    )  # fmt: skip
    history = trainer.fit()
    for module in (made, *(method for _, method in terms)):
        module.cpu()
    with first_process() as writes:
        if writes and trajectory is not None:
            trajectory.finish(made, trainer.learned_epochs)
    return made, trainer, history


def built(config: ModelConfig, dataset: Dataset, seed: int) -> nn.Module:
    """A new model; with sharded tables this process's rows of it, with the values that it has whole."""
    if not config.sharded:
        return build_model(config.name, dataset, config.width, seed, config.options)
    known = ("init_std", "replicate_users")
    expect_options("build_model", "options", config.options, known, f" for sharded {config.name}")
    return ShardedFactorization(dataset.n_users, dataset.n_items, config.width, seed, **config.options)


def keep_model(path: Path, model: nn.Module, name: str, dataset: Dataset) -> None:
    """Writes a trained model by rank 0, all processes together; divided tables as the whole ones that they are.

    No other process writes `path` meanwhile: the folder is its command's.
    """
    whole = not tables_of(model)
    with first_process() as writes:
        if writes:
            remove_partial(path)
            if whole:
                save_model(path, model, name, dataset)
    if whole:
        return
    facts, ids = described_model(model, name, dataset)
    tables = {f"model/{side}_table": getattr(model, f"{side}_table") for side in ("user", "item")}
    tensors = {f"ids/{key}": tensor for key, tensor in ids.items()}
    write_tables(path, tables, tensors, {FORMAT: json.dumps(facts)})


def make_terms(methods: Sequence[MethodConfig], given: Given) -> tuple[Term, ...]:
    return tuple(Term(weight_of(m), make_method(m.name, given, m.options)) for m in methods)


def trajectory_for(config: TrajectoryConfig, out: Path, dataset: Dataset) -> Trajectory | None:
    folder = out / "trajectory" if config.folder is None else config.folder
    return Trajectory(folder, config.every, config.k, dataset) if config.every else None


def trained_teachers(terms: Sequence[Term]) -> list:
    """The teachers that have trained along."""
    return [t.method.trained_teacher for t in terms if t.method.trained_teacher is not None]


def is_first_process() -> bool:
    return Processes("rankdistill").rank == 0


@contextmanager
def first_process() -> Iterator[bool]:
    """Whether this process is to write; all end the block together, and a failure is known to all."""
    with Processes.on_cpu("rankdistill") as processes, processes.together():
        yield processes.rank == 0


def bar(label: str, shown: bool):
    """Wraps a sized iterable: a progress bar on a terminal, elsewhere lines of the log now and then."""
    if not shown:
        return iter
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        tqdm = None
    if tqdm is None or not sys.stderr.isatty():
        return logged(label)
    return lambda steps: tqdm(steps, desc=label, leave=False)
