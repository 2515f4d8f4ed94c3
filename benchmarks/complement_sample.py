"""An epoch's uninteresting items for every user, against the loops that one would write."""

from __future__ import annotations

import random

import numpy as np
import torch

from benchmarks.harness import Missing, Options, Shape, Work, ceilings, measure, report, threads
from rankdistill import complement_sample

OURS, LOOP, QUICK = "rankdistill", "Python loop, numpy.random.randint", "Python loop, random.random"
LEAST_GAIN, MOST_BYTES = 50.0, 10.0  # over a Python loop over draws; besides the output, per draw
SHAPES = [Shape("100k users, 1M items", {"U": 100_000, "N": 1_000_000, "L": 100, "train": 50})]


def prepare(shape: Shape) -> tuple:
    U, N, each = (shape[name] for name in ("U", "N", "train"))
    generator = torch.Generator().manual_seed(0)
    # One item of each of `each` equal parts of the catalogue: ascending and without repeats.
    width = N // each
    items = torch.randint(width, (U, each), generator=generator) + torch.arange(each) * width
    return torch.arange(U), N, shape["L"], (torch.arange(0, U * each + 1, each), items.flatten())


def ours(users, n_items, L, exclude):
    return complement_sample(users, n_items, L, exclude, seed=1)


def loop(users, n_items, L, exclude, draw):
    """Draw by draw, a set for what is taken."""
    indptr, indices = (t.tolist() for t in exclude)
    out = torch.empty(len(users), L, dtype=torch.int64)
    for row, user in enumerate(users.tolist()):
        taken, drawn = set(indices[indptr[user] : indptr[user + 1]]), []
        while len(drawn) < L:
            item = draw(n_items)
            if item not in taken:
                taken.add(item)
                drawn.append(item)
        out[row] = torch.tensor(drawn)
    return out


def released_loop(*args):
    """With the generator that released code asks for every number."""
    return loop(*args, np.random.RandomState(1).randint)


def quick_loop(*args):
    """With the quickest that Python has."""
    uniform = random.Random(1).random
    return loop(*args, lambda n: int(uniform() * n))


def numpy_rows(users, n_items, L, exclude):
    """User by user: more draws than needed, those that are taken or come again thrown away."""
    indptr, indices = (t.numpy() for t in exclude)
    out, generator = np.empty((len(users), L), dtype=np.int64), np.random.default_rng(1)
    for row, user in enumerate(users.tolist()):
        taken, kept = indices[indptr[user] : indptr[user + 1]], np.empty(0, dtype=np.int64)
        while len(kept) < L:
            more = generator.integers(n_items, size=L + 8)
            kept = np.concatenate([kept, more[~np.isin(more, taken)]])
            kept = kept[np.sort(np.unique(kept, return_index=True)[1])]
        out[row] = kept[:L]
    return torch.from_numpy(out)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Free items, none twice, and their mean and spread those of the uniform law."""
    users, N, L, (indptr, indices) = args
    for name, drawn in outputs.items():
        assert drawn.shape == (len(users), L), name
        ordered = drawn.sort(1).values
        assert (ordered.diff(dim=1) > 0).all(), f"{name}: an item twice"
        assert ((ordered[:, 0] >= 0) & (ordered[:, -1] < N)).all(), name
        keys = (users[:, None] * N + drawn).flatten()
        taken = users.repeat_interleave(indptr.diff()) * N + indices
        found = torch.searchsorted(taken, keys).clamp_max(len(taken) - 1)
        assert (taken[found] != keys).all(), f"{name}: a train item"
        error = 5 * N / (12 * keys.numel()) ** 0.5
        assert abs(float(drawn.double().mean()) - (N - 1) / 2) < error, f"{name}: not uniform"


def work(shape: Shape) -> Work:
    return Work(bytes=8.0 * shape["U"] * (shape["L"] + shape["train"]))


def verdict(results: list[dict]) -> list[str]:
    lines = ["| shape | what | goal | reached | |", "| --- | --- | ---: | ---: | --- |"]
    for result in results:
        rows = {r["variant"]: r for r in result["variants"]}
        draws = result["sizes"]["U"] * result["sizes"]["L"]
        measured = []
        for name in (LOOP, QUICK):
            if name in rows:
                gain = rows[name]["times_first"]
                measured.append((f"gain over {name}", f">= {LEAST_GAIN:.0f}", gain, gain >= LEAST_GAIN))
        if rows[OURS]["extra_mb"] is not None:
            spare = rows[OURS]["extra_mb"] * 2**20 / draws - 8
            measured.append(
                ("bytes per draw besides the output", f"< {MOST_BYTES:.0f}", spare, spare < MOST_BYTES)
            )
        lines += [
            f"| {result['shape']} | {what} | {goal} | {value:.1f} | {'met' if met else 'not met'} |"
            for what, goal, value, met in measured
        ]
    return ["\n".join(lines)]


def main(options: Options) -> None:
    mask_gb = SHAPES[0]["U"] * SHAPES[0]["N"] / 1e9
    variants = {
        OURS: ours,
        LOOP: released_loop,
        QUICK: quick_loop,
        "numpy, user by user": numpy_rows,
        "torch.multinomial of a [U, N] mask": Missing(f"{4 * mask_gb:.0f} GB of fp32 mask"),
    }
    with threads(options):
        limits = ceilings(options)
        results = measure(SHAPES, prepare, variants, gate, work, options)
    report("complement_sample", results, limits, options, verdict(results))
