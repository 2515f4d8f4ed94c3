"""Trainable parts that several methods share: experts, and what routes to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import rankdistill.ops.hidden_layer  # noqa: F401 (registers what the layers go through)
from rankdistill.functional import expert_routing
from rankdistill.functional.latent import routed
from rankdistill.functional.reduction import widened

LAYERS = torch.ops.rankdistill


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


def filtered_mean(
    experts: Experts,
    x: Tensor,
    matrix: Tensor,
    kept: tuple[Tensor, Tensor] | None = None,
    share_dropped: float = 0.0,
) -> Tensor:
    """[n, D_t] of a matrix [n, m] (torch.sparse_csr) times the mean of all experts of x [m, D_s].

    The matrix goes before the second linear map, as (F h) W = F (h W): that map, nine tenths of the products, then has the n rows
    of the matrix for the m that it touches.

    kept: bool [M, m, D_s] and [M, m, H], dropout of each expert's own before either linear map: what stays, to be divided by
    1 − share_dropped; the second is written over. One expert's hidden layer exists at a time; the backward needs to know
    where it was above 0.
    """
    scale = 1 / max(1 - share_dropped, 1e-12)
    with torch.autocast(x.device.type, enabled=False):
        x, *parts = widened(x, *experts.parts())
        return _FilteredMean.apply(x, matrix.to(x.dtype), *(kept or (None, None)), scale, *parts)


class _FilteredMean(torch.autograd.Function):
    """Biases are weights of a column of ones, which costs less than to spread them over m rows first."""

    @staticmethod
    def forward(ctx, x, matrix, kept_in, kept_hidden, scale, weight_in, bias_in, weight_out, bias_out):
        M, H, _ = weight_in.shape
        into = torch.cat([weight_in * scale, bias_in[:, :, None]], 2)
        shown = torch.cat([x, x.new_ones((len(x), 1))], 1)
        # Where the hidden layer is above 0, once the networks have run.
        above = x.new_ones((M, len(x), H), dtype=torch.bool) if kept_hidden is None else kept_hidden
        gathered = x.new_zeros((M, len(matrix), H))
        row_sums = torch.mm(matrix, shown[:, -1:])
        out, hidden = row_sums * bias_out.mean(0), x.new_empty((len(x), H))
        for m in range(M):
            torch.mm(_shown(shown, kept_in, m), into[m].t(), out=hidden)
            LAYERS.hidden_layer_dropped(hidden, above[m])
            gathered[m].addmm_(matrix, hidden, beta=0)  # torch.mm of a sparse matrix copies what it made
            out.addmm_(gathered[m], weight_out[m].t(), alpha=scale / M)
        ctx.save_for_backward(shown, matrix, kept_in, above, into, weight_out, gathered, row_sums)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        with torch.autocast(grad.device.type, enabled=False):
            return _FilteredMean.gradients(ctx, grad)

    @staticmethod
    def gradients(ctx, grad):
        shown, matrix, kept_in, above, into, weight_out, gathered, row_sums = ctx.saved_tensors
        M, scale = len(into), ctx.scale
        grad, transposed = grad.contiguous(), matrix.t().to_sparse_csr()
        grad_into, grad_out = torch.empty_like(into), torch.empty_like(weight_out)
        grad_shown, before = torch.zeros_like(shown), shown.new_zeros(above.shape[1:])
        for m in range(M):
            torch.mm(grad.t(), gathered[m], out=grad_out[m]).mul_(scale / M)
            towards = torch.mm(grad, weight_out[m])
            before.addmm_(transposed, towards, beta=0, alpha=scale / M)
            LAYERS.hidden_layer_kept(before, above[m])
            torch.mm(before.t(), _shown(shown, kept_in, m), out=grad_into[m])
            towards = torch.mm(before, into[m])
            if kept_in is not None:
                towards[:, :-1].mul_(kept_in[m])
            grad_shown += towards
        grad_in, grad_bias = grad_into[:, :, :-1] * scale, grad_into[:, :, -1]
        grad_bias_out = (row_sums.t() @ grad / M).expand(M, -1)
        return grad_shown[:, :-1], None, None, None, None, grad_in, grad_bias, grad_out, grad_bias_out


def _shown(x: Tensor, kept_in: Tensor | None, m: int) -> Tensor:
    """What expert m is shown of x and a column of ones, which no dropout meets."""
    return x if kept_in is None else torch.cat([x[:, :-1] * kept_in[m], x[:, -1:]], 1)


class SelectedExperts(nn.Module):
    """Experts, and the selector that routes to them by the teacher's vector."""

    def __init__(
        self,
        n_experts: int,
        student_width: int,
        teacher_width: int,
        hidden_width: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.experts = Experts(n_experts, student_width, teacher_width, hidden_width, seed)
        selector = linear_parameters(1, n_experts, teacher_width, torch.Generator().manual_seed(seed + 1))
        self.weight, self.bias = (nn.Parameter(part[0]) for part in selector)

    def logits(self, teacher: Tensor) -> Tensor:
        """[B, M] of teachers [B, D_t], in the selector's precision under autocast too: a rounding would choose other experts."""
        with torch.autocast(teacher.device.type, enabled=False):
            return nn.functional.linear(teacher.to(self.weight.dtype), self.weight, self.bias)

    def routing(self, teacher: Tensor, noise: Tensor, temperature: float) -> Tensor:
        return expert_routing(self.logits(teacher), noise, temperature)
