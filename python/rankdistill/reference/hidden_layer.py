"""What happens to hidden layers between matrix products, in place; M experts' layers of H numbers side by side."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_layer(layer: Tensor, bias: Tensor, shares: Tensor, weighted: Tensor) -> None:
    layer.add_(bias).relu_()
    torch.mul(layer, shares[:, :, None], out=weighted)


def weighted_layer_backward(
    slopes: Tensor, layer: Tensor, shares: Tensor, weighted: Tensor, grad_shares: Tensor, grad_bias: Tensor
) -> None:
    grad_shares += torch.mul(slopes, layer, out=weighted).sum(2)
    torch.mul(layer, shares[:, :, None], out=weighted)
    slopes.mul_(shares[:, :, None])
    torch.ops.aten.threshold_backward(slopes, layer, 0, grad_input=slopes)
    grad_bias += slopes.sum(0)


def dropped_layer(layer: Tensor, kept: Tensor) -> None:
    layer.relu_().mul_(kept)
    torch.gt(layer, 0, out=kept)


def keep_where(x: Tensor, kept: Tensor) -> None:
    x.mul_(kept)
