"""Small two-layer networks, and for each row a mixture of them or one of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from rankdistill.ops import checks
from rankdistill.ops.native import accumulator_dtype

OP = "routed_experts"


def mixed(x, routing, weight_in, bias_in, weight_out, bias_out):
    """Two products for all experts together: neither a [B, D_out, M] tensor nor a loop."""
    hidden = linear(x, weight_in.flatten(0, 1), bias_in.flatten()).relu()
    weighted = (hidden.unflatten(1, bias_in.shape) * routing[:, :, None]).flatten(1)
    return torch.addmm(routing @ bias_out, weighted, weight_out.transpose(1, 2).flatten(0, 1))


def chosen(x, expert_ids, weight_in, bias_in, weight_out, bias_out):
    """Rows sorted by expert, two products per expert that has any."""
    M = weight_in.shape[0]
    order = torch.argsort(expert_ids, stable=True)
    counts = torch.bincount(expert_ids, minlength=M).tolist()
    # unbind: the gradient of all experts is then one stack, not M sums of tensors of everyone's size
    parts = [
        linear(linear(rows, w, b).relu(), v, c)
        for rows, w, b, v, c in zip(
            x[order].split(counts), *(p.unbind() for p in (weight_in, bias_in, weight_out, bias_out))
        )
        if rows.shape[0]
    ]
    if not parts:
        return x.new_zeros((0, weight_out.shape[1])) + 0 * (x.sum() + weight_in.sum() + weight_out.sum())
    return torch.cat(parts)[torch.argsort(order)]


def routed_experts(
    x: Tensor, routing: Tensor, weight_in: Tensor, bias_in: Tensor, weight_out: Tensor, bias_out: Tensor
) -> Tensor:
    """A mixture of two-layer networks for each row, or the one network that a row is routed to.

    out_b = Σ_m routing_bm · (W2_m relu(W1_m x_b + b1_m) + b2_m); routing by ids: the term of expert routing_b alone

    Args:
        x: [B, D] float.
        routing: [B, M] float shares of the experts, or [B] int64 ids of experts in [0, M), which takes M times fewer
            products than shares that are one-hot.
        weight_in: [M, H, D] float, W1.
        bias_in: [M, H] float, b1.
        weight_out: [M, D_out, H] float, W2.
        bias_out: [M, D_out] float, b2.

    Returns:
        [B, D_out], float32 (float64 for float64 x).

    Contract:
        Worked in float32 (float64 for float64 x) by torch's matrix products, and differentiated by autograd, twice if
        asked.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.
        IndexError: an expert that is none (CPU).

    Cost:
        By shares O(B·M·H·(D + D_out)) time and O(B·M·H) memory; by ids O(B·H·(D + D_out)) and O(B·(H + D_out)), and
        one wait for the device, for the experts' counts.

    Source:
        Kang et al., DE-RRD, CIKM 2020, equations 1 and 2; DESIGN.md RE-6.

    Example:
        >>> relu = torch.ones(2, 1, 1), torch.zeros(2, 1), torch.tensor([[[1.0]], [[10.0]]]), torch.zeros(2, 1)
        >>> routed_experts(torch.tensor([[3.0], [-3.0]]), torch.tensor([[0.5, 0.5], [0.0, 1.0]]), *relu)
        tensor([[16.5000],
                [ 0.0000]])
        >>> routed_experts(torch.tensor([[3.0]]), torch.tensor([1]), *relu)
        tensor([[30.]])
    """
    checks.expect_tensor(OP, "x", x, 2)
    checks.expect_tensor(OP, "weight_in", weight_in, 3)
    checks.expect_tensor(OP, "weight_out", weight_out, 3)
    (B, D), (M, H, _), O = x.shape, weight_in.shape, weight_out.shape[1]
    shapes = {"weight_in": (M, H, D), "bias_in": (M, H), "weight_out": (M, O, H), "bias_out": (M, O)}
    for (name, shape), value in zip(shapes.items(), (weight_in, bias_in, weight_out, bias_out)):
        checks.expect_tensor(OP, name, value, len(shape))
        checks.expect(tuple(value.shape) == shape, OP, f"{name} of shape {list(shape)}", value)
        checks.expect(value.device == x.device, OP, f"{name} on the device of x ({x.device})", value)
    wide = accumulator_dtype(x.dtype)
    x, *parameters = (t.to(wide) for t in (x, weight_in, bias_in, weight_out, bias_out))
    checks.expect(routing.device == x.device, OP, f"routing on the device of x ({x.device})", routing)
    if routing.is_floating_point():
        checks.expect(tuple(routing.shape) == (B, M), OP, f"routing of shape {[B, M]}", routing)
        return mixed(x, routing.to(wide), *parameters)
    checks.expect_tensor(OP, "routing", routing, 1, (torch.int64,))
    checks.expect(routing.shape[0] == B, OP, f"routing with {B} entries, as x has rows", routing)
    if routing.device.type == "cpu":
        checks.check_indices(OP, "routing", routing.contiguous(), 0, M)
    return chosen(x, routing, *parameters)
