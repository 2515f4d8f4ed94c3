"""What a call costs the host and the device: milliseconds until it returns, until the device is done, and by kernel.

Small calls are bound by the host, which submits every launch; large ones by their kernels. No baseline: the pages of the
ops have those.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import catalogue_plackett_luce, embedding_plackett_luce, plackett_luce, relation_distance
from benchmarks import training_step as steps
from benchmarks.harness import Options, Shape, device, environment, in_files, moved
from rankdistill import pair_distance_huber
from rankdistill.optim import LazyAdam

SMALL = {"B": 900, "K": 40, "L": 40}
CALLS = 30
SHOWN = 7  # kernels


def calls() -> dict[str, Callable[[], Callable]]:
    """By name, what prepares a call."""

    def prepared(module, shape: Shape, call: Callable) -> Callable[[], Callable]:
        def prepare() -> Callable:
            args = moved(module.prepare(shape), "cuda")
            return lambda: call(*args)

        return prepare

    tables = {"N": 25_181, "D": 20}
    large = Shape("long tail", {"B": 4096, "K": 100, "L": 1000, "N": 1_000_000, "D": 64})
    ours = catalogue_plackett_luce.forward_backward(
        lambda users, items, ids, exclude: catalogue_plackett_luce.catalogue_plackett_luce(
            users, items, ids, exclude=exclude
        )
    )
    found = {
        "plackett_luce, small": prepared(
            plackett_luce, Shape("", SMALL), plackett_luce.forward_backward(plackett_luce.plackett_luce)
        ),
    }
    for sparse in (False, True):
        gradient = "sparse" if sparse else "dense"
        for size, shape in (("small", Shape("", SMALL | tables)), ("large", large)):
            call = embedding_plackett_luce.ours(sparse)
            found[f"embedding_plackett_luce, {gradient}, {size}"] = prepared(
                embedding_plackett_luce, shape, call
            )
    for shape in catalogue_plackett_luce.SHAPES:
        found[f"catalogue_plackett_luce, {shape.name}"] = prepared(catalogue_plackett_luce, shape, ours)

    def step() -> Callable:
        args = moved(steps.prepare(steps.SHAPES[-1]), "cuda")
        return steps.steps(steps.fused(sparse=True), lambda p: LazyAdam(p, steps.RATE)).make(*args)

    found["training step, sparse gradients, LazyAdam"] = step
    for shape in relation_distance.SHAPES:
        call = relation_distance.forward_backward(pair_distance_huber)
        found[f"pair_distance_huber, {shape.name}"] = prepared(relation_distance, shape, call)
    return found


def measured(call: Callable) -> list[str]:
    """Medians of the host's and of the whole time, launches, and the kernels that take longest."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    returned, done = [], []
    for _ in range(CALLS):
        begin = time.perf_counter()
        call()
        returned.append(time.perf_counter() - begin)
        torch.cuda.synchronize()
        done.append(time.perf_counter() - begin)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(5):
            call()
        torch.cuda.synchronize()
    spent, launches = Counter(), 0
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spent[event.name[:60]] += event.device_time / 5000
            launches += 1
    kernels = "; ".join(f"{name} {ms:.3f}" for name, ms in spent.most_common(SHOWN))
    middle = lambda values: sorted(values)[len(values) // 2] * 1e3
    return [
        f"{middle(returned):.2f}",
        f"{middle(done):.2f}",
        f"{spent.total():.2f}",
        f"{launches / 5:.0f}",
        kernels,
    ]


def main(options: Options) -> None:
    if options.device != "cuda":
        raise SystemExit("device_calls: expected --device cuda; got cpu")
    lines = [
        f"# device_calls\n\ncommit {environment(options)['commit']}, device {device(options)}, torch {torch.__version__}; milliseconds, medians of {CALLS} calls\n"
    ]
    lines += [
        "| call | returned | done | on the device | launches | longest |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, make in calls().items():
        if options.shapes in name:
            lines.append(f"| {name} | {' | '.join(measured(make()))} |")
            print(lines[-1], flush=True)
    if options.save:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{in_files(f'device-calls-{device(options)}')}.md").write_text(
            "\n".join(lines) + "\n"
        )
