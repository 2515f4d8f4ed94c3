"""out[b] = sum over m of routing_bm · (W2_m relu(W1_m x_b + b1_m) + b2_m), expert by expert.

routing is [B, M] shares, or [B] ids of the one expert that serves a row. Always worked in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shares_of(routing: Tensor, M: int) -> Tensor:
    if routing.is_floating_point():
        return routing.double()
    return (routing[:, None] == torch.arange(M, device=routing.device)).double()


def routed_experts_forward(x, routing, weight_in, bias_in, weight_out, bias_out) -> tuple[Tensor, Tensor]:
    """The mixture, and the hidden layers [B, M·H]; by ids, each row's own [B, H], rows sorted by expert."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    M, H, _ = weight_in.shape
    shares = shares_of(routing, M)
    x, weight_in, bias_in, weight_out, bias_out = (
        t.double() for t in (x, weight_in, bias_in, weight_out, bias_out)
    )
    out, hidden = x.new_zeros((x.shape[0], weight_out.shape[1])), []
    for m in range(M):
        hidden.append(torch.relu(x @ weight_in[m].t() + bias_in[m]))
        out = out + shares[:, m, None] * (hidden[m] @ weight_out[m].t() + bias_out[m])
    layers = torch.stack(hidden, 1) if hidden else x.new_zeros((x.shape[0], 0, H))
    if not routing.is_floating_point():
        layers = (layers * shares[:, :, None]).sum(1)[torch.argsort(routing, stable=True)]
    return out.to(wide), layers.flatten(1).to(wide)


def routed_experts_backward(
    grad, x, routing, weight_in, bias_in, weight_out, bias_out, hidden
) -> tuple[Tensor, ...]:
    """Gradients by x, routing (of no rows for ids), W1, b1, W2 and b2. Works the hidden layers out again."""
    M = weight_in.shape[0]
    shares = shares_of(routing, M)
    given = x, weight_in, bias_in, weight_out, bias_out
    grad, x, weight_in, bias_in, weight_out, bias_out = (t.double() for t in (grad, *given))
    grad_x, grads = (
        torch.zeros_like(x),
        [torch.zeros_like(t) for t in (weight_in, bias_in, weight_out, bias_out)],
    )
    grad_shares = torch.zeros_like(shares)
    for m in range(M):
        layer = torch.relu(x @ weight_in[m].t() + bias_in[m])
        shared = shares[:, m, None] * grad
        grad_shares[:, m] = (grad * (layer @ weight_out[m].t() + bias_out[m])).sum(1)
        before = (shared @ weight_out[m]) * (layer > 0)
        grads[0][m], grads[1][m] = before.t() @ x, before.sum(0)
        grads[2][m], grads[3][m] = shared.t() @ layer, shared.sum(0)
        grad_x += before @ weight_in[m]
    floats = routing.is_floating_point()
    grad_routing = grad_shares.to(routing.dtype) if floats else grad_shares[:0].to(hidden.dtype)
    return (
        grad_x.to(given[0].dtype),
        grad_routing,
        *(g.to(t.dtype) for g, t in zip(grads, given[1:])),
    )
