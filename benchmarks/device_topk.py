"""Exact top-K on a CUDA device: whole calls beside torch's, then every step beside what its ceiling allows.

The filter's ceiling is torch's bf16 product of the same tables without their scores kept (row pieces into one buffer); that
of a pass over given scores is a copy.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from functools import partial

import torch

from benchmarks.harness import Options, PerShape, Shape, Work, ceilings, measure, report, threads
from benchmarks.inner_product_topk import gate_ours, random_exclusions, torch_chunked
from rankdistill import inner_product_topk, prepare_items
from rankdistill.ops import device_topk

SHAPES = [
    Shape("1M items", {"B": 4096, "N": 1_000_000, "D": 64, "K": 100}),
    Shape("1M items, wide", {"B": 4096, "N": 1_000_000, "D": 128, "K": 100}),
    Shape("1M items, narrow", {"B": 4096, "N": 1_000_000, "D": 32, "K": 100}),
    Shape("100k items", {"B": 16_384, "N": 100_000, "D": 64, "K": 100}),
    Shape("long lists", {"B": 1024, "N": 2_000_000, "D": 128, "K": 1000}),
    Shape("few users", {"B": 16, "N": 2_000_000, "D": 128, "K": 100}),
]
GIVEN = [
    Shape("given scores", {"B": 2048, "N": 200_000, "K": 100}),
    Shape("given scores, long lists", {"B": 2048, "N": 200_000, "K": 1000}),
]
REPEATS = 15


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    tables = (torch.randn(shape[letter], shape["D"], generator=generator) for letter in "BN")
    return *tables, shape["K"], random_exclusions(shape, generator)


def prepared(users, items, k, exclude):
    table = prepare_items(items)
    return lambda: inner_product_topk(users, table, k, exclude)


def half_precision(users, items, k, exclude):
    """What torch gives on the matrix units: scores of three digits."""
    users, items = users.bfloat16(), items.bfloat16()
    return lambda: torch_chunked(users, items, k, exclude, 256)


def half_product(users, items, k, exclude):
    users, items = users.bfloat16(), items.bfloat16().T
    rows = max(1, min(len(users), (1 << 29) // items.shape[1]))
    out = torch.empty(rows, items.shape[1], dtype=torch.bfloat16, device=users.device)

    def product():
        for piece in users.split(rows):
            torch.mm(piece, items, out=out[: len(piece)])

    return product


VARIANTS = {
    "rankdistill": inner_product_topk,
    "rankdistill, prepared": PerShape(prepared),
    "torch matmul + mask + topk": lambda *args: torch_chunked(*args, chunk=256),
    "torch in bf16 (other lists)": PerShape(half_precision),
    "torch.mm in bf16 alone": PerShape(half_product),
}


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    gate_ours(outputs["rankdistill"], *args)
    assert all(map(torch.equal, outputs["rankdistill"], outputs["rankdistill, prepared"]))


def work(shape: Shape) -> Work:
    return Work(flops=2.0 * shape["B"] * shape["N"] * shape["D"])


class Steps:
    """Milliseconds of each launch of device_topk, by name, over the calls made within."""

    def __enter__(self):
        self.events, self.launch = defaultdict(list), device_topk.launch

        def timed(step, device, *args):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            self.launch(step, device, *args)
            end.record()
            self.events[step].append((begin, end))

        device_topk.launch = timed
        return self

    def __exit__(self, *_):
        device_topk.launch = self.launch

    def medians(self, calls: int) -> dict[str, float]:
        """Of what a call spends in a step, all its launches of it together."""
        torch.cuda.synchronize()
        found = {}
        for step, pairs in self.events.items():
            times = [begin.elapsed_time(end) for begin, end in pairs]
            each = len(times) // calls
            found[step] = statistics.median(sum(times[i : i + each]) for i in range(0, each * calls, each))
        return found


def median_ms(call) -> float:
    call()
    times = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def steps_of(shape: Shape) -> list[str]:
    users, items, k, exclude = (
        tuple(t.cuda() for t in a) if isinstance(a, tuple) else a.cuda() if isinstance(a, torch.Tensor) else a
        for a in prepare(shape)
    )
    ceiling = median_ms(half_product(users, items, k, exclude))
    lines = []
    for hopper in (True, False) if device_topk.uses_hopper(users.device) else (False,):
        call = partial(device_topk.inner_product_topk, users, items, k, *exclude, None, hopper=hopper)
        call()
        with Steps() as steps:
            for _ in range(REPEATS):
                call()
        spent = steps.medians(REPEATS)
        rate = work(shape).flops / spent["score_filter"] / 1e9 if "score_filter" in spent else 0.0
        parts = ", ".join(f"{step} {ms:.3f}" for step, ms in spent.items())
        lines.append(
            f"{shape.name}, {'wgmma' if hopper else 'mma'}: {parts} ms; filter {rate:.0f} TFLOP/s, "
            f"{100 * ceiling / spent.get('score_filter', float('inf')):.0f} % of torch.mm in bf16 ({ceiling:.3f} ms)"
        )
    return lines


def given_scores(shape: Shape) -> str:
    scores = torch.randn(shape["B"], shape["N"], device="cuda")
    k, target = shape["K"], torch.empty_like(scores)
    best, ids, _ = device_topk.masked_topk(scores, k, None, None, None)
    expected = scores[:64].sort(dim=1, descending=True, stable=True)
    assert torch.equal(best[:64], expected.values[:, :k])
    assert torch.equal(ids[:64], expected.indices[:, :k])
    ours = median_ms(lambda: device_topk.masked_topk(scores, k, None, None, None))
    torch_ms, copy = median_ms(lambda: scores.topk(k)), median_ms(lambda: target.copy_(scores))
    bytes_read = scores.numel() * 4
    return (
        f"{shape.name} {shape.sizes}: {ours:.3f} ms, {bytes_read / ours / 1e6:.0f} GB/s, "
        f"{100 * copy / 2 / ours:.0f} % of a copy's rate ({2 * bytes_read / copy / 1e6:.0f} GB/s); torch.topk {torch_ms:.3f} ms"
    )


def main(options: Options) -> None:
    if options.device != "cuda":
        raise SystemExit("device_topk: expected --device cuda; got cpu")
    with threads(options):
        results = measure(SHAPES, prepare, VARIANTS, gate, work, options)
        notes = [line for shape in SHAPES if options.shapes in shape.name for line in steps_of(shape)]
        notes += [given_scores(shape) for shape in GIVEN]
        report("device_topk", results, ceilings(options), options, notes)
