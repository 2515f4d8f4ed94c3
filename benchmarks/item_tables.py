"""Item tables that top-K kernels trip over, and one that was trained, each with users to rank it for."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from rankdistill import MatrixFactorization, Trainer
from rankdistill.config import TrainingConfig
from rankdistill.data import Dataset
from rankdistill.models.saved import MODEL_FILE, load_model, save_model

RUNS = Path(__file__).parents[1] / "runs" / "benchmarks"


def difficult(B: int, N: int, D: int) -> dict[str, tuple[Tensor, Tensor]]:
    """(users [B, D], items [N, D]) by name; the first is standard normal, what the others are compared with."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    users, items = normal(B, D), normal(N, D)
    norms = torch.exp(normal(N))  # log-normal: a few percent of the items hold nearly all top places
    shuffled = items * norms[:, None]
    giant = items.clone()
    giant[N // 2] *= 1e6
    centres = normal(100, D)[torch.randint(0, 100, (N,), generator=generator)]
    ascending = torch.linspace(0.01, 1, N)[:, None].expand(N, D).contiguous()
    return {
        "random": (users, items),
        "scores ascending with the item id": (users.abs(), ascending),
        "all items equal": (users, items[:1].expand(N, D).contiguous()),
        "small integers, many ties": (users.round(), items.round()),
        "one giant norm": (users, giant),
        "100 clusters, 1 % apart": (users, centres + 0.01 * items),
        "skewed norms": (users, shuffled),
        "skewed norms, descending with the id": (users, shuffled[norms.argsort(descending=True)]),
        "skewed norms, ascending with the id": (users, shuffled[norms.argsort()]),
    }


def gowalla() -> Dataset | None:
    """The NGCF split from the folder that RANKDISTILL_DATA names; None without it."""
    folder = Path(os.environ.get("RANKDISTILL_DATA", "")) / "gowalla"
    if not (folder / "train.csv.gz").is_file():
        return None
    return Dataset.from_files(folder / "train.csv.gz", None, folder / "test.csv.gz", name="Gowalla")


def gowalla_teacher(data: Dataset, width: int = 64, epochs: int = 40) -> MatrixFactorization:
    """MF-BPR trained on Gowalla, once: it is kept in `runs/`."""
    folder = RUNS / f"gowalla-mf-{width}-{epochs}"
    if (folder / MODEL_FILE).is_file():
        return load_model(folder, data)
    config = TrainingConfig(
        epochs=epochs, batch_size=4096, learning_rate=5e-3, weight_decay=1e-3, evaluate_every=0, keep_best=False
    )  # fmt: skip
    model = MatrixFactorization(data.n_users, data.n_items, width)
    Trainer(model, data, config).fit()
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / MODEL_FILE, model, "mf", data)
    return model
