"""What each process of the tests of training with divided tables does: `python -m … RANK WORLD FOLDER`.

Trained rows, or errors as text, go to FOLDER/answers-RANK; all processes make the same calls in one order.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from rankdistill import MatrixFactorization, Term, Trainer, load_factors
from rankdistill.config import ModelConfig
from rankdistill.fitting import built, keep_model
from rankdistill.methods import METHODS
from rankdistill.sharded import ShardedFactorization
from tests.losses.every_method import D_S, NAMES, given_in, make, world
from tests.parallel.training_ranks import CONFIG

REFUSED = {"bd": {}, "concf": {}, "hetcomp": {}, "dcd": {"among": "catalogue"}}
LAZY = {"lazy_sgd": {"optimizer": "lazy_sgd"}, "lazy_adam": {"optimizer": "lazy_adam", "weight_decay": 0.0}}
CATALOGUE, SHORT = {"n_uninteresting": None}, {"epochs": 2}
# name → (method, its options, settings of the training, options of the sharded model)
RUNS: dict[str, tuple[str | None, dict, dict, dict]] = {
    "bpr": (None, {}, {}, {}),
    "rrd": ("rrd", {}, {}, {}),
    "rrd above the catalogue": ("rrd", CATALOGUE, {}, {}),
    "mean rrd above the catalogue": ("rrd", CATALOGUE | {"reduction": "mean"}, {}, {}),
    "ftd": ("ftd", {}, {}, {}),
    "rrd under lazy_adam": ("rrd", {}, LAZY["lazy_adam"], {}),
    "rd under lazy_sgd": ("rd", {}, LAZY["lazy_sgd"] | {"epochs": 12}, {}),
    "ir-rrd, users replicated": ("ir-rrd", {}, {}, {"replicate_users": True}),
}
OTHERS = {
    name: (name, {}, SHORT, {}) for name in NAMES if name not in (*RUNS, "bd", "concf", "hetcomp")
}  # with two ranks alone
OTHERS["guided by the student"] = ("cd", {"guide": "student"}, SHORT, {})


def runs(size: int) -> dict[str, tuple[str | None, dict, dict, dict]]:
    return RUNS | (OTHERS if size == 2 else {})


def trainer_of(name: str, sharded: bool, **changes) -> Trainer:
    method, options, settings, more = (RUNS | OTHERS)[name]
    config = replace(CONFIG, **settings, **{k: v for k, v in changes.items() if k != "folder"})
    sizes = world().n_users, world().n_items, D_S
    model = ShardedFactorization(*sizes, seed=3, **more) if sharded else MatrixFactorization(*sizes, seed=3)
    terms = []
    if method is not None:
        terms = [Term(METHODS[method].default_weight, make(method, given_in(world()), **options))]
    base_weight = 1.0 if method is None else METHODS[method].default_base_weight
    return Trainer(model, world(), config, terms, base_weight=base_weight, folder=changes.get("folder"))


def trained(name: str, sharded: bool, **changes) -> dict:
    """The tables (this rank's rows), the methods' parameters, and the history."""
    trainer = trainer_of(name, sharded, **changes)
    history = trainer.fit()
    tables = [table.detach().clone() for table in trainer.model.tables()]
    methods = [term.method.state_dict() for term in trainer.terms]
    return {"tables": tables, "methods": methods, "history": history}


RESUMED = {"optimizer": "adam", "keep_best": True, "learning_rate": 0.05}


def resumed(folder: Path) -> dict:
    """One training whole, and in two parts: those of as many ranks, and one that another number goes on with."""
    name = "rrd"
    trained(name, True, folder=folder / "parts", **RESUMED | {"epochs": 2})
    trained(name, True, folder=folder / "for others", **RESUMED | {"epochs": 2})
    return {
        "parts": trained(name, True, folder=folder / "parts", **RESUMED),
        "whole": trained(name, True, folder=folder / "whole", **RESUMED),
    }


def attempt(call):
    try:
        return call()
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


def refusals(folder: Path) -> dict:
    """What must be an error on all ranks."""

    def refused(name: str):
        method = make(name, given_in(world()), **REFUSED[name])
        model = ShardedFactorization(world().n_users, world().n_items, D_S, seed=3)
        Trainer(model, world(), CONFIG, [Term(1.0, method)]).fit()

    calls = {name: lambda name=name: refused(name) for name in REFUSED}
    calls["a whole model's folder"] = lambda: trained("bpr", True, folder=folder / "copies")
    calls["a folder of rows"] = lambda: trained("bpr", False, folder=folder / "whole")
    calls["other settings"] = lambda: trained("rrd", True, folder=folder / "whole", learning_rate=0.5)
    calls["no room"] = lambda: keep_model(
        Path("/proc/nothing/model.safetensors"), trainer_of("bpr", True).model, "mf", world()
    )
    trained("bpr", False, folder=folder / "copies", epochs=1)
    return {name: attempt(call) for name, call in calls.items()}


def exported(path: Path) -> dict:
    """A model written by all ranks, and what each holds of it."""
    model = built(ModelConfig(width=D_S, sharded=True, options={"init_std": 0.5}), world(), seed=4)
    keep_model(path, model, "mf", world())
    return {"rows": [table.detach() for table in model.tables()], "read": load_factors(path).items.clone()}


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    answers = {name: attempt(lambda name=name: trained(name, True)) for name in runs(size)}
    answers |= resumed(folder)
    answers |= {"refused": refusals(folder), "exported": exported(folder / "model.safetensors")}
    torch.save(answers, folder / f"answers-{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
