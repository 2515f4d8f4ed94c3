"""Tables and score matrices for exact top-K on a device, and what its results and error bounds are compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankdistill.ops import cuda, device_topk
from rankdistill.ops.native import DTYPE_CODES, address
from tests.case import generator, randn, widened
from tests.cases import topk_oracle

NAN, INF = float("nan"), float("inf")


def bits(scores: Tensor) -> Tensor:
    return scores.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[scores.element_size()])


def csr(mask: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([torch.zeros(1).long(), mask.sum(1).cumsum(0)]), mask.nonzero()[:, 1]


def some_excluded(B: int, N: int, share: float, seed: int = 3) -> tuple[Tensor, Tensor]:
    return csr(torch.rand(B, N, generator=generator(seed)) < share)


def assert_exact(found, expected) -> None:
    scores, indices, lengths = (t.cpu() for t in found)
    assert torch.equal(indices, expected[1])
    assert torch.equal(lengths, expected[2])
    assert torch.equal(bits(scores), bits(expected[0].to(scores.dtype)))


def check_inner_products(users, items, k, exclude=None, bias=None, device="cpu", **options) -> None:
    """device_topk's lists are the oracle's bit for bit; fp64 scores too, as both sum in index order."""
    there = lambda t: None if t is None else t.to(device)
    indptr, indices = exclude or (None, None)
    tables = (users, items, indptr, indices, bias)
    before = [None if t is None else t.clone() for t in tables]
    found = device_topk.inner_product_topk(
        there(users), there(items), k, there(indptr), there(indices), there(bias), **options
    )
    wide = None if bias is None else widened(bias)
    assert_exact(found, topk_oracle(widened(users), widened(items), k, exclude, wide, storage=users.dtype))
    for table, copy in zip(tables, before):
        assert table is None or torch.equal(table.view(torch.uint8), copy.view(torch.uint8))


def masked_oracle(scores, k, exclude=None, mask=None):
    """Scores, ids and lengths by sorting whole rows."""
    wide = scores.double()
    rankable = wide > -torch.inf
    if mask is not None:
        rankable &= ~mask
    if exclude is not None:
        rankable[torch.arange(len(scores)).repeat_interleave(exclude[0].diff()), exclude[1]] = False
    order = (~rankable).byte().sort(dim=1, stable=True).indices
    ranked = torch.where(rankable, wide, -torch.inf).gather(1, order)
    order = order.gather(1, ranked.sort(dim=1, descending=True, stable=True).indices)
    # Stable twice: -inf stands for what cannot be ranked, behind everything that can.
    lengths = rankable.sum(1).clamp(max=k)
    found = torch.arange(min(k, scores.shape[1])) < lengths[:, None]
    best = torch.full((len(scores), k), -torch.inf, dtype=scores.dtype)
    ids = torch.full((len(scores), k), -1)
    width = found.shape[1]
    best[:, :width] = scores.gather(1, order[:, :width]).masked_fill(~found, -torch.inf)
    ids[:, :width] = order[:, :width].masked_fill(~found, -1)
    return best, ids, lengths


def check_masked(scores, k, exclude=None, mask=None, device="cpu", **options) -> None:
    there = lambda t: None if t is None else t.to(device)
    indptr, indices = exclude or (None, None)
    found = device_topk.masked_topk(there(scores), k, there(indptr), there(indices), there(mask), **options)
    assert_exact(found, masked_oracle(scores, k, exclude, mask))


def attacks(N: int, D: int):
    """(name, items, whether every row can be settled by the filter)."""
    base, steps = randn(N, D, seed=1), torch.arange(N)[:, None].float()
    line = torch.ones(N, D) / math.sqrt(D)
    yield "ascending", base.abs() * (1 + steps), True
    yield "descending", base.abs() * (N - steps), True
    yield "all equal", line, False
    yield "ulps apart", line * (1 + 2.0**-23 * torch.randint(0, 9, (N, 1), generator=generator(3))), False
    giant = base.clone()
    giant[5] *= 1e15
    yield "one giant norm", giant, True
    huge = base.clone()
    huge[5] *= 1e30
    yield "a norm past the bound", huge, True
    bad = base.clone()
    bad[::500, 0] = NAN
    bad[::700, 1] = INF
    bad[::900, 1] = -INF
    yield "not finite here and there", bad, True
    yield "all NaN", base * NAN, False
    yield "subnormal", base * 1e-41, False
    yield "subnormal here and there", torch.where(steps % 50 == 0, base, base * 1e-41), False
    yield "clustered", base[torch.arange(N) % 7] + 1e-6 * randn(N, D, seed=4), False
    yield "zero", torch.zeros(N, D), False


def awkward_users(D: int) -> Tensor:
    rows = torch.cat(
        [randn(9, D, seed=5), torch.ones(1, D), -torch.ones(1, D), torch.zeros(1, D), randn(4, D, seed=6)]
    )
    rows[12, 0], rows[13, 1] = NAN, INF
    rows[14] *= 1e25
    rows[15] *= 1e-42
    return rows


def rows_of_scores(N: int, dtype: torch.dtype) -> Tensor:
    """What a selection may meet: ties, NaN, infinities, order, nothing at all."""
    scores = randn(11, N, seed=3)
    scores[1, ::7] = NAN
    scores[2] = 1.0
    scores[3] = -INF
    scores[4] = torch.arange(N)
    scores[5] = -torch.arange(N)
    scores[6, ::3] = INF
    scores[7, : N - 5] = -INF
    scores[8] = (scores[8] * 3).round() * 0.0  # zeros of both signs
    scores[9] = NAN
    scores[10] = scores[10].round()
    return scores.to(dtype)


def worst_bounds(users: Tensor, items: Tensor, bias: Tensor | None, hopper: bool) -> tuple[float, float]:
    """How far the filter's bounds from above and from below are from failing, over all pairs, relative to the margin:
    (least of bound - score, least of score - lower bound); negative is wrong. The filter must keep every pair."""
    (B, D), N, device = users.shape, items.shape[0], users.device
    image = device_topk.item_image(device_topk.prepare_items(items, bias, 32), N, D, 32)
    padded = device_topk.up_to(B, 2 * device_topk.TILE)
    zeros = lambda *size, dtype: torch.zeros(size, dtype=dtype, device=device)
    user_image = zeros(device_topk.image_bytes(padded, D), dtype=torch.uint8)
    norms, rounding = zeros(padded, dtype=torch.float32), zeros(1, dtype=torch.float32)
    states, counts = zeros(padded, dtype=torch.uint8), zeros(B, dtype=torch.int32)
    thresholds = torch.full((padded,), -torch.inf, device=device)
    survivors = zeros(B, N, 2, dtype=torch.int32)
    device_topk.launch("prepare_users", device, DTYPE_CODES[users.dtype], address(users), B, padded, D, 0, 0, 0, N, 0,
                       address(user_image), address(norms), address(rounding), address(states))  # fmt: skip
    step = cuda._cuda.TopKFilter(
        B=B, N=N, D=D, user_image=address(user_image), item_image=address(image.image), terms=address(image.terms),
        norms=address(norms), rounding=address(rounding), states=address(states), thresholds=address(thresholds),
        indptr=0, indices=0, survivors=address(survivors), counts=address(counts), capacity=N,
    )  # fmt: skip
    device_topk.launch("score_filter", device, step, hopper)
    assert (counts == N).all(), "expected every pair to pass a threshold of -inf"
    order = survivors[..., 1].long().argsort(1)
    assert torch.equal(survivors[..., 1].long().gather(1, order).cpu(), torch.arange(N).expand(B, N))
    bounds = survivors[..., 0].contiguous().view(torch.float32).gather(1, order).double().cpu()
    exact = topk_scores(users.cpu(), items.cpu(), None if bias is None else bias.cpu())
    margin, norm, _, added = image.terms.view(torch.float32).view(-1, 4)[:N].double().cpu().T
    margins = norms[:B, None].double().cpu() * (margin + rounding.double().cpu() * norm) + added
    finite = margins.isfinite()
    above, below = (bounds - exact) / margins, (exact - bounds) / margins + 2
    assert bounds[~finite].isposinf().all()
    return float(above[finite].min()), float(below[finite].min())


def topk_scores(users: Tensor, items: Tensor, bias: Tensor | None) -> Tensor:
    scores = torch.zeros(len(users), len(items), dtype=torch.float64, device=users.device)
    for d in range(users.shape[1]):
        scores += users[:, d, None].double() * items[:, d].double()
    scores = scores if bias is None else scores + bias.double()
    return scores if users.dtype == torch.float64 else scores.float().double()
