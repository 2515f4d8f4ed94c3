"""Exact masked top-K against torch, faiss and implicit, and against what the machine can multiply and add.

The page ends with what each shape must reach at least (floor) and is meant to reach (target).
"""

from __future__ import annotations

import torch

import rankdistill
from benchmarks.competitors import faiss_index, implicit_topk, limit_threads
from benchmarks.harness import (
    Missing,
    Options,
    PerShape,
    Shape,
    Work,
    ceilings,
    measure,
    number,
    report,
    threads,
)
from rankdistill import inner_product_topk

EXCLUDED = 50  # items per user
OURS = "rankdistill"

SHAPES = [
    Shape("serving, 1M items", {"B": 128, "N": 1_000_000, "D": 64, "K": 100}),
    Shape("extraction, 100k items", {"B": 256, "N": 100_000, "D": 64, "K": 100}),
    Shape("wide tables, 100k items", {"B": 256, "N": 100_000, "D": 256, "K": 100}),
    Shape("long lists, 200k items", {"B": 64, "N": 200_000, "D": 128, "K": 1000}),
    Shape("small catalogue, 20k items", {"B": 256, "N": 20_000, "D": 64, "K": 100}),
]

# Against whom, and by how much at least, in the order of SHAPES.
GOALS = {
    "torch matmul": ((14, 4.5, 3.2, 2.5, 1.9), None),
    "faiss": ((3.2, 2, 1.6, 1.3, 1.05), None),
    "implicit": ((11, 4, 2.8, 2, 2.4), None),
    "fp32 peak": ((1.5, 0.8, 1.0, None, None), (3, 1.5, 1.5, 1.0, 0.8)),
}


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(shape["B"], shape["D"], generator=generator)
    items = torch.randn(shape["N"], shape["D"], generator=generator)
    return users, items, shape["K"], random_exclusions(shape, generator)


def random_exclusions(shape: Shape, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    seen = torch.randint(0, shape["N"], (shape["B"], EXCLUDED), generator=generator).sort(dim=1).values
    return torch.arange(shape["B"] + 1) * EXCLUDED, seen.reshape(-1)


def prepared_table() -> PerShape | Missing:
    prepare_items = getattr(rankdistill, "prepare_items", None)
    if prepare_items is None:
        return Missing("prepare_items is not built")

    def make(users, items, k, exclude):
        table = prepare_items(items)
        return lambda: inner_product_topk(users, table, k, exclude)

    return PerShape(make)


def torch_whole(users, items, k, exclude):
    indptr, indices = exclude
    scores = users @ items.T
    rows = torch.repeat_interleave(torch.arange(len(users), device=users.device), indptr.diff())
    scores[rows, indices] = -torch.inf
    return scores.topk(k)


def torch_chunked(users, items, k, exclude, chunk=32):
    indptr, indices = exclude
    parts = []
    for begin in range(0, len(users), chunk):
        cut = indptr[begin : begin + chunk + 1]
        parts.append(
            torch_whole(users[begin : begin + chunk], items, k, (cut - cut[0], indices[cut[0] : cut[-1]]))
        )
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def torch_product(users, items, k, exclude):
    return torch.mm(users, items.T)


def exact_lists(users, items, k, exclude, rows: int, item_bias=None) -> tuple[torch.Tensor, torch.Tensor]:
    """The first rows' scores and ids from fp64 scores; (indptr, indices) of `exclude` may be None."""
    exact = users[:rows].double() @ items.double().T
    if item_bias is not None:
        exact += item_bias.double()
    if exclude is not None:
        indptr, indices = exclude
        for row in range(rows):
            exact[row, indices[indptr[row] : indptr[row + 1]]] = -torch.inf
    expected = exact.float().sort(dim=1, descending=True, stable=True)
    return expected.values[:, :k], expected.indices[:, :k]


def gate_ours(output, users, items, k, exclude, rows: int = 16, item_bias=None) -> None:
    scores, ids = exact_lists(users, items, k, exclude, rows, item_bias)
    assert torch.equal(output.scores[:rows], scores)
    assert (output.indices[:rows] == ids).float().mean() > 0.9999


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """Ours is checked against fp64 scores of 16 rows; the others, with their own roundings, against ours."""
    users, items, k, _ = args
    gate_ours(outputs[OURS], *args)
    for name, output in outputs.items():
        if name == PRODUCT:
            continue  # scores alone, no lists
        wanted = outputs[OURS].scores
        if name.startswith("faiss"):  # masks nothing
            wanted, output = exact_lists(users, items, k, None, 16)[0], (output[0][:16],)
        torch.testing.assert_close(output[0], wanted, rtol=1e-4, atol=1e-4, msg=f"{name}: wrong scores")
        if name.startswith(OURS):
            assert all(map(torch.equal, output, outputs[OURS])), f"{name}: not the same bits"


def work(shape: Shape) -> Work:
    return Work(flops=2.0 * shape["B"] * shape["N"] * shape["D"])


PRODUCT = "torch.mm alone"


NOTES = (
    "faiss leaves nothing out (it cannot mask) and holds a copy of the table, made before the clock starts; its product path is "
    "forced at every size. implicit converts the exclusions before the clock starts too."
)


def main(options: Options) -> None:
    variants = {OURS: inner_product_topk}
    if options.device == "cpu":
        variants[f"{OURS}, prepared table"] = prepared_table()
    variants |= {"torch matmul + mask + topk": torch_whole, "torch in chunks of 32 rows": torch_chunked}
    variants |= {PRODUCT: torch_product}
    if options.device == "cpu":
        for selection in ("heap", "reservoir"):
            variants[f"faiss IndexFlatIP by products, {selection}, unmasked"] = faiss_index(
                selection, options
            )
        variants["implicit"] = implicit_topk(options)
    notes = []
    with threads(options):
        if options.device == "cpu":
            notes = ["BLAS beside torch's own: " + "; ".join(limit_threads(options)) + ".", NOTES]
        limits = ceilings(options)
        results = measure(SHAPES, prepare, variants, gate, work, options)
    report("inner_product_topk", results, limits, options, [*notes, *goals(results)])


def goals(results: list[dict]) -> list[str]:
    """Floor, target and what our variants reached, against the faster of several variants of one competitor."""
    lines = ["| shape | against | floor | target | reached | |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for result in results:
        place = [shape.name for shape in SHAPES].index(result["shape"])
        rows = result["variants"]
        own = {r["variant"]: r for r in rows if r["variant"].startswith(OURS)}
        for against, (floors, targets) in GOALS.items():
            floor, target = (None if values is None else values[place] for values in (floors, targets))
            for name, our in own.items():
                if against == "fp32 peak":
                    reached = our["of_peak"]
                else:
                    others = [r for r in rows if r["variant"].startswith(against)]
                    best = min(others, key=lambda r: r["ms"], default=None)
                    reached = best and best["times_first"] / our["times_first"]
                lines.append(
                    f"| {result['shape']} | {against}, {name} | {number(floor, 2)} | {number(target, 2)} | {number(reached, 2)} "
                    f"| {verdict(reached, floor, target)} |"
                )
        limit = 16 + 24 * result["sizes"]["B"] * result["sizes"]["K"] / 2**20
        for name, our in own.items():
            extra = our["extra_mb"]
            if extra is not None:
                kept = "reached" if extra <= limit else "above the limit"
                lines.append(
                    f"| {result['shape']} | extra MB, {name} | at most {limit:.1f} | | {extra:.1f} | {kept} |"
                )
    return ["\n".join(lines)]


def verdict(reached: float | None, floor: float | None, target: float | None) -> str:
    if reached is None:
        return "not measured"
    if target is not None and reached >= target:
        return "target"
    if floor is None:
        return "below target"
    return "floor" if reached >= floor else "below floor"
