"""What a rank holds while it trains tables divided by rows, and writes them: under torchrun, `sharded_memory.py FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from rankdistill import Trainer, memory
from rankdistill.config import ModelConfig, TrainingConfig
from rankdistill.data import Dataset
from rankdistill.data.interactions import Interactions
from rankdistill.data.vocabulary import Vocabulary
from rankdistill.fitting import built, keep_model
from rankdistill.parallel import torchrun_processes
from tests.case import randint

U, N, D = 1000, 400_000, 64


def part(per_user: int, seed: int) -> Interactions:
    users = torch.arange(U).repeat_interleave(per_user)
    return Interactions(users, randint(0, N, (len(users),), seed=seed), U, N)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ids = Vocabulary(np.arange(U)), Vocabulary(np.arange(N))
    dataset = Dataset(part(4, 1), part(1, 2), part(1, 3), *ids, "large")
    config = TrainingConfig(
        epochs=2, batch_size=512, optimizer="lazy_adam", weight_decay=0, keep_best=False, evaluate_every=0
    )
    with torchrun_processes() as rank:
        before = memory.reset_peak()
        model = built(ModelConfig(width=D, sharded=True), dataset, 0)
        Trainer(model, dataset, config, folder=folder).fit()
        trained, before = memory.peak_since(before), memory.reset_peak()
        keep_model(folder / "model.safetensors", model, "mf", dataset)
        rows = model.item_table.rows
        found = {
            "slice": rows.numel() * rows.itemsize,
            "trained": trained,
            "written": memory.peak_since(before),
        }
        (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
