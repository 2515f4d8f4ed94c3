"""RRD on CiteULike: seconds per epoch beside plain torch.

    RANKDISTILL_DATA=… python -m benchmarks.citeulike_rrd --speed [--threads 1]

Adam 1e-3 with decay 1e-3, batches of 1024; teacher D = 200, student D = 20, K = L = 40, T = 10, λ = 1e-3, summed. What it
reaches: `rankdistill reproduce topology --widths=[20] --methods=[base,rrd] --seeds=0..2`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import rankdistill
from rankdistill import MatrixFactorization, Rankings, RelaxedRankingDistillation, Term, Trainer
from rankdistill.config import TrainingConfig
from rankdistill.data import Dataset
from rankdistill.files import write_text


def citeulike() -> Dataset:
    folder = Path(os.environ["RANKDISTILL_DATA"]) / "citeulike" / "loo_full_ranking"
    return Dataset.from_files(
        *(folder / f"{part}.csv.gz" for part in ("train", "valid", "test")), name="CiteULike"
    )


class PlainLoop:
    """What a user writes in torch alone: nn.Embedding, vectorised negatives, softplus, fused Adam."""

    def __init__(self, data: Dataset, rankings: Rankings | None = None) -> None:
        self.data, self.rankings = data, rankings
        self.users, self.items = nn.Embedding(data.n_users, 20), nn.Embedding(data.n_items, 20)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.01)
        parameters = [self.users.weight, self.items.weight]
        self.adam = torch.optim.Adam(parameters, lr=1e-3, weight_decay=1e-3, fused=True)
        self.rng = np.random.default_rng(0)
        train = data.train
        self.keys = np.sort((train.users * data.n_items + train.items).numpy())
        if rankings is not None:
            self.weights = torch.exp(-(torch.arange(rankings.k) + 1) / 10.0).expand(data.n_users, -1)

    def negatives(self) -> torch.Tensor:
        users = self.data.train.users.numpy()
        drawn = self.rng.integers(0, self.data.n_items, len(users))
        while True:
            keys = users * self.data.n_items + drawn
            bad = self.keys[np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)] == keys
            if not bad.any():
                return torch.from_numpy(drawn)
            drawn[bad] = self.rng.integers(0, self.data.n_items, bad.sum())

    def draws(self) -> tuple[torch.Tensor, torch.Tensor]:
        lists = self.rankings.indices.long()
        chosen = torch.multinomial(self.weights, 40).sort(1).values
        free = torch.ones(self.data.n_users, self.data.n_items)
        free[self.data.train.users, self.data.train.items] = 0
        free.scatter_(1, lists, 0)
        return lists.gather(1, chosen), torch.multinomial(free, 40)

    def train_epoch(self, epoch: int) -> None:
        users, positives, negatives = self.data.train.users, self.data.train.items, self.negatives()
        if self.rankings is not None:
            interesting, uninteresting = self.draws()
        for rows in torch.randperm(len(users)).split(1024):
            u, i, j = self.users(users[rows]), self.items(positives[rows]), self.items(negatives[rows])
            loss = nn.functional.softplus((u * j).sum(1) - (u * i).sum(1)).sum()
            if self.rankings is not None:
                unique = users[rows].unique()
                vectors = self.users(unique)[:, None]
                top = (vectors * self.items(interesting[unique])).sum(2)
                rest = (vectors * self.items(uninteresting[unique])).sum(2)
                shift = torch.maximum(top.amax(1), rest.amax(1))[:, None].detach()
                below = (top - shift).exp().flip(1).cumsum(1).flip(1) + (rest - shift).exp().sum(
                    1, keepdim=True
                )
                loss = loss + 1e-3 * (below.log() + shift - top).sum()
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            self.adam.step()


def speed(threads: int, rounds: int, out: Path) -> None:
    torch.set_num_threads(threads)
    data = citeulike()
    teacher = MatrixFactorization(data.n_users, data.n_items, 200, init_std=1.0)
    rankings = Rankings.from_vectors(teacher.user_vectors(), teacher.item_vectors(), 500, data.train.csr())
    method = RelaxedRankingDistillation(rankings, data.train.csr())

    def trainer(terms=()):
        return Trainer(MatrixFactorization(data.n_users, data.n_items, 20), data, TrainingConfig(), terms)

    loops = {
        "plain torch": PlainLoop(data),
        "rankdistill": trainer(),
        "plain torch + RRD": PlainLoop(data, rankings),
        "rankdistill + RRD": trainer([Term(1e-3, method)]),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for epoch in range(rounds + 1):
        for name, loop in loops.items():
            started = time.perf_counter()
            loop.train_epoch(epoch)
            if epoch:
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    base = medians["plain torch"]
    lines = [
        f"# Seconds per epoch on CiteULike, D = 20, batch 1024, {threads} thread{'s' * (threads > 1)}", "",
        "| loop | median s | p10 | p90 | × plain torch | × same loop without RRD |", "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for name, values in times.items():
        low, high = np.percentile(values, [10, 90])
        own = medians[name.removesuffix(" + RRD")]
        lines.append(
            f"| {name} | {medians[name]:.3f} | {low:.3f} | {high:.3f} | {medians[name] / base:.2f} | {medians[name] / own:.2f} |"
        )
    command = (
        f"RANKDISTILL_DATA=… python -m benchmarks.citeulike_rrd --speed --threads {threads} --rounds {rounds}"
    )
    lines += [
        "",
        "Sampling is included; loops interleaved, one epoch of each in turn.",
        "",
        f"`{command}`",
        "",
        machine_line(),
    ]
    write_text(out / f"citeulike_rrd_speed_{threads}.md", "\n".join(lines) + "\n")
    write_text(
        out / f"citeulike_rrd_speed_{threads}.json",
        json.dumps({"seconds": times, "command": command}, indent=1) + "\n",
    )
    print("\n".join(lines))


def machine_line() -> str:
    with open("/proc/cpuinfo") as file:
        model = next(
            (line.split(":")[1].strip() for line in file if line.startswith("model name")),
            platform.processor(),
        )
    return (
        f"rankdistill {rankdistill.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{model}, {os.cpu_count()} cores."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", action="store_true", help="the only mode there is")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    speed(chosen.threads, chosen.rounds, chosen.out)
