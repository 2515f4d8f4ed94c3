"""Metrics of a whole catalogue: `metrics.evaluate` against a torch composition in chunks of users."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, Shape, Work, run
from rankdistill.data import CSR
from rankdistill.metrics import USUAL, evaluate, ranking_metrics

RELEVANT, EXCLUDED = 10, 50  # items per user
CUTOFFS = (10, 20, 50)

CHUNK = 256  # users: 100 MB of scores

SHAPES = [Shape("10k users, 100k items", {"U": 10_000, "N": 100_000, "D": 64})]


class Vectors:
    """A model of two tables."""

    def __init__(self, users, items):
        self.users, self.items = users, items

    def user_vectors(self, ids):
        return self.users[ids]

    def item_vectors(self, ids):
        return self.items[ids]


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    U, N, D = shape["U"], shape["N"], shape["D"]
    items = torch.randn(N, D, generator=generator)
    drawn = torch.stack([torch.randperm(N, generator=generator)[: RELEVANT + EXCLUDED] for _ in range(64)])
    drawn = (drawn[torch.arange(U) % 64] + torch.arange(U)[:, None] * 1009) % N
    # Users who like what they are like, with as much chance in it as leaves something to find.
    users = items[drawn[:, :RELEVANT]].mean(1) + 0.3 * torch.randn(U, D, generator=generator)
    rows = torch.arange(U).repeat_interleave(RELEVANT), torch.arange(U).repeat_interleave(EXCLUDED)
    truth = CSR.from_pairs(rows[0], drawn[:, :RELEVANT].reshape(-1), U, N)
    exclude = CSR.from_pairs(rows[1], drawn[:, RELEVANT:].reshape(-1), U, N)
    return users, items, truth, exclude


def ours(metrics):
    return lambda users, items, truth, exclude: evaluate(
        Vectors(users, items), truth, exclude, CUTOFFS, metrics
    )


def chunks(users, items, truth, exclude):
    """Scores of some users at a time, -inf where excluded, and their relevant items."""
    for ids in torch.arange(len(users)).split(CHUNK):
        scores = users[ids] @ items.T
        scores[exclude.rows(ids).pairs()] = -torch.inf
        yield scores, truth.rows(ids)


def torch_lists(users, items, truth, exclude):
    totals = {}
    for scores, relevant in chunks(users, items, truth, exclude):
        best = scores.topk(max(CUTOFFS)).indices
        for name, values in ranking_metrics(best, relevant, CUTOFFS, USUAL).items():
            totals[name] = totals.get(name, 0.0) + float(values.sum())
    return {name: total / len(users) for name, total in totals.items()}


def torch_ranks(users, items, truth, exclude):
    """The relevant items' ranks by counting, one relevant item of every user at a time."""
    total = 0.0
    for scores, relevant in chunks(users, items, truth, exclude):
        own = scores.gather(1, relevant.indices.view(-1, RELEVANT))
        better = torch.stack(
            [(scores > own[:, j, None]).sum(1, dtype=torch.int32) for j in range(RELEVANT)], 1
        )
        negatives = scores.shape[1] - EXCLUDED - RELEVANT
        inverted = better.sum(1) - RELEVANT * (RELEVANT - 1) / 2
        total += float((1 - inverted / (RELEVANT * negatives)).double().sum())
    return {"auc": total / len(users)}


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """The same metrics, but for scores that fp32 products round past each other."""
    for a, b in (("rankdistill", "torch in chunks"), ("rankdistill, AUC", "torch in chunks, AUC")):
        if a in outputs and b in outputs:
            assert outputs[a].keys() == outputs[b].keys()
            assert all(abs(outputs[a][name] - outputs[b][name]) < 1e-4 for name in outputs[a]), (a, b)
            assert min(outputs[a].values()) > 0.001, "expected users who find something"


def work(shape: Shape) -> Work:
    return Work(flops=2.0 * shape["U"] * shape["N"] * shape["D"])


def main(options: Options) -> None:
    variants = {
        "rankdistill": ours(USUAL),
        "torch in chunks": torch_lists,
        "rankdistill, AUC": ours(("auc",)),
        "torch in chunks, AUC": torch_ranks,
    }
    run("evaluation", SHAPES, prepare, variants, gate, work, options)
