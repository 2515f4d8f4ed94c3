"""Exact masked top-K on item tables that are hard for it, and on a trained one, each beside random numbers.

The Gowalla teacher needs the folder that RANKDISTILL_DATA names; it is trained once (two minutes) and kept in runs/.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Missing, Options, Shape, ceilings, measure, report, threads
from benchmarks.inner_product_topk import gate_ours, random_exclusions, work
from benchmarks.item_tables import difficult, gowalla, gowalla_teacher
from rankdistill import inner_product_topk
from rankdistill.metrics import evaluate

SLOWEST = 3  # times random numbers

SHAPE = Shape("extraction, 100k items", {"B": 256, "N": 100_000, "D": 64, "K": 100})
TEACHER = "Gowalla teacher, own train items left out"


def ranked(name: str):
    return lambda tables, k, exclude: inner_product_topk(*tables[name][:2], k, exclude, *tables[name][2:])


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    tables, k, exclude = args
    for name, output in outputs.items():
        users, items, *bias = tables[name]
        gate_ours(output, users, items, k, exclude, item_bias=bias[0] if bias else None)


def difficult_tables(options: Options) -> list[dict]:
    tables = difficult(SHAPE["B"], SHAPE["N"], SHAPE["D"])
    bias = torch.zeros(SHAPE["N"])
    bias[
        torch.randperm(SHAPE["N"], generator=torch.Generator().manual_seed(2))[: SHAPE["N"] // 20]
    ] = -torch.inf
    tables["5 % withdrawn by a bias of -inf"] = *tables["random"], bias
    exclude = random_exclusions(SHAPE, torch.Generator().manual_seed(1))
    variants = {name: ranked(name) for name in tables}
    return measure([SHAPE], lambda shape: (tables, shape["K"], exclude), variants, gate, work, options)


def trained_table(options: Options) -> tuple[list[dict], list[str]]:
    data = gowalla()
    shape = Shape("Gowalla", {"B": 256, "N": 40_981, "D": 64, "K": 100})
    users = torch.randperm(29_858, generator=torch.Generator().manual_seed(0))[: shape["B"]]
    generator = torch.Generator().manual_seed(0)
    tables = {"random": tuple(torch.randn(shape[n], shape["D"], generator=generator) for n in ("B", "N"))}
    if data is None:
        exclude = random_exclusions(shape, generator)
        second, notes = Missing("RANKDISTILL_DATA names no folder with gowalla"), []
    else:
        teacher = gowalla_teacher(data)
        seen = data.train.csr()
        rows = seen.rows(users)
        exclude = rows.indptr, rows.indices.long()
        tables[TEACHER] = teacher.user_vectors(users).detach(), teacher.item_vectors().detach()
        second = ranked(TEACHER)
        recall = evaluate(teacher, data.test.csr(), seen, (20,), ("recall",))["recall@20"]
        notes = [f"The teacher: MF-BPR of width {shape['D']}, Recall@20 {recall:.4f} on the test part."]
    variants = {"random": ranked("random"), TEACHER: second}
    return measure([shape], lambda s: (tables, s["K"], exclude), variants, gate, work, options), notes


def main(options: Options) -> None:
    with threads(options):
        limits = ceilings(options)
        results, notes = trained_table(options)
        results = difficult_tables(options) + results
    rows = [r for result in results for r in result["variants"]]
    worst = max(rows, key=lambda r: r["times_first"])
    notes.append(
        f"Slowest: {worst['variant']}, {worst['times_first']:.2f} times random numbers (at most {SLOWEST} wanted)."
    )
    report("inner_product_topk_items", results, limits, options, notes)
