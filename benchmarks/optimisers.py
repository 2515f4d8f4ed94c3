"""One step of an optimiser on an embedding table: what the touched rows cost, and what the table costs."""

from __future__ import annotations

import torch

from benchmarks.harness import Options, PerShape, Shape, Work, run
from rankdistill.optim import LazyAdam, LazySGD

SHAPES = [
    Shape("1M items, one batch's rows", {"N": 1_000_000, "D": 64, "M": 10_000}),
    Shape("1M items, a large batch's rows", {"N": 1_000_000, "D": 64, "M": 100_000}),
]
RATE, DECAY = 1e-3, 1e-3


def prepare(shape: Shape) -> tuple:
    generator = torch.Generator().manual_seed(0)
    N, D, M = (shape[letter] for letter in "NDM")
    table = torch.randn(N, D, generator=generator) * 0.1
    ids = torch.randperm(N, generator=generator)[:M].sort().values
    # Away from 0: the two forms of Adam scale eps differently.
    rows = torch.randn(M, D, generator=generator)
    rows = rows + 0.1 * rows.sign()
    return table, torch.sparse_coo_tensor(ids[None], rows, (N, D), is_coalesced=True, check_invariants=False)


def steps(make, dense: bool = False) -> PerShape:
    """A step as a training loop has it; what comes back is the table after the first."""

    def variant(table, gradient):
        parameter = torch.nn.Parameter(table.clone())
        optimizer = make([parameter])
        grad = gradient.to_dense() if dense else gradient
        first = []

        def call():
            parameter.grad = grad
            optimizer.step()
            if not first:
                first.append(parameter.detach().clone())
            return first[0]

        return call

    return PerShape(variant)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    touched = args[1]._indices()[0]
    adam, sgd = outputs["torch.optim.SparseAdam"], outputs["torch.optim.SGD, with decay"]
    torch.testing.assert_close(outputs["LazyAdam"], adam, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(outputs["torch.optim.Adam, fused"], adam, rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(outputs["LazySGD, with decay"][touched], sgd[touched], rtol=2e-6, atol=1e-7)


def work(shape: Shape) -> Work:
    # Of lazy Adam: table and two moments read and written, ids and gradients read.
    return Work(bytes=shape["M"] * (7 * 4.0 * shape["D"] + 8))


def main(options: Options) -> None:
    variants = {
        "LazyAdam": steps(lambda p: LazyAdam(p, RATE)),
        "torch.optim.SparseAdam": steps(lambda p: torch.optim.SparseAdam(p, RATE)),
        "torch.optim.Adam, fused": steps(lambda p: torch.optim.Adam(p, RATE, fused=True), dense=True),
        "LazySGD, with decay": steps(lambda p: LazySGD(p, RATE, DECAY)),
        "torch.optim.SGD, with decay": steps(
            lambda p: torch.optim.SGD(p, RATE, weight_decay=DECAY), dense=True
        ),
    }
    run("optimisers", SHAPES, prepare, variants, gate, work, options)
