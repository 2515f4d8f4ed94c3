"""What each process of the tests of several ranks does: `python distributed_ranks.py RANK WORLD FOLDER`.

Every call's result, or its error as text, goes to FOLDER/answers-RANK; all processes make the same calls in one order.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from rankdistill import distributed_inner_product_topk, extract_rankings
from rankdistill.data import CSR
from rankdistill.rankings.streaming import Streaming


def sliced(case: dict, rank: int, world: int) -> dict:
    """The case's arguments with this rank's slice of the items, and what this rank alone gets otherwise."""
    cuts = case["cuts"][world]
    here = slice(cuts[rank], cuts[rank + 1])
    arguments = {name: case[name] for name in ("users", "k", "exclude")}
    arguments |= {"items": case["items"][here], "first_item": cuts[rank] if case["counted"] else None}
    arguments["item_bias"] = None if case["item_bias"] is None else case["item_bias"][here]
    return arguments | case["only"].get(rank, {})


def attempt(call):
    try:
        return call()
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


def failing(at: int, act) -> None:
    """Calls `act` in place of the at-th ranking from now on, once."""
    real, left = Streaming.rank, [at]

    def rank(self, step):
        left[0] -= 1
        if left[0] == 0:
            Streaming.rank = real
            act()
        return real(self, step)

    Streaming.rank = rank


def no_room() -> None:
    raise OSError("no room")


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    answers = {}
    for name, case in torch.load(folder / "cases").items():
        answers[name] = attempt(
            lambda case=case: tuple(distributed_inner_product_topk(**sliced(case, rank, world)))
        )

    settings = torch.load(folder / "extractions")
    exclude = CSR(*settings["exclude"], settings["n_items"])

    def extract(out: str, **changes):
        options = {"item_bias": settings["bias"], "shard_size": settings["shard_size"]} | changes
        k = options.pop("k", settings["k"])
        made = extract_rankings(*settings["files"], k, exclude, out=folder / out, **options)
        return made.indices[:: settings["n_users"] - 1].clone()

    for divide in ("users", "items"):
        for name, limit in (("large", "1GiB"), ("small", settings["limit"])):
            out = f"{divide}-{name}"
            answers[out] = attempt(
                lambda out=out, divide=divide, limit=limit: extract(out, divide=divide, memory_limit=limit)
            )
        if rank == 0:
            (folder / f"{divide}-large" / "rankings.json").unlink()
            (folder / f"{divide}-large" / settings["lost"]).unlink()
        dist.barrier()
        answers[f"{divide}, a shard lost"] = attempt(
            lambda divide=divide: extract(f"{divide}-large", divide=divide)
        )
        for name, changes in (
            ("another k", {"k": settings["k"] + (rank == world - 1)}),
            ("no such division", {"divide": "rows" if rank == world - 1 else divide}),
        ):
            answers[f"{divide}, {name}"] = attempt(
                lambda changes=changes, divide=divide: extract("none", **{"divide": divide} | changes)
            )
        if rank == world - 1:
            failing(2, no_room)
        answers[f"{divide}, no room"] = attempt(
            lambda divide=divide: extract("broken", divide=divide, memory_limit=settings["limit"])
        )
        answers[f"{divide}, room again"] = attempt(lambda divide=divide: extract("broken", divide=divide))
        if rank == 0:
            for path in (folder / "broken").iterdir():
                path.unlink()
        dist.barrier()
    torch.save(answers, folder / f"answers-{rank}")

    if rank == world - 1:
        failing(2, lambda: os._exit(9))
    answers["a process that ends"] = attempt(
        lambda: extract("ended", divide="items", memory_limit=settings["limit"])
    )
    torch.save(answers, folder / f"answers-{rank}")
    os._exit(0)  # the group is broken: leaving it in order would wait for it


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
