"""What happens to hidden layers between matrix products, in place and in one pass, for networks that several rows share.

Tensors are contiguous and of one dtype, float32 or float64; M experts' layers of H numbers lie side by side.
"""

from __future__ import annotations

import torch

from rankdistill.ops import checks
from rankdistill.ops.native import DTYPE_CODES, _native, address, native_or
from rankdistill.ops.registration import LIBRARY, implement
from rankdistill.reference import hidden_layer as reference

OP = "hidden_layer"

# layer [n, M, H] becomes relu(layer + bias [M, H]); weighted is that times a row's share of an expert, shares [n, M].
LIBRARY.define(f"{OP}_weighted(Tensor(a!) layer, Tensor bias, Tensor shares, Tensor(b!) weighted) -> ()")
# slopes, by weighted, become those before the relu; weighted is made again; adds to the gradients of shares and bias.
LIBRARY.define(
    f"{OP}_weighted_backward(Tensor(a!) slopes, Tensor layer, Tensor shares, Tensor(b!) weighted,"
    " Tensor(c!) grad_shares, Tensor(d!) grad_bias) -> ()"
)
# layer becomes relu(layer) where kept, bool, and 0 elsewhere; kept, where that is above 0.
LIBRARY.define(f"{OP}_dropped(Tensor(a!) layer, Tensor(b!) kept) -> ()")
# x becomes 0 where it is not kept.
LIBRARY.define(f"{OP}_kept(Tensor(a!) x, Tensor kept) -> ()")


def expect_alike(layer: torch.Tensor, **others: tuple[torch.Tensor, torch.Size]) -> None:
    """Contiguous tensors, of the layer's dtype but for masks, and of the shapes that go with it."""
    for name, (tensor, shape) in {"layer": (layer, layer.shape), **others}.items():
        checks.expect_layout(OP, **{name: (tensor, shape, torch.bool if name == "kept" else layer.dtype)})


def weighted_native(layer, bias, shares, weighted):
    tensors = layer, bias, shares, weighted
    expect_alike(
        layer,
        bias=(bias, layer.shape[1:]),
        shares=(shares, layer.shape[:2]),
        weighted=(weighted, layer.shape),
    )
    _native.weighted_layer(DTYPE_CODES[layer.dtype], *map(address, tensors), *layer.shape)


def weighted_backward_native(slopes, layer, shares, weighted, grad_shares, grad_bias):
    tensors = slopes, layer, shares, weighted, grad_shares, grad_bias
    rows, whole = layer.shape[:2], layer.shape
    expect_alike(
        layer, slopes=(slopes, whole), shares=(shares, rows), weighted=(weighted, whole),
        grad_shares=(grad_shares, rows), grad_bias=(grad_bias, whole[1:]),
    )  # fmt: skip
    _native.weighted_layer_backward(DTYPE_CODES[layer.dtype], *map(address, tensors), *layer.shape)


def dropped_native(layer, kept):
    expect_alike(layer, kept=(kept, layer.shape))
    _native.dropped_layer(DTYPE_CODES[layer.dtype], address(layer), address(kept), layer.numel())


def kept_native(x, kept):
    expect_alike(x, kept=(kept, x.shape))
    _native.keep_where(DTYPE_CODES[x.dtype], address(x), address(kept), x.numel())


NATIVE = {
    "weighted": weighted_native,
    "weighted_backward": weighted_backward_native,
    "dropped": dropped_native,
    "kept": kept_native,
}
REFERENCE = {
    "weighted": reference.weighted_layer,
    "weighted_backward": reference.weighted_layer_backward,
    "dropped": reference.dropped_layer,
    "kept": reference.keep_where,
}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"reference": REFERENCE})
