"""Pairs of positions of every user's list, as an epoch draws them, against torch and against a loop over users."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import Options, Shape, Work, run
from benchmarks.sampling_laws import expect_shares
from rankdistill import pair_sample
from rankdistill.functional import position_weights
from rankdistill.reference.pair_sample import pair_sample as reference

SHAPES = [
    Shape(
        "CD on CiteULike, tournaments", {"R": 5_219, "longest": 3_000, "K": 50, "T": 60_000, "distinct": 0}
    ),
    Shape("UnKD on CiteULike, a group", {"R": 5_219, "longest": 400, "K": 30, "T": 20, "distinct": 1}),
]


def prepare(shape: Shape) -> tuple:
    R, longest = shape["R"], shape["longest"]
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(longest // 2, longest + 1, (R,), generator=generator)
    return torch.arange(R), lengths, shape["K"], float(shape["T"]), bool(shape["distinct"])


def ours(users, lengths, K, temperature, distinct):
    return pair_sample(users, lengths, K, temperature, distinct, seed=1)


def same_draws(users, lengths, K, temperature, distinct):
    return reference(users, None, lengths, K, temperature, distinct, 1, 0, 0)


def better_first(draw, lengths, K, distinct):
    """Pairs of two independent draws of positions `draw(rows [n])`; those of one position are drawn again."""
    rows = torch.arange(len(lengths), device=lengths.device).repeat_interleave(K)
    pairs = torch.stack([draw(rows), draw(rows)], 1)
    while distinct and (again := (pairs[:, 0] == pairs[:, 1]).nonzero()[:, 0]).numel():
        pairs[again] = torch.stack([draw(rows[again]), draw(rows[again])], 1)
    return pairs.sort(1).values.view(len(lengths), K, 2)


def inverse(users, lengths, K, temperature, distinct):
    """The inverse of the law's distribution function, a closed form."""
    masses = -torch.expm1(-lengths.double() / temperature)

    def draw(rows):
        uniform = torch.rand(len(rows), dtype=torch.float64, device=rows.device)
        at = (-temperature * torch.log1p(-uniform * masses[rows])).long()
        return at.minimum(lengths[rows] - 1)

    return better_first(draw, lengths, K, distinct)


def multinomial(users, lengths, K, temperature, distinct):
    """Of all users' weights, [R, longest]: as many pairs as are sure to hold K different ones, or K."""
    longest = int(lengths.max())
    weights = position_weights(longest, temperature, torch.float64).to(lengths.device)
    weights = torch.where(torch.arange(longest, device=lengths.device) < lengths[:, None], weights, 0)
    drawn = torch.multinomial(weights, 2 * (2 * K if distinct else K), replacement=True)
    pairs = drawn.view(len(users), -1, 2).sort(2).values
    if distinct:
        order = (pairs[..., 0] == pairs[..., 1]).to(torch.int8).argsort(dim=1, stable=True)[:, :K]
        pairs = pairs.gather(1, order[..., None].expand(-1, -1, 2))
    return pairs


def numpy_rows(users, lengths, K, temperature, distinct):
    generator, out = np.random.default_rng(1), np.empty((len(users), K, 2), dtype=np.int64)
    weights = position_weights(int(lengths.max()), temperature, torch.float64).numpy()
    for row, length in enumerate(lengths.tolist()):
        shares = weights[:length] / weights[:length].sum()
        pairs = generator.choice(length, (K, 2), p=shares)
        while distinct and (again := pairs[:, 0] == pairs[:, 1]).any():
            pairs[again] = generator.choice(length, (int(again.sum()), 2), p=shares)
        out[row] = np.sort(pairs, 1)
    return torch.from_numpy(out)


def gate(shape: Shape, args: tuple, outputs: dict) -> None:
    """How often every position is the better one, and the worse one, of the stated law in closed form."""
    _, lengths, K, temperature, distinct = (a.cpu() if isinstance(a, torch.Tensor) else a for a in args)
    longest, trials = shape["longest"], shape["R"] * K
    weights = position_weights(longest, temperature, torch.float64).expand(shape["R"], longest)
    weights = weights.masked_fill(torch.arange(longest) >= lengths[:, None], 0)
    weights = weights / weights.sum(1, keepdim=True)
    before = weights.cumsum(1) - weights
    laws = [weights * (1 - before - weights).clamp_min(0), weights * before]
    laws = [law / law.sum(1, keepdim=True) if distinct else 2 * law + weights**2 for law in laws]
    for name, pairs in outputs.items():
        assert pairs.shape == (shape["R"], K, 2), name
        pairs = pairs.cpu()
        if distinct:
            assert (pairs[..., 0] < pairs[..., 1]).all(), f"{name}: a position twice"
        for part, law in zip(pairs.unbind(2), laws, strict=True):
            expect_shares(name, torch.bincount(part.flatten(), minlength=longest), law.mean(0), trials)
    assert torch.equal(outputs["rankdistill"], outputs["the same draws in torch"])


def work(shape: Shape) -> Work:
    return Work(bytes=8.0 * shape["R"] * (2 + 2 * shape["K"]))


def main(options: Options) -> None:
    variants = {
        "rankdistill": ours,
        "the same draws in torch": same_draws,
        "torch, closed form": inverse,
        "torch.multinomial": multinomial,
        "numpy, user by user": numpy_rows,
    }
    run("pair_sample", SHAPES, prepare, variants, gate, work, options)
