"""Compiles what the Triton launchers of listed items, the whole catalogue and optimisers launch; prints its machine code's needs.

Nothing runs, as in ranking_triton_compile.py; the number of touched rows, which a launcher reads back, is made here.
"""

from __future__ import annotations

import json
import sys

import torch
from rankdistill.kernels.triton import (
    catalogue_log_mass,
    catalogue_plackett_luce,
    embedding_plackett_luce,
    gathered_inner_product,
    lazy_update,
    touched_rows,
)
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from tests.case import randint, randn
from tests.ops.ranking_triton_compile import Driver, needs

WIDTHS = {torch.float32: (64, 200), torch.float64: (20,), torch.float16: (64,), torch.bfloat16: (100,)}
B, N, K = 70, 3000, 90


def launched(capability: int) -> list[tuple]:
    """(kernel's name, storage and width, compiled kernel) of every launch."""
    found, storage = {}, ""
    driver.set_active(Driver(capability))
    run, precision = JITFunction.run, catalogue_log_mass.precision_of
    begins = touched_rows.Occurrences.begins

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        found.setdefault(id(kernel), (self.__name__, storage, kernel))

    JITFunction.run = compile_only
    catalogue_log_mass.precision_of = lambda dtype, device: precision(dtype, torch.device("cuda"))
    touched_rows.Occurrences.begins = lambda found: begins(found).fill_(1)
    for dtype, widths in WIDTHS.items():
        for D in widths:
            storage = f"{str(dtype).removeprefix('torch.')} {D}"
            call_all(D, dtype)
            if dtype.itemsize >= 4:
                step_all(D, dtype)
    return list(found.values())


def of_batches(capability: int) -> dict[str, int]:
    """How often batches of different sizes have each kernel of listed items compiled."""
    made: dict[str, set] = {}
    driver.set_active(Driver(capability))
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        made.setdefault(self.__name__, set()).add(id(run(self, *args, grid=grid, warmup=True, **kwargs)))

    JITFunction.run = compile_only
    items = randn(N, 20)
    for rows in (64, 70, 33, 1):
        call = gathered_inner_product.call_of(randn(rows, 20), None, items, randint(0, N, (rows, K)), None)
        gathered_inner_product.Call.listed(call)
        embedding_plackett_luce.embedding_plackett_luce_forward(*call[:4], None, 40, True, None, False)
        embedding_plackett_luce.embedding_plackett_luce_forward(*call[:4], None, 40, False, None, False)
    return {name: len(kernels) for name, kernels in made.items()}


def call_all(D: int, dtype: torch.dtype) -> None:
    users, items, bias = (randn(*shape, dtype=dtype) for shape in ((B, D), (N, D), (N,)))
    ids, user_ids, lengths = randint(0, N, (B, K)), randint(0, B, (B,)), randint(0, 40, (B,))
    exclude = torch.arange(B + 1) * 2, torch.arange(2 * B)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    losses = torch.ones(B, dtype=wide)
    for item_bias, of_rows in ((None, None), (bias, user_ids)):
        tables = users, of_rows, items, ids
        gathered_inner_product.gathered_inner_product_forward(*tables, item_bias, False)
        # Keys are never written: what a launcher sorts is made here.
        gathered_inner_product.Call.listed = lambda call: touched_rows.occurrences(call.item_ids, N)
        saved = embedding_plackett_luce.embedding_plackett_luce_forward(
            *tables, lengths, 40, True, item_bias, False
        )
        for backward in (
            embedding_plackett_luce.embedding_plackett_luce_backward,
            embedding_plackett_luce.embedding_plackett_luce_sparse_backward,
        ):
            backward(losses, *tables, *saved[1:], item_bias)
    touched_rows.touched_rows_coalesce(user_ids, users, B)
    for lists, item_bias, share in (((None, None), None, 0.0), (exclude, bias, 0.5)):
        given = users, items, *lists, item_bias
        catalogue_log_mass.catalogue_log_mass_forward(*given, share)
        catalogue_log_mass.catalogue_log_mass_backward(losses, *given, losses, losses, share)
        catalogue_plackett_luce.catalogue_plackett_luce_forward(
            users, items, ids, lengths, *lists, item_bias, True
        )


def step_all(D: int, dtype: torch.dtype) -> None:
    """Three steps, alike in all but how many rows they touch and how far they go."""
    for ids in (torch.arange(1), torch.arange(48), torch.arange(77)):
        table, means, squares, grads = (randn(n, D, dtype=dtype) for n in (N, N, N, len(ids)))
        marks, rate = torch.zeros(N, dtype=torch.float64), 0.01 * len(ids)
        lazy_update.lazy_update_adam(table, means, squares, ids, grads, 0.9, 0.99, rate, 1e-8)
        for some in (marks, None):
            lazy_update.lazy_update_sgd(table, some, ids, grads, rate, 1 - rate, -0.3 * rate, -rate)
        for some in (ids, None):
            lazy_update.lazy_update_catch_up(table, marks, some, -rate)


if __name__ == "__main__":
    capability = int(sys.argv[1])
    if sys.argv[2:] == ["batches"]:
        print(json.dumps(of_batches(capability)))
    else:
        print(json.dumps([needs(*launch) for launch in launched(capability)]))
