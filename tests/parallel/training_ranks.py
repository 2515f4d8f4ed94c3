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

from rankdistill import Batch, MatrixFactorization, Objective, Term, Trainer, reduce_gradients
from rankdistill.config import TrainingConfig
from rankdistill.losses import Distillation
from rankdistill.methods import METHODS
from rankdistill.models.saved import build_model
from tests.case import randn
from tests.losses.every_method import D_S, NAMES, given_in, make, make_student, world

# The last batch has a single interaction: fewer than processes.
CONFIG = TrainingConfig(
    epochs=4, batch_size=(len(world().train) - 1) // 3, learning_rate=0.02, weight_decay=1e-3, evaluate_every=1,
    metric="recall@20", keep_best=False,
)  # fmt: skip
MODELS = ("cml", "neumf", "lightgcn")  # beside the methods' own; their batches are interactions
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


def of_model(name: str) -> Trainer:
    return Trainer(build_model(name, world(), D_S, seed=3), world(), CONFIG)


def shown(mark: str) -> str:
    """A program of docs/distributed.md."""
    text = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()
    return text.split(f"<!-- {mark} -->\n```python\n")[1].split("```")[0]


def own_loop(name: str, programs: tuple[str, ...] = ("own loop", "sums")) -> dict:
    """A user's own loops as documented, one after the other; alone what they mean."""
    train, student = world().train, make_student(name, scale=1.0)
    rows = torch.arange(len(train)).split(101)  # the last has few
    names = {
        "torch": torch, "student": student, "method": make(name, given_in(world())),
        "batches": [(train.users[r], train.items[r], r[:, None] % world().n_items) for r in rows],
    }  # fmt: skip
    if dist.is_initialized():
        for program in programs:
            exec(shown(program), names)  # noqa: S102
        return names["objective"].state_dict()
    objective = Objective(student, [Term(0.01, names["method"])])
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.01, weight_decay=1e-3)
    for epoch in (0, 1, 1):
        names["method"].begin_epoch(epoch, student)
        for batch in names["batches"]:
            optimizer.zero_grad()
            objective(Batch(*batch)).backward()
            optimizer.step()
    return objective.state_dict()


SHAPES = {
    "dense": (7, 3), "few rows": (50, 3), "most rows": (50, 3), "whole numbers": (50,), "nowhere": (4,),
    "on one": (4, 2), "rows on one": (50, 2), "no rows": (50, 2), "of two kinds": (50, 2), "transposed": (5, 6),
    "float64": (9,), "large": (1 << 12, 1 << 11),
}  # fmt: skip


def gradient(name: str, rank: int) -> torch.Tensor | None:
    """What a rank has before gradients are added up."""
    shape, values = SHAPES[name], randn(*SHAPES[name], seed=len(name) + 100 * rank)
    if name == "nowhere" or (name in ("on one", "rows on one") and rank != 1):
        return None
    if name in ("dense", "on one", "large") or (name == "of two kinds" and rank == 0):
        return values
    if name == "transposed":
        return randn(*shape[::-1], seed=rank).T
    if name == "float64":
        return values.double()
    count = {"most rows": 90, "no rows": 0}.get(name, 4)
    ids = (torch.arange(count) * 7 + rank) % shape[0]  # some twice
    rows = values.repeat(2, *[1] * (len(shape) - 1))[:count]
    return torch.sparse_coo_tensor(ids[None], rows.round() if name == "whole numbers" else rows, shape)


def sums(n_ranks: int = 2) -> dict[str, torch.Tensor | None]:
    """`gradient` of all ranks added up: here, or by `reduce_gradients`."""
    together = dist.is_initialized()
    tables = {}
    for name, shape in SHAPES.items():
        tables[name] = torch.nn.Parameter(
            torch.zeros(shape, dtype=torch.float64 if name == "float64" else None)
        )
        for rank in [dist.get_rank()] if together else range(n_ranks):
            grad, before = gradient(name, rank), tables[name].grad
            if grad is not None:
                tables[name].grad = (
                    grad
                    if before is None
                    else before + grad
                    if before.is_sparse == grad.is_sparse
                    else before.to_dense() + grad.to_dense()
                )
    if together:
        reduce_gradients(tables.values())
    return {name: table.grad for name, table in tables.items()}


def alone_or_together(folder: Path) -> dict:
    """All calls whose results must not depend on the number of processes."""
    found = {name: trained(name) for name in NAMES}
    for name, changes in OPTIMIZERS.items():
        config = replace(CONFIG, **changes)
        found[f"rd under {name}"] = trained(
            "rd", replace(config, epochs=12)
        )  # it reads rows that get no gradients
    for name in MODELS:
        trainer = of_model(name)
        found[name] = trainer.fit() and trainer.objective.state_dict(), trainer.history
    found |= {f"loop with {name}": (own_loop(name), []) for name in ("rrd", "hint", "ftd")}
    found["sums"] = sums()
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
        "batches of users": lambda: of_model("multvae"),
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
