"""What each process of the tests of training does: `python training_ranks.py RANK WORLD FOLDER`.

Trained weights, or errors as text, go to FOLDER/answers-RANK; all processes make the same calls in one order.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from rankdistill import MatrixFactorization, Term, Trainer
from rankdistill.config import TrainingConfig
from rankdistill.losses import Distillation
from rankdistill.methods import METHODS
from tests.losses.every_method import D_S, NAMES, given_in, make, make_student, world

# The last batch has a single interaction: fewer than processes.
CONFIG = TrainingConfig(
    epochs=4, batch_size=(len(world().train) - 1) // 3, learning_rate=0.02, weight_decay=1e-3, evaluate_every=1,
    metric="recall@20", keep_best=False,
)  # fmt: skip
OPTIMIZERS = {
    "adam": {},
    "lazy_sgd": {"optimizer": "lazy_sgd"},
    "lazy_adam": {"optimizer": "lazy_adam", "weight_decay": 0.0},
}


class Undivided(Distillation):
    """A method that knows nothing of shares."""

    def forward(self, student, batch):
        return student.score(batch.users, batch.positives[:, None]).sum()


def trained(name: str, config: TrainingConfig = CONFIG, **options) -> tuple[dict, list[dict]]:
    """Weights of model and method, and the history, of one method's training."""
    trainer = Trainer(
        make_student(name, scale=1.0), world(), config, [Term(METHODS[name].default_weight, make(name, given_in(world())))],
        base_weight=METHODS[name].default_base_weight, **options,
    )  # fmt: skip
    history = trainer.fit()
    return trainer.objective.state_dict(), history


def plain(config: TrainingConfig, width: int = D_S, **options) -> Trainer:
    return Trainer(
        MatrixFactorization(world().n_users, world().n_items, width, seed=3), world(), config, **options
    )


def alone_or_together(folder: Path) -> dict:
    """All calls whose results must not depend on the number of processes."""
    found = {name: trained(name) for name in NAMES}
    for name, changes in OPTIMIZERS.items():
        config = replace(CONFIG, **changes)
        found[f"rd under {name}"] = trained(
            "rd", replace(config, epochs=12)
        )  # it reads rows that get no gradients
    trainer = plain(replace(CONFIG, epochs=2), folder=folder / "resumed")
    trainer.fit()
    trainer = plain(replace(CONFIG, epochs=4), folder=folder / "resumed")
    found["resumed"] = trainer.fit() and trainer.objective.state_dict(), trainer.history
    trainer = plain(replace(CONFIG, epochs=4), folder=folder / "whole")
    found["whole"] = trainer.fit() and trainer.objective.state_dict(), trainer.history
    return found


def refusals(rank: int) -> dict:
    """What must be an error on all processes."""
    last = rank == dist.get_world_size() - 1
    calls = {
        "undivided": lambda: Trainer(plain(CONFIG).model, world(), CONFIG, [Term(1.0, Undivided())]),
        "settings": lambda: plain(replace(CONFIG, learning_rate=0.5 if last else 0.1)).fit(),
        "model": lambda: plain(CONFIG, width=D_S + last).fit(),
        "method": lambda: trained("rrd", CONFIG) if not last else trained("hint", CONFIG),
    }
    found = {}
    for name, call in calls.items():
        try:
            found[name] = call()
        except Exception as error:  # noqa: BLE001
            found[name] = f"{type(error).__name__}: {error}"
    return found


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    answers = alone_or_together(folder / "together")
    torch.save(answers | refusals(rank), folder / f"answers-{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
