"""Small two-layer networks, and for each row a mixture of them or one of them."""

from __future__ import annotations

import torch
from torch import Tensor

import rankdistill.ops.hidden_layer  # noqa: F401 (registers what the layers go through)
from rankdistill.ops import checks
from rankdistill.ops.native import accumulator_dtype
from rankdistill.ops.registration import LIBRARY, WAITS, call, differentiate, implement, no_double_backward
from rankdistill.reference import routed_experts as reference

OP = "routed_experts"
ROW_BLOCK = 256  # rows whose hidden layers are in cache together
LAYERS = torch.ops.rankdistill
DEVICE_BYTES = 256 << 20  # of hidden layers at a time on a device, where a block costs launches
ARGUMENTS = "Tensor x, Tensor routing, Tensor weight_in, Tensor bias_in, Tensor weight_out, Tensor bias_out"

LIBRARY.define(f"{OP}_forward({ARGUMENTS}) -> (Tensor, Tensor)", tags=WAITS)
LIBRARY.define(
    f"{OP}_backward(Tensor grad, {ARGUMENTS}, Tensor hidden)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=WAITS,
)


@torch.library.register_fake(f"rankdistill::{OP}_forward", lib=LIBRARY)
def _(x, routing, weight_in, bias_in, weight_out, bias_out):
    wide, (M, H, _) = accumulator_dtype(x.dtype), weight_in.shape
    width = M * H if routing.is_floating_point() else H
    return (
        x.new_empty((x.shape[0], weight_out.shape[1]), dtype=wide),
        x.new_empty((x.shape[0], width), dtype=wide),
    )


@torch.library.register_fake(f"rankdistill::{OP}_backward", lib=LIBRARY)
def _(grad, x, routing, weight_in, bias_in, weight_out, bias_out, hidden):
    if routing.is_floating_point():
        grad_routing = routing.new_empty(routing.shape)
    else:
        grad_routing = hidden.new_empty((0, weight_in.shape[0]))
    parameters = weight_in, bias_in, weight_out, bias_out
    return x.new_empty(x.shape), grad_routing, *(p.new_empty(p.shape) for p in parameters)


def forward_fused(x, routing, weight_in, bias_in, weight_out, bias_out):
    wide = accumulator_dtype(x.dtype)
    x, *parameters = (t.to(wide).contiguous() for t in (x, weight_in, bias_in, weight_out, bias_out))
    if routing.is_floating_point():
        return mixed(x, routing.to(wide).contiguous(), *parameters)
    return chosen(x, routing, *parameters)


def row_blocks(rows: Tensor, hidden_width: int) -> list[slice]:
    """Stretches of rows that are worked on together."""
    at_once = ROW_BLOCK
    if rows.device.type != "cpu":
        at_once = max(1, DEVICE_BYTES // max(1, hidden_width * rows.element_size()))
    return [slice(start, start + at_once) for start in range(0, len(rows), at_once)]


def mixed(x, shares, weight_in, bias_in, weight_out, bias_out):
    """Two products for all experts together: neither a [B, D_out, M] tensor nor a loop over experts."""
    B, (M, H) = len(x), bias_in.shape
    into, back = weight_in.flatten(0, 1).t(), weight_out.transpose(0, 1).flatten(1)
    hidden, out = x.new_empty((B, M, H)), shares @ bias_out
    blocks = row_blocks(x, M * H)
    buffer = x.new_empty((len(hidden[blocks[0]]) if blocks else 0, M, H))
    for rows in blocks:
        layer = hidden[rows]
        weighted = buffer[: len(layer)]
        torch.mm(x[rows], into, out=layer.flatten(1))
        LAYERS.hidden_layer_weighted(layer, bias_in, shares[rows], weighted)
        out[rows].addmm_(weighted.flatten(1), back.t())
    return out, hidden.flatten(1)


def by_expert(expert_ids: Tensor, M: int) -> tuple[Tensor, list[tuple[int, slice]]]:
    """The rows' order by expert, and (expert, its rows in that order) of each expert that has any."""
    if expert_ids.device.type == "cpu":
        checks.check_indices(OP, "routing", expert_ids.contiguous(), 0, M)
    order = torch.argsort(expert_ids, stable=True)
    parts, start = [], 0
    for m, count in enumerate(torch.bincount(expert_ids, minlength=M).tolist()):
        if count:
            parts.append((m, slice(start, start + count)))
        start += count
    return order, parts


def chosen(x, expert_ids, weight_in, bias_in, weight_out, bias_out):
    """Rows sorted by expert, two products per expert that has any."""
    M, H, _ = weight_in.shape
    order, parts = by_expert(expert_ids, M)
    rows = x[order]
    hidden, made = x.new_empty((len(x), H)), x.new_empty((len(x), weight_out.shape[1]))
    for m, part in parts:
        torch.addmm(bias_in[m], rows[part], weight_in[m].t(), out=hidden[part])
        torch.addmm(bias_out[m], hidden[part].relu_(), weight_out[m].t(), out=made[part])
    out = torch.empty_like(made)
    out[order] = made
    return out, hidden  # hidden by expert: only the backward reads it, and it sorts alike


def backward_fused(grad, x, routing, weight_in, bias_in, weight_out, bias_out, hidden):
    given = x, weight_in, bias_in, weight_out, bias_out
    grad, x, w, _, v, c = (t.to(hidden.dtype).contiguous() for t in (grad, *given))
    if routing.is_floating_point():
        shares = routing.to(hidden.dtype).contiguous()
        grads = mixed_backward(grad, x, shares, w, v, c, hidden)
    else:
        grads = chosen_backward(grad, x, routing, w, v, hidden)
    of_routing = routing.dtype if routing.is_floating_point() else hidden.dtype
    dtypes = given[0].dtype, of_routing, *(t.dtype for t in given[1:])
    return tuple(g.to(dtype) for g, dtype in zip(grads, dtypes))


def mixed_backward(grad, x, shares, weight_in, weight_out, bias_out, hidden):
    D, (M, H, _), D_out = x.shape[1], weight_in.shape, grad.shape[1]
    into, back = weight_in.flatten(0, 1), weight_out.transpose(0, 1).flatten(1)
    grad_shares, grad_x = grad @ bias_out.t(), torch.empty_like(x)
    grad_in, grad_out = x.new_zeros((M * H, D)), x.new_zeros((D_out, M * H))
    grad_bias = x.new_zeros((M, H))
    blocks = row_blocks(x, M * H)
    first, second = (x.new_empty((len(hidden[blocks[0]]) if blocks else 0, M, H)) for _ in range(2))
    for rows in blocks:
        layer = hidden[rows].unflatten(1, (M, H))
        slopes, weighted = first[: len(layer)], second[: len(layer)]
        torch.mm(grad[rows], back, out=slopes.flatten(1))
        LAYERS.hidden_layer_weighted_backward(
            slopes, layer, shares[rows], weighted, grad_shares[rows], grad_bias
        )
        grad_out.addmm_(grad[rows].t(), weighted.flatten(1))
        grad_in.addmm_(slopes.flatten(1).t(), x[rows])
        torch.mm(slopes.flatten(1), into, out=grad_x[rows])
    return (
        grad_x,
        grad_shares,
        grad_in.unflatten(0, (M, H)),
        grad_bias,
        grad_out.unflatten(1, (M, H)).transpose(0, 1).contiguous(),
        shares.t() @ grad,
    )


def chosen_backward(grad, x, expert_ids, weight_in, weight_out, hidden):
    M = weight_in.shape[0]
    order, parts = by_expert(expert_ids, M)
    rows, grad = x[order], grad[order]
    grad_in, grad_out = torch.zeros_like(weight_in), torch.zeros_like(weight_out)
    grad_bias_in, grad_bias_out = grad_in.new_zeros(grad_in.shape[:2]), grad_in.new_zeros(grad_out.shape[:2])
    grad_rows = torch.empty_like(rows)
    for m, part in parts:
        before = (grad[part] @ weight_out[m]).masked_fill_(hidden[part] <= 0, 0)
        torch.mm(grad[part].t(), hidden[part], out=grad_out[m])
        torch.sum(grad[part], 0, out=grad_bias_out[m])
        torch.mm(before.t(), rows[part], out=grad_in[m])
        torch.sum(before, 0, out=grad_bias_in[m])
        torch.mm(before, weight_in[m], out=grad_rows[part])
    grad_x = torch.empty_like(grad_rows)
    grad_x[order] = grad_rows
    return grad_x, grad_x.new_zeros((0, M)), grad_in, grad_bias_in, grad_out, grad_bias_out


FUSED = {"forward": forward_fused, "backward": backward_fused}
REFERENCE = {"forward": reference.routed_experts_forward, "backward": reference.routed_experts_backward}
implement(OP, "CPU", {"fused": FUSED, "reference": REFERENCE})
implement(OP, "CUDA", {"fused": FUSED, "reference": REFERENCE})


def _setup(ctx, inputs, output):
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx, grad, _):
    if grad is None:
        return (None,) * 6
    saved = ctx.saved_tensors  # torch.utils.checkpoint hands them out once
    grads = list(call(f"{OP}_backward", grad, *saved))
    if not saved[1].is_floating_point():
        grads[1] = None
    return tuple(grads)


differentiate(f"{OP}_forward", _backward, _setup)
torch.library.register_autograd(f"rankdistill::{OP}_backward", no_double_backward(OP), lib=LIBRARY)


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
        Worked in float32 (float64 for float64 x) by torch's matrix products. Between forward and backward one hidden
        layer is kept, that of the cost below.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices.
        IndexError: an expert that is none (CPU).

    Cost:
        By shares O(B·M·H·(D + D_out)) time and O(B·M·H) memory, on CUDA up to 512 MiB besides; by ids O(B·H·(D + D_out)) and O(B·(H + D_out)), and
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
    shares = isinstance(routing, torch.Tensor) and routing.is_floating_point()
    checks.expect_tensor(
        OP, "routing", routing, 2 if shares else 1, checks.FLOATS if shares else (torch.int64,)
    )
    checks.expect(routing.device == x.device, OP, f"routing on the device of x ({x.device})", routing)
    if shares:
        checks.expect(tuple(routing.shape) == (B, M), OP, f"routing of shape {[B, M]}", routing)
    else:
        checks.expect(routing.shape[0] == B, OP, f"routing with {B} entries, as x has rows", routing)
    checks.expect_no_forward_ad(OP, x, routing, weight_in, bias_in, weight_out, bias_out)
    return call(f"{OP}_forward", x, routing, weight_in, bias_in, weight_out, bias_out)[0]
