"""The multiply-add loops that benchmarks divide by: they do what they count."""

from __future__ import annotations

import time

import pytest
import torch

_native = pytest.importorskip("rankdistill._native")
KINDS = {"fp32": 0, "bf16": 1, "int8": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_operations_grow_with_the_steps(kind):
    once = _native.multiply_adds(KINDS[kind], 1)
    if not once:
        pytest.skip(f"no {kind} multiply-adds under {_native.isa()} on this processor")
    assert _native.multiply_adds(KINDS[kind], 1000) == 1000 * once


def test_fp32_is_there_and_takes_its_time():
    """A loop that the compiler had folded away would beat what any core can do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begin = time.process_time()
        operations = _native.multiply_adds(0, 2_000_000)
        seconds = time.process_time() - begin
    finally:
        torch.set_num_threads(threads)
    assert 0 < operations / seconds < 1e12


def test_an_unknown_kind_does_nothing():
    assert _native.multiply_adds(3, 10) == 0
