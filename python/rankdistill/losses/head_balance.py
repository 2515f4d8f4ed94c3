"""Weights of several objectives, moved so that none outweighs the others in the shared vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rankdistill import functional

LEAST = 0.01  # of a weight
LEAST_OF_REFERENCE = 1e-3  # a loss below so much of the one before is no reference
ADAM = (0.9, 0.999, 1e-8)


class HeadBalance(nn.Module):
    """H positive weights of sum H and their own Adam, as GradNorm has them; all of it in `state_dict`.

    Args:
        n_heads: H.
        learning_rate: of the weights.
        asymmetry: of `functional.balanced_gradient_norms`.
        reference_until: losses are relative to those of the last batch up to this epoch; one of next to nothing, as a
            hinge's over few pairs, is passed over. Until there is one it is 1.
    """

    def __init__(self, n_heads: int, learning_rate: float, asymmetry: float, reference_until: int) -> None:
        super().__init__()
        self.learning_rate, self.asymmetry, self.reference_until = learning_rate, asymmetry, reference_until
        for name, value in (("weights", 1.0), ("reference", 1.0), ("first", 0.0), ("second", 0.0)):
            self.register_buffer(name, torch.full((n_heads,), value, dtype=torch.float64))
        self.register_buffer("steps", torch.tensor(0))

    @torch.no_grad()
    def step(self, epoch: int, losses: Tensor, norms: Tensor, slopes: Tensor) -> None:
        """One step on Σ_h |norms_h − targets_h|.

        losses [H]; norms [H], of the weighted gradients, and their derivatives by the weights, slopes [H].
        """
        losses, norms, slopes = (part.to(self.weights) for part in (losses, norms, slopes))
        if epoch <= self.reference_until:
            self.reference.copy_(
                torch.where(losses > LEAST_OF_REFERENCE * self.reference, losses, self.reference)
            )
        relative = (losses / self.reference).clamp_min(1e-12)
        targets = functional.balanced_gradient_norms(norms, relative, self.asymmetry)
        gradient = (norms - targets).sign() * slopes
        self.steps += 1
        fast, slow, eps = ADAM
        self.first.lerp_(gradient, 1 - fast)
        self.second.lerp_(gradient.square(), 1 - slow)
        mean = self.first / (1 - fast ** int(self.steps))
        spread = (self.second / (1 - slow ** int(self.steps))).sqrt()
        moved = self.weights - self.learning_rate * mean / (spread + eps)
        self.weights.copy_((len(moved) * moved / moved.sum()).clamp_min(LEAST))


class HeadGradients(NamedTuple):
    """What walks of all heads' graphs give: of the shared vectors per head, norms [H] and their derivatives by the weights,
    slopes [H]; of the whole loss, its gradients by every input (None where there is none)."""

    norms: Tensor
    slopes: Tensor
    whole: list[Tensor | None]


def head_gradients(
    inputs: list[Tensor],
    own: list[Tensor],
    scores: list[Tensor],
    shared: Tensor | None,
    weights: Tensor,
    factor: float,
    bounds: tuple[float, float],
) -> HeadGradients:
    """Of weights_h·own_h + factor·shared_h; the norm is ‖∂/∂inputs[0]‖ + ½‖∂/∂inputs[1]‖.

    `shared` is None or the sum over the first heads of what each makes of its `scores`, times its weight clipped to bounds.
    The graphs are used up.
    """
    # Each head's graph is walked for itself: through a stack of all, every walk would pass through every head.
    slopes = () if shared is None else torch.autograd.grad(shared, scores)
    found, whole = [], [None] * len(inputs)
    for h, weight in enumerate(weights):
        clipped = weight.clamp(*bounds)
        rises = factor * (clipped == weight) / clipped  # of the second term, by the weight
        more = h < len(slopes)
        mine = torch.autograd.grad(own[h], inputs, allow_unused=True, retain_graph=more)
        theirs = [None] * len(inputs)
        if more:
            theirs = torch.autograd.grad(scores[h], inputs, slopes[h], allow_unused=True)
        sums = [joined(*two, weight, factor) for two in zip(mine, theirs)]
        grow = [joined(*two, 1.0, rises) for two in zip(mine[:2], theirs[:2])]
        parts = [norm_and_slope(*two, weight) for two in zip(sums[:2], grow)]
        found.append([first + second / 2 for first, second in zip(*parts)])
        for at, part in enumerate(sums):
            if part is not None:
                whole[at] = part if whole[at] is None else whole[at].add_(part)
    return HeadGradients(*(torch.stack(part) for part in zip(*found)), whole)


class WithGradients(torch.autograd.Function):
    """A loss whose gradients by its inputs are known already: apply(loss, gradients, *inputs)."""

    @staticmethod
    def forward(ctx, loss, gradients, *inputs):
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx, grad_loss):
        return None, None, *(None if known is None else grad_loss * known for known in ctx.saved_tensors)


def joined(own: Tensor | None, shared: Tensor | None, by_own: Tensor, by_shared: Tensor) -> Tensor | None:
    """by_own·own + by_shared·shared of those that there are."""
    parts = [by * part for by, part in ((by_own, own), (by_shared, shared)) if part is not None]
    return sum(parts[1:], parts[0]) if parts else None


def norm_and_slope(whole: Tensor | None, rise: Tensor | None, weight: Tensor) -> tuple[Tensor, Tensor]:
    """‖whole‖ and its derivative by the weight, by which `whole` grows as `rise`."""
    if whole is None:
        return weight * 0, weight * 0
    norm = whole.norm()
    return norm, (whole * rise).sum() / norm.clamp_min(torch.finfo(norm.dtype).tiny)
