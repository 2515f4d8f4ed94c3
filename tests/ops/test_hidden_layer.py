"""The in-place passes over hidden layers: the native ones are those by torch, and they are what runs."""

from __future__ import annotations

import pytest
import torch

from rankdistill.ops.hidden_layer import NATIVE, REFERENCE
from rankdistill.ops.registration import CHOICES, FORCED
from tests.case import randn

DTYPES = [torch.float32, torch.float64]
SIZES = [(5, 3, 37), (4, 1, 16), (1, 2, 3), (0, 2, 3), (300, 4, 70)]


@pytest.mark.skipif(FORCED is not None, reason="a backend is forced")
def test_the_native_passes_run():
    assert CHOICES["hidden_layer", "CPU"].backend == "native"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_native_passes_are_those_of_torch(sizes, dtype):
    n, M, H = sizes
    layer, slopes = (randn(n, M, H, seed=seed, dtype=dtype) for seed in (1, 2))
    if n:
        layer[0, 0, :2] = torch.tensor([torch.nan, 0.0], dtype=dtype)
    shares, bias, kept = randn(n, M, seed=3, dtype=dtype), randn(M, H, seed=4, dtype=dtype), slopes > 0.3
    grads = randn(n, M, seed=5, dtype=dtype), randn(M, H, seed=6, dtype=dtype)
    for name, arguments in {
        "weighted": (layer, bias, shares, torch.full_like(layer, 7)),
        "weighted_backward": (slopes, layer.relu(), shares, torch.full_like(layer, 7), *grads),
        "dropped": (layer, kept),
        "kept": (layer, kept),
    }.items():
        found, expected = ([a.clone() for a in arguments] for _ in range(2))
        NATIVE[name](*found)
        REFERENCE[name](*expected)
        for mine, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_tensors_that_do_not_go_together_are_refused():
    layer, kept = randn(4, 2, 3), torch.ones(4, 2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"expected kept contiguous, torch.bool, of shape \[4, 2, 3\]; got"):
        NATIVE["dropped"](layer, kept[:3])
    with pytest.raises(ValueError, match="expected kept contiguous, torch.bool"):
        NATIVE["kept"](layer, kept.float())
    with pytest.raises(ValueError, match=r"expected bias contiguous, torch.float32, of shape \[2, 3\]"):
        NATIVE["weighted"](layer, randn(3, 2), randn(4, 2), randn(4, 2, 3))
    with pytest.raises(ValueError, match="expected layer contiguous"):
        NATIVE["kept"](layer.transpose(0, 1), kept.transpose(0, 1))
