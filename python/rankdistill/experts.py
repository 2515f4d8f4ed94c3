"""Trainable parts that several methods share: experts, and what routes to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rankdistill.functional import expert_routing
from rankdistill.functional.latent import routed, widened
from rankdistill.ops.routed_experts import row_blocks

ROW_BLOCK = 1024  # rows of a projection with dropout whose hidden layers are in cache


def linear_parameters(
    count: int, rows: int, columns: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Weights [count, rows, columns] and biases [count, rows] as torch.nn.Linear draws them."""
    bound = 1 / math.sqrt(columns) if columns else 0.0
    draw = lambda *shape: (2 * torch.rand(shape, generator=generator) - 1) * bound
    return draw(count, rows, columns), draw(count, rows)


class Experts(nn.Module):
    """M two-layer networks from a student's width to a teacher's.

    Args:
        n_experts: M.
        student_width, teacher_width: D_s and D_t.
        hidden_width: H; None: ⌊(D_t + D_s)/2⌋, or ⌊D_s/2⌋ between equal widths.
        seed: of the initial values, those of torch.nn.Linear.
    """

    def __init__(
        self,
        n_experts: int,
        student_width: int,
        teacher_width: int,
        hidden_width: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("n_experts", n_experts),
            ("student_width", student_width),
            ("teacher_width", teacher_width),
        ):
            if value < 1:
                raise ValueError(f"Experts: expected {name} of 1 or more; got {value}")
        if hidden_width is None:
            hidden_width = (teacher_width + student_width) // 2
            if teacher_width == student_width:
                hidden_width = max(student_width // 2, 1)
        generator = torch.Generator().manual_seed(seed)
        into = linear_parameters(n_experts, hidden_width, student_width, generator)
        out = linear_parameters(n_experts, teacher_width, hidden_width, generator)
        self.weight_in, self.bias_in = map(nn.Parameter, into)
        self.weight_out, self.bias_out = map(nn.Parameter, out)

    @property
    def n_experts(self) -> int:
        return self.weight_in.shape[0]

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W1, b1, W2, b2, as `functional.distillation_experts` takes them."""
        return self.weight_in, self.bias_in, self.weight_out, self.bias_out

    def forward(self, student: Tensor, routing: Tensor) -> Tensor:
        """[B, D_t] of students [B, D_s] and their shares of the experts [B, M]."""
        return routed(student, routing, self.parts())


def mean_with_dropout(
    experts: Experts, x: Tensor, kept_in: Tensor, kept_hidden: Tensor, share_dropped: float
) -> Tensor:
    """[n, D_t] the mean of all experts of x [n, D_s], each with dropout of its own before either linear map.

    kept_in [M, n, D_s] and kept_hidden [M, n, H], bool: what is kept, to be divided by 1 − share_dropped. Between forward and
    backward nothing is kept but these: hidden layers are made again, block by block, which is a tenth of the products.
    """
    scale = 1 / max(1 - share_dropped, 1e-12)
    with torch.autocast(x.device.type, enabled=False):
        x, *parts = widened(x, *experts.parts())
        return _MeanWithDropout.apply(x, kept_in, kept_hidden, scale, *parts)


class _MeanWithDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kept_in, kept_hidden, scale, weight_in, bias_in, weight_out, bias_out):
        ctx.save_for_backward(x, kept_in, kept_hidden, weight_in, bias_in, weight_out)
        ctx.scale, M = scale, len(weight_in)
        out = bias_out.mean(0).expand(len(x), -1).clone()
        for rows in row_blocks(x, weight_in.shape[1], ROW_BLOCK):
            for m in range(M):
                _, hidden = _layers(
                    x[rows], kept_in[m, rows], kept_hidden[m, rows], scale, weight_in[m], bias_in[m]
                )
                out[rows].addmm_(hidden, weight_out[m].t(), alpha=scale / M)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        with torch.autocast(grad.device.type, enabled=False):
            return _MeanWithDropout.gradients(ctx, grad)

    @staticmethod
    def gradients(ctx, grad):
        x, kept_in, kept_hidden, weight_in, bias_in, weight_out = ctx.saved_tensors
        M, scale = len(weight_in), ctx.scale
        grad = grad.contiguous()
        grad_x, grad_in, grad_bias, grad_out = (
            torch.zeros_like(t) for t in (x, weight_in, bias_in, weight_out)
        )
        for rows in row_blocks(x, weight_in.shape[1], ROW_BLOCK):
            for m in range(M):
                kept = kept_in[m, rows]
                shown, hidden = _layers(x[rows], kept, kept_hidden[m, rows], scale, weight_in[m], bias_in[m])
                grad_out[m].addmm_(grad[rows].t(), hidden, alpha=scale / M)
                before = torch.mm(grad[rows], weight_out[m]).mul_(scale / M)
                before.masked_fill_(hidden <= 0, 0)  # dropped, or cut by relu
                grad_in[m].addmm_(before.t(), shown, alpha=scale)
                grad_bias[m] += before.sum(0)
                grad_x[rows] += torch.mm(before, weight_in[m]).mul_(kept).mul_(scale)
        grad_bias_out = (grad.sum(0) / M).expand(M, -1)
        return grad_x, None, None, None, grad_in, grad_bias, grad_out, grad_bias_out


def _layers(x, kept_in, kept_hidden, scale, weight_in, bias_in) -> tuple[Tensor, Tensor]:
    """What one expert is shown of rows, and its hidden layer, not yet scaled."""
    shown = x * kept_in
    hidden = torch.addmm(bias_in, shown, weight_in.t(), alpha=scale).relu_()
    return shown, hidden.mul_(kept_hidden)


class SelectedExperts(nn.Module):
    """Experts, and the selector that routes to them by the teacher's vector."""

    def __init__(self, n_experts: int, student_width: int, teacher_width: int, seed: int = 0) -> None:
        super().__init__()
        self.experts = Experts(n_experts, student_width, teacher_width, seed=seed)
        selector = linear_parameters(1, n_experts, teacher_width, torch.Generator().manual_seed(seed + 1))
        self.weight, self.bias = (nn.Parameter(part[0]) for part in selector)

    def logits(self, teacher: Tensor) -> Tensor:
        """[B, M] of teachers [B, D_t]."""
        return nn.functional.linear(teacher.to(self.weight.dtype), self.weight, self.bias)

    def routing(self, teacher: Tensor, noise: Tensor, temperature: float) -> Tensor:
        return expert_routing(self.logits(teacher), noise, temperature)
