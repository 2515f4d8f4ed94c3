"""Every model trained alone and ranked against the whole catalogue, beside popularity, ItemKNN and EASE.

    RANKDISTILL_DATA=… python -m benchmarks.models [--models mf cml …] [--data ml-1m] [--seed 0] [--out benchmarks/results]

ml-1m: given parts, fit on train, train and validation items masked. citeulike: its random 80/20 split. sasrec needs
timestamps, which neither has: it is trained on ml-100k, each user's last item for test and the one before for validation,
and compared with the baselines there. Settings are those below, from a few runs by hand whose test figures were seen, so
small differences between models mean nothing. A page is kept
up to date after every model: rows of models that are not named stay.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from rankdistill import ScoreTeacher, Trainer
from rankdistill.config import TrainingConfig
from rankdistill.data import Dataset, load
from rankdistill.files import write_text
from rankdistill.metrics import evaluate
from rankdistill.models.saved import build_model

PLAIN = {"weight_decay": 0.0, "evaluate_every": 0}
# Name → width, options, training.
SETTINGS: dict[str, tuple[int, dict, dict]] = {
    "mf": (64, {}, {"epochs": 25, "batch_size": 4096, "learning_rate": 3e-3, "weight_decay": 1e-3}),
    "cml": (64, {}, {"epochs": 15, "batch_size": 4096, "learning_rate": 3e-3, "n_negatives": 10}),
    "neumf": (32, {}, {"epochs": 5, "batch_size": 4096, "learning_rate": 3e-3, "n_negatives": 4}),
    "lightgcn": (64, {}, {"epochs": 25, "batch_size": 4096, "learning_rate": 1e-2, "weight_decay": 1e-4}),
    "multvae": (200, {}, {"epochs": 25, "batch_size": 128, "learning_rate": 4e-3}),
    "item_autoencoder": (200, {}, {"epochs": 15, "batch_size": 32, "learning_rate": 3e-3}),
    "sasrec": (64, {}, {"epochs": 40, "batch_size": 64, "learning_rate": 1e-3}),
}
OF_SEQUENCES, METRICS = ("sasrec",), ("recall", "ndcg")


def dataset(name: str) -> Dataset:
    folder = Path(os.environ["RANKDISTILL_DATA"]) / name
    if name == "ml-100k":
        return load(folder / "interactions.csv.gz", split="leave_last_out")
    if name == "citeulike":
        parts = {part: folder / "split80_20" / f"{part}.csv.gz" for part in ("train", "test")}
    else:
        parts = {part: folder / f"{part}.csv.gz" for part in ("train", "valid", "test")}
    return Dataset.from_files(**parts, name=name)


def tested(model, data: Dataset) -> dict[str, float]:
    return evaluate(model, data.test.csr(), data.held_out_exclude("test"), (10, 20, 50), METRICS)


def similarity_teacher(data: Dataset, weights: Callable[[Tensor], Tensor]) -> ScoreTeacher:
    """Scores X·W of the train matrix X [U, N] and item weights [N, N] made of XᵀX: a baseline for small catalogues."""
    train = data.train.csr()
    dense = lambda users: train.rows(users).to_dense().float()
    gram = torch.zeros(data.n_items, data.n_items)
    for users in torch.arange(data.n_users).split(1024):
        rows = dense(users)
        gram.addmm_(rows.T, rows)
    found = weights(gram)
    return ScoreTeacher(lambda users: dense(users) @ found, data.n_users, data.n_items)


def item_neighbours(gram: Tensor) -> Tensor:
    """Cosines, of each item's 100 nearest alone."""
    norms = gram.diagonal().clamp_min(1).sqrt()
    cosines = (gram / norms / norms[:, None]).fill_diagonal_(0)
    best = cosines.topk(100, dim=0)
    return torch.zeros_like(gram).scatter_(0, best.indices, best.values)


def ease(decay: float) -> Callable[[Tensor], Tensor]:
    """Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019."""

    def weights(gram: Tensor) -> Tensor:
        inverse = torch.linalg.inv((gram + decay * torch.eye(len(gram))).double())
        return (-inverse / inverse.diagonal()).fill_diagonal_(0).float()

    return weights


def baselines(data: Dataset, name: str) -> dict[str, dict]:
    popular = torch.bincount(data.train.items, minlength=data.n_items).float()
    # The decays are chosen on other parts than test: shared with the data's description.
    decay = {"ml-1m": 1000.0, "citeulike": 30.0, "ml-100k": 300.0}[name]
    made = {
        "popularity": ScoreTeacher(lambda users: popular.expand(len(users), -1), data.n_users, data.n_items),
        "ItemKNN, k = 100": similarity_teacher(data, item_neighbours),
        f"EASE, λ = {decay:g}": similarity_teacher(data, ease(decay)),
    }
    return {
        label: {"data": name, "metrics": tested(model, data), "baseline": True}
        for label, model in made.items()
    }


def trained(name: str, data: Dataset, data_name: str, seed: int) -> dict:
    width, options, training = SETTINGS[name]
    model = build_model(name, data, width, seed, options)
    trainer = Trainer(model, data, TrainingConfig(**{**PLAIN, **training}, keep_best=False, seed=seed))
    started = time.process_time()
    trainer.fit()
    return {
        "data": data_name, "metrics": tested(model, data), "seed": seed, "width": width, "options": options,
        "training": training, "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": round(time.process_time() - started, 1),
    }  # fmt: skip


def page(found: dict[str, dict], out: Path) -> None:
    lines = [
        "# Models", "",
        ("The whole catalogue ranked, train and validation items left out, mean over users with test items; one thread, one seed. "
        "ml-1m: ratings of 3 and more, given parts. ml-100k: each user's last item for test, the one before for validation "
        "(sasrec needs the order of time, which ml-1m as it is at hand has not). Settings in models.json. No published numbers of "
        "these models on exactly these splits are known; the baselines are computed here, EASE's λ taken from other splits' "
        "validation. Settings come from a few runs by hand, whose test figures were seen (neumf and lightgcn were run a second time "
        "with other epochs): they show that the models work, not which is best."),
        "", "| model | data | width | parameters | epochs | recall@20 | NDCG@20 | recall@10 | NDCG@10 | CPU s |",
        "| --- | --- |" + " ---: |" * 8,
    ]  # fmt: skip
    order = {"ml-1m": 0, "citeulike": 1, "ml-100k": 2}
    for key, row in sorted(found.items(), key=lambda pair: order[pair[1]["data"]]):
        label = key.partition(": ")[2]
        shown = [f"{row['metrics'][m]:.4f}" for m in ("recall@20", "ndcg@20", "recall@10", "ndcg@10")]
        made = (
            ["–"] * 3
            if row.get("baseline")
            else [str(row["width"]), f"{row['parameters']:,}", str(row["training"]["epochs"])]
        )
        seconds = f"{row['cpu_seconds']:.0f}" if "cpu_seconds" in row else "–"
        lines.append(f"| {' | '.join([label, row['data'], *made, *shown, seconds])} |")
    write_text(out / "models.md", "\n".join(lines) + "\n")
    write_text(out / "models.json", json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--data", choices=("ml-1m", "citeulike"), default="ml-1m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    file = options.out / "models.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    sets: dict[str, Dataset] = {}
    for name in options.models:
        data_name = "ml-100k" if name in OF_SEQUENCES else options.data
        if data_name not in sets:
            sets[data_name] = dataset(data_name)
            found |= {f"{data_name}: {k}": v for k, v in baselines(sets[data_name], data_name).items()}
        row = trained(name, sets[data_name], data_name, options.seed)
        found[f"{data_name}: {name}"] = row
        print(
            name,
            data_name,
            {k: round(v, 4) for k, v in row["metrics"].items()},
            row["cpu_seconds"],
            flush=True,
        )
        page(found, options.out)


if __name__ == "__main__":
    main()
