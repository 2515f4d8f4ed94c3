"""What each process of the tests of tables divided by rows does: `python sharded_ranks.py RANK WORLD FOLDER`.

Every call's results, or its error as text, go to FOLDER/answers-RANK; all processes make the same calls in one order.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from rankdistill import sharded
from rankdistill.data import CSR
from rankdistill.losses import Batch
from rankdistill.optim import make_optimizers
from rankdistill.sharded.scores import check_range, scores_by_owners, scores_by_rows

N, D, B, K, L = 90, 16, 40, 6, 5
CUTS = {
    "even": {2: (0, 45, 90), 4: (0, 22, 45, 67, 90)},
    "uneven": {2: (0, 3, 90), 4: (0, 3, 10, 50, 90)},
    "empty": {2: (0, 90, 90), 4: (0, 0, 50, 50, 90)},
}
SPLITS = {
    "even": {2: (0, 20, 40), 4: (0, 10, 20, 30, 40)},
    "uneven": {2: (0, 33, 40), 4: (0, 2, 9, 20, 40)},
    "empty": {2: (0, 0, 40), 4: (0, 0, 17, 17, 40)},
    "none": {2: (0, 0, 0), 4: (0, 0, 0, 0, 0)},
}


def numbers(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def batch(dtype: torch.dtype = torch.float32) -> dict:
    """The whole batch of all ranks: vectors, ids with repeats, lists with their tails, exclusions."""
    generator = torch.Generator().manual_seed(3)
    listed = torch.stack([torch.randperm(N, generator=generator)[: K + L] for _ in range(B)])
    lengths = torch.randint(0, K + 1, (B,), generator=generator)
    tail_ends = listed.clone()
    tail_ends[::3, -2:] = -1
    ended = listed[:, :K].masked_fill(torch.arange(K) >= lengths[:, None], -1)
    exclude = CSR.from_any(torch.rand(B, N, generator=generator) < 0.2)
    return {
        "users": numbers(B, D, seed=1, dtype=dtype), "items": numbers(N, D, seed=2, dtype=dtype),
        "bias": numbers(N, seed=4, dtype=dtype), "weights": numbers(B, K + L, seed=5, dtype=dtype),
        "ids": torch.randint(0, N, (B, 3), generator=generator) // 7, "few": listed[:, :2], "listed": tail_ends,
        "lengths": lengths, "ended": ended, "exclude": exclude,
    }  # fmt: skip


class Here:
    """This rank's part of the batch and of the table, in one layout."""

    def __init__(self, rank: int, world: int, cuts: str, split: str, dtype=torch.float32, sparse=False):
        whole, (begin, end) = batch(dtype), SPLITS[split][world][rank : rank + 2]
        self.mine = slice(begin, end)
        own = slice(*CUTS[cuts][world][rank : rank + 2])
        self.table = sharded.ShardedTable(whole["items"][own].clone(), sparse_grad=sparse)
        self.bias = whole["bias"][own].clone().requires_grad_()
        for name, value in whole.items():
            if name not in ("items", "bias", "exclude"):
                setattr(self, name, value[self.mine].clone())
        self.exclude = whole["exclude"].rows(torch.arange(begin, end))
        self.users.requires_grad_()

    def answer(self, values: Tensor, *, weighted: bool = True) -> dict:
        """Values and gradients: each rank's loss is its part of a sum."""
        weights = self.weights[:, : values.shape[1]] if values.dim() == 2 else self.weights[:, 0]
        finite = torch.where(values > -torch.inf, values, 0)
        self.table.rows.grad = None
        (finite * weights).sum().backward() if weighted else values.sum().backward()
        grads = {"rows": self.table.rows.grad, "users": self.users.grad, "bias": self.bias.grad}
        return {"values": values.detach()} | {
            name: None if grad is None else grad.to_dense() for name, grad in grads.items()
        }


def lookup(here: Here) -> dict:
    rows = here.table.lookup(here.ids)
    (rows * here.weights[:, :3, None]).sum().backward()
    return {"values": rows.detach(), "rows": here.table.rows.grad.to_dense()}


def way(by: Callable) -> Callable:
    def scores(here: Here) -> dict:
        def check() -> None:
            check_range("scores", "item_ids", here.listed, -1, N, here.table.rows)

        return here.answer(by("scores", here.users, here.table, here.listed, None, check))

    return scores


OPS: dict[str, Callable[[Here], dict]] = {
    "lookup": lookup,
    "scores by rows": way(scores_by_rows),
    "scores by owners": way(scores_by_owners),
    "few scores": lambda h: h.answer(sharded.gathered_inner_product(h.users, h.table, h.few)),
    "scores with biases": lambda h: h.answer(
        sharded.gathered_inner_product(h.users, h.table, h.listed, h.bias)
    ),
    "embedding": lambda h: h.answer(
        sharded.embedding_plackett_luce(h.users, h.table, h.listed, K, h.lengths)
    ),
    "log-mass": lambda h: h.answer(sharded.catalogue_log_mass(h.users, h.table, h.exclude, h.bias)),
    "catalogue": lambda h: h.answer(sharded.catalogue_plackett_luce(h.users, h.table, h.ended)),
    "catalogue but some": lambda h: h.answer(
        sharded.catalogue_plackett_luce(
            h.users, h.table, h.listed[:, :K], h.lengths, h.exclude, h.bias
        )
    ),
    "lists": lambda h: dict(
        zip(("values", "indices", "lengths"), sharded.inner_product_topk(h.users, h.table, 13, h.exclude, h.bias))
    ),
}  # fmt: skip


def attempt(call):
    try:
        return call()
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


def failures(rank: int, world: int) -> dict:
    """Calls that the last rank gets wrong, each an error on all."""
    here, last = Here(rank, world, "uneven", "empty"), rank == world - 1
    beyond = here.ids + N * last
    users = here.users.detach()
    width, table = D + last, here.table
    answers = {
        "an id too large": lambda: table.lookup(beyond),
        "ids of no kind": lambda: table.lookup(here.ids.to(torch.int32) if last else here.ids),
        "a listed id too large": lambda: sharded.catalogue_plackett_luce(users, table, here.few + N * last),
        "users of another width": lambda: sharded.catalogue_log_mass(numbers(3, width, seed=1), table),
        "lists of another length": lambda: sharded.gathered_inner_product(
            users, table, here.listed[:, : 7 - last]
        ),
        "gradients of some": lambda: sharded.catalogue_log_mass(users if last else here.users, table),
        "another op": lambda: table.lookup(here.ids) if last else sharded.catalogue_log_mass(users, table),
        "another k": lambda: sharded.inner_product_topk(users, table, 5 + last),
        "tables of another width": lambda: sharded.ShardedTable(torch.zeros(3, width)),
        "tables of another size": lambda: sharded.ShardedTable.normal(
            N + last, D, torch.Generator().manual_seed(0)
        ),
        "another seed": lambda: sharded.ShardedTable.normal(N, D, torch.Generator().manual_seed(rank)),
        "a good call after all these": lambda: table.lookup(here.ids).detach(),
    }
    return {name: attempt(call) for name, call in answers.items()}


U, STEPS = 50, 4
TRAININGS = {
    "adam": {"cuts": "empty"},
    "lazy_adam": {"cuts": "empty"},
    "lazy_sgd": {"cuts": "uneven"},
    "lazy_adam, users replicated": {"cuts": "uneven", "replicate_users": True},
}
RATES = {"adam": 0.01, "lazy_adam": 0.01, "lazy_sgd": 0.5}


def step_batch(step: int) -> tuple[Batch, Tensor]:
    """The whole batch of a step: pairs, and lists of seven items of its users."""
    generator = torch.Generator().manual_seed(100 + step)
    draw = lambda high, *shape: torch.randint(0, high, shape, generator=generator)
    return Batch(draw(U, B), draw(N, B), draw(N, B)), draw(N, B, 7)


def optimizer_of(name: str, model) -> torch.optim.Optimizer:
    """With decay where the optimiser has one, caught up before rows are read."""
    decay = 0.01 if name == "lazy_sgd" else 0.0
    optimizer = make_optimizers(name, model.tables(), [], RATES[name], decay)["optimizer"]
    if decay:
        model.before_reading = optimizer.catch_up
    return optimizer


def train(model, optimizer, steps: range, mine: slice, listed: Callable) -> None:
    for step in steps:
        batch, lists = step_batch(step)
        own = Batch(batch.users[mine], batch.positives[mine], batch.negatives[mine])
        optimizer.zero_grad()
        loss = model.loss(own) + listed(model, own.users, lists[mine]).sum()
        loss.backward()
        optimizer.step()


def listed_loss(model, users: Tensor, lists: Tensor) -> Tensor:
    return sharded.embedding_plackett_luce(model.user_vectors(users), model.item_table, lists, 4)


def factorization(world: int, name: str, cuts: str = "even", **options) -> sharded.ShardedFactorization:
    layout = sharded.Layout(CUTS[cuts][world]) if world > 1 else None
    return sharded.ShardedFactorization(
        U, N, 8, seed=3, init_std=0.1, sparse_grad=name != "adam", item_layout=layout, **options
    )


def training(rank: int, world: int, folder: Path, key: str) -> dict:
    """Rows after the training, and after a stop in the middle of it, in other hands."""
    name, options, half = key.split(",")[0], TRAININGS[key], STEPS // 2
    mine = slice(*SPLITS[options.get("cuts", "even")][world][rank : rank + 2])

    def made() -> tuple:
        model = factorization(world, name, **options)
        return model, optimizer_of(name, model)

    model, optimizer = made()
    initial = [t.detach().clone() for t in model.tables()]
    train(model, optimizer, range(half), mine, listed_loss)
    sharded.save_sharded(folder / key, model, {"optimizer": optimizer}, {"step": half})
    train(model, optimizer, range(half, STEPS), mine, listed_loss)
    again, its_optimizer = made()
    facts = sharded.load_sharded(folder / key, again, {"optimizer": its_optimizer})
    train(again, its_optimizer, range(facts["step"], STEPS), mine, listed_loss)
    for one in (optimizer, its_optimizer):
        getattr(one, "catch_up", lambda: None)()
    tables = [t.detach() for t in model.tables()]
    same = all(torch.equal(a, b) for a, b in zip(tables, again.tables()))
    return {"initial": initial, "tables": tables, "resumed alike": same}


def begun(world: int) -> tuple:
    model = factorization(world, "lazy_adam", "uneven")
    return model, optimizer_of("lazy_adam", model)


def loaded(world: int, folder: Path) -> list[Tensor]:
    """What ranks read of a checkpoint that one rank wrote: rows of items, and their moments."""
    model, optimizer = begun(world)
    sharded.load_sharded(folder / "alone", model, {"optimizer": optimizer})
    state = optimizer.state[model.item_table.rows]
    return [model.item_table.rows.detach(), state["exp_avg"], state["exp_avg_sq"]]


def judged() -> tuple[CSR, CSR]:
    """Relevant and excluded items of users, some without any."""
    generator = torch.Generator().manual_seed(8)
    relevant = torch.rand(U, N, generator=generator) < 0.03
    return CSR.from_any(relevant), CSR.from_any(~relevant & (torch.rand(U, N, generator=generator) < 0.2))


def with_ties(model) -> None:
    with torch.no_grad():
        for table in model.tables():
            table.mul_(10).round_()


def evaluation(rank: int, world: int) -> dict:
    model = factorization(world, "adam", "empty")
    with_ties(model)
    return sharded.evaluate(model, *judged(), [5, 20], batch_size=7)


def topology(rank: int, world: int, kind: str, reduction: str) -> dict:
    """Entities that several ranks name, of two tables with teachers of another width."""
    here, own = Here(rank, world, "empty", "uneven"), slice(*CUTS["empty"][world][rank : rank + 2])
    teacher = sharded.ShardedTable(numbers(N, 24, seed=9)[own])
    user_teacher, user_table = (
        sharded.ShardedTable(rows) for rows in (numbers(B, 24, seed=10)[here.mine], here.users)
    )
    ids = torch.arange(B)[here.mine]
    sides = [
        sharded.Side(torch.cat([ids, ids[:1]]), user_teacher, user_table),
        sharded.Side(here.listed, teacher, here.table),
    ]
    before = user_table.ranks.bytes_sent
    loss = sharded.full_topology_distillation(sides, kind, reduction)
    loss.backward()
    grads = {"rows": here.table.rows.grad, "users": user_table.rows.grad}
    return grads | {"loss": loss.detach(), "sent": user_table.ranks.bytes_sent - before}


class Wire:
    """What this rank's collectives send to others, counted where torch is called."""

    def __init__(self) -> None:
        self.bytes, self.world, self.rank = 0, dist.get_world_size(), dist.get_rank()
        self.gather = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"
        self.real = {name: getattr(dist, name) for name in ("all_to_all_single", self.gather)}

    def __enter__(self) -> Self:
        def all_to_all(out, rows, got, sent, group=None):
            self.bytes += (sum(sent) - sent[self.rank]) * (rows.nbytes // max(len(rows), 1))
            return self.real["all_to_all_single"](out, rows, got, sent, group=group)

        def gather(whole, mine, group=None):
            self.bytes += (self.world - 1) * mine.nbytes
            return self.real[self.gather](whole, mine, group=group)

        dist.all_to_all_single = all_to_all
        setattr(dist, self.gather, gather)
        return self

    def __exit__(self, *_) -> None:
        for name, real in self.real.items():
            setattr(dist, name, real)


def bytes_of_the_catalogue(rank: int, world: int) -> list[tuple[int, int]]:
    """(sent, as the table counted it) of a step of the catalogue's loss, for tables of 90 and of 900 items."""
    found, here = [], Here(rank, world, "even", "uneven")
    for n in (N, 10 * N):
        table = sharded.ShardedTable.normal(n, D, torch.Generator().manual_seed(0))
        before = table.ranks.bytes_sent
        listed = here.ended * (n // N)  # about the same owners
        with Wire() as wire:
            sharded.catalogue_plackett_luce(here.users, table, listed.clamp_min(-1)).sum().backward()
        found.append((wire.bytes, table.ranks.bytes_sent - before))
    return found


def main(rank: int, world: int, folder: Path) -> None:
    faulthandler.dump_traceback_later(150, exit=True)  # a process that hangs says where
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    answers = {}
    for name, op in OPS.items():
        for cuts in CUTS:
            for dtype, sparse in ((torch.float32, False), (torch.float64, True)):
                key = f"{name}, {cuts}, {str(dtype)[6:]}"
                answers[key] = attempt(
                    lambda: op(Here(rank, world, cuts, cuts, dtype, sparse))  # noqa: B023
                )
        answers[f"{name}, no rows"] = attempt(lambda: op(Here(rank, world, "even", "none")))  # noqa: B023
    half = Here(rank, world, "uneven", "uneven", torch.bfloat16)
    answers["bfloat16"] = attempt(lambda: tuple(sharded.inner_product_topk(half.users, half.table, 13)))
    answers["failures"] = failures(rank, world)
    for key in TRAININGS:
        answers[key] = attempt(lambda: training(rank, world, folder, key))  # noqa: B023
    answers["loaded"] = attempt(lambda: loaded(world, folder))
    answers["evaluation"] = attempt(lambda: evaluation(rank, world))
    for kind, reduction in (("cosine", "sum"), ("inner_product", "mean"), ("squared_distance", "sum")):
        answers[kind] = attempt(lambda: topology(rank, world, kind, reduction))  # noqa: B023
    answers["bytes"] = attempt(lambda: bytes_of_the_catalogue(rank, world))
    torch.save(answers, folder / f"answers-{rank}")

    here = Here(rank, world, "uneven", "uneven")
    loss = sharded.catalogue_plackett_luce(here.users, here.table, here.ended).sum()
    if rank == world - 1:
        os._exit(9)
    answers["a rank that ends"] = attempt(loss.backward)
    torch.save(answers, folder / f"answers-{rank}")
    os._exit(0)  # the group is broken: leaving it in order would wait for it


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
