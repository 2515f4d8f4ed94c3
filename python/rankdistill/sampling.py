"""The draws of training, by name: which stream each uses, and how its counters are laid out.

Every draw is Philox4x32-10 at (user, position, epoch, stream): it depends on the seed and on these alone, so
neither batches, threads nor devices change it (kernels/random.h has the words).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.ops import complement_sample, gumbel_noise, pair_sample
from rankdistill.reference import philox

STREAMS = {
    "negatives": 1,
    "interesting": 2,
    "uninteresting": 3,
    "pairs": 4,
    "tournament": 5,
    "underestimated": 6,
    "overestimated": 7,
    "interesting_users": 8,
    "uninteresting_users": 9,
    "rank_estimates": 10,
    "underestimated_users": 11,
    "overestimated_users": 12,
    "user_experts": 16,
    "item_experts": 17,
    "consistency": 18,
    "teacher_negatives": 19,
    "student_negatives": 20,
    "candidates": 21,
    "user_inputs": 22,
    "item_inputs": 23,
    "user_hidden": 24,
    "item_hidden": 25,
    "user_preferences": 26,
    "item_preferences": 27,
    "swaps": 28,
}
PAIR_FORMS = ("paper", "released")
MEDIAN = -math.log(math.log(2))  # of a Gumbel variate


def within_row_positions(rows: Tensor) -> Tensor:
    """How many earlier entries share each entry's row: [n] int64, in the order given.

    Args:
        rows: [n] int64.

    Cost:
        O(n log n) time, O(n) memory.

    Example:
        >>> within_row_positions(torch.tensor([4, 7, 4, 4]))
        tensor([0, 0, 1, 2])
    """
    order = torch.argsort(rows, stable=True)
    ordered = rows[order]
    index = torch.arange(len(rows), device=rows.device)
    starts = torch.where(
        torch.cat([ordered.new_ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]]), index, 0
    )
    positions = torch.empty_like(rows)
    positions[order] = index - torch.cummax(starts, 0).values if len(rows) else index
    return positions


def role_seed(seed: int, role: str) -> int:
    """A seed of 32 bits for a part of a run, which no other part has, nor that part of a run with another seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {role}".encode(), digest_size=4).digest(), "little")


def epoch_seed(seed: int, epoch: int) -> int:
    """The seed of a torch generator for an epoch: 32 bits, since a processor's generator reads no more of it."""
    return ((seed ^ (seed >> 32)) * 0x9E3779B9 + epoch) & 0xFFFFFFFF


def sample_negatives(
    users: Tensor, positions: Tensor, exclude: CSR, n_negatives: int = 1, *, seed: int, epoch: int
) -> Tensor:
    """Items drawn uniformly from those that each interaction's user has not in `exclude`.

    Args:
        users: [n] int64, the user of each interaction, a row of `exclude`.
        positions: [n] int64, its position among the user's interactions (`within_row_positions`).
        exclude: the train items of every user.
        n_negatives: draws per interaction, without replacement among themselves.
        seed, epoch: name the draw.

    Returns:
        items [n, n_negatives] int64; -1 where a user has every item.

    Cost:
        O(n·n_negatives·log(train items)) time, no memory besides the output.
    """
    return complement_sample(
        users, exclude.n_columns, n_negatives, exclude,
        positions=positions * n_negatives, seed=seed, epoch=epoch, stream=STREAMS["negatives"],
    )  # fmt: skip


def sample_candidates(seen: CSR, users: Tensor, n_candidates: int, *, seed: int) -> Tensor:
    """Items that held-out ones are ranked among, drawn uniformly without replacement from those that a user has not.

    Args:
        seen: [U, N] all items of every user: train, validation and test.
        users: [n] int64 whose candidates are drawn.
        n_candidates: C.
        seed: names the draw.

    Returns:
        items [n, C] int64; -1 where a user has fewer unseen items.
    """
    return complement_sample(
        users, seen.n_columns, n_candidates, seen, seed=seed, stream=STREAMS["candidates"]
    )


def tournament_positions(
    users: Tensor,
    lengths: Tensor,
    n_samples: int,
    temperature: float,
    *,
    seed: int,
    epoch: int = 0,
) -> Tensor:
    """Positions of ranked lists, each the better of two draws with weights exp(−(i + 1)/temperature).

    P(i) = 2·p_i·Σ_{j>i} p_j + p_i². Draws are independent, so a position may come up again.

    Args: as `pair_sample`.

    Returns:
        positions [R, n_samples] int64; -1 where a list is empty.

    Source:
        Lee et al., CD, ICDM 2019, as released: temperature = 20 · list length.
    """
    draw = {"seed": seed, "epoch": epoch, "stream": STREAMS["tournament"]}
    return pair_sample(users, lengths, n_samples, temperature, False, **draw)[..., 0]


def within_group_pairs(
    users: Tensor,
    ranked: Tensor,
    group_of_item: Tensor,
    n_pairs: Sequence[int],
    temperature: float = 20.0,
    form: str = "paper",
    *,
    seed: int,
    epoch: int = 0,
) -> Tensor:
    """Pairs of items of one popularity group each, the one that the teacher ranks higher first.

    Within each user's list of a group, positions i < j have probability w_i·w_j / Σ_{a<b} w_a·w_b,
    w_i = exp(−(i + 1)/temperature): the law that the paper intends.

    Args:
        users: [R] int64.
        ranked: [R, K] int, the teacher's list of each user, best first; -1 for none.
        group_of_item: [N] int64 in [-1, G); items of group -1 are in no pair.
        n_pairs: G numbers, how many pairs of each group.
        temperature: of positions within a group, dimensionless, > 0.
        form: "paper", or "released": a swap through a view leaves, with probability 1/2, the better item twice.
        seed, epoch: name the draw.

    Returns:
        items [R, Σ n_pairs, 2] int64, group by group; (-1, -1) where a user's list has fewer than two items of a group.

    Raises:
        ValueError: another form.

    Cost:
        O(R·(K log K + Σ n_pairs)) time, O(R·K) memory.

    Source:
        Chen et al., UnKD, WSDM 2023, section 4.2.
    """
    if form not in PAIR_FORMS:
        known = ", ".join(PAIR_FORMS)
        raise ValueError(f"within_group_pairs: expected form as one of {known}; got {form!r}")
    G, starts = len(n_pairs), [0, *accumulate(n_pairs)]
    ranked = ranked.long()
    groups = torch.where(ranked >= 0, group_of_item[ranked.clamp_min(0)], -1)
    groups = groups.masked_fill(groups < 0, G)  # [R, K]; no group is the last
    order = torch.argsort(groups, dim=1, stable=True)
    counts = (
        torch.stack([(groups == g).sum(1) for g in range(G)], 1) if G else groups.new_zeros(len(users), 0)
    )
    firsts = counts.cumsum(1) - counts
    pairs = ranked.new_full((len(users), starts[-1], 2), -1)
    for g, (start, end) in enumerate(pairwise(starts)):
        drawn = pair_sample(
            users, counts[:, g], end - start, temperature, True, torch.full_like(users, start),
            seed=seed, epoch=epoch, stream=STREAMS["pairs"],
        )  # fmt: skip
        if ranked.shape[1]:
            columns = (firsts[:, g, None, None] + drawn.clamp_min(0)).clamp_max(ranked.shape[1] - 1)
            items = ranked.gather(1, order.gather(1, columns.flatten(1))).view(drawn.shape)
            pairs[:, start:end] = items.masked_fill(drawn < 0, -1)
    if form == "released":
        swapped = gumbel_noise(users, starts[-1], seed=seed, epoch=epoch, stream=STREAMS["swaps"]) > MEDIAN
        pairs[..., 1] = torch.where(swapped, pairs[..., 0], pairs[..., 1])
    return pairs


def ranks_among_themselves(scores: Tensor) -> Tensor:
    """The rank (0 is best) of each of a row's scores [R, K] among them; equal scores: the earlier column first."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks)


def rank_discrepancy_weights(student_ranks: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Weights of a teacher's list for `weighted_sample`: what the student ranks too low, and what too high.

    With δ = student rank − teacher rank (the column): tanh(max(sharpness·δ, 0)) and tanh(max(−sharpness·δ, 0)).
    The same bits on one device; tanh differs between devices, so draw on one where draws must agree.

    Args:
        student_ranks: [R, K] int64, 0 is best; columns in the teacher's order (`ranks_among_themselves`).
        sharpness: dimensionless, > 0.

    Returns:
        underestimated, overestimated [R, K] float32; an item that is ranked alike has weight 0 in both.

    Source:
        Lee & Kim, DCD, CIKM 2021, equations 4 to 7, as released.
    """
    delta = student_ranks - torch.arange(student_ranks.shape[1], device=student_ranks.device)
    signed = (delta.float() * sharpness).tanh()
    return signed.clamp_min(0), (-signed).clamp_min(0)


def bidirectional_weights(
    teacher_ranks: Tensor,
    student_ranks: Tensor,
    teacher_sharpness: float = 1e-4,
    student_sharpness: float = 1e-2,
) -> tuple[Tensor, Tensor]:
    """Weights of items as negatives of a teacher and a student that learn from each other, by their ranks.

    With δ = student rank − teacher rank: exp(teacher_sharpness·δ) for the teacher, over the row's largest, so that none
    overflows; tanh(max(−student_sharpness·δ, 0)) for the student, which learns from what it ranks too high.

    Args:
        teacher_ranks, student_ranks: [R, N] int64, 0 is best; -1 where an item is not ranked, which has weight 0.
        teacher_sharpness, student_sharpness: dimensionless, >= 0.

    Returns:
        weights for the teacher, and for the student, [R, N] float64. Where both rank alike, the student has none.

    Source:
        Kweon et al., Bidirectional Distillation for Top-K Recommender System, WWW 2021, as released.
    """
    none = (teacher_ranks < 0) | (student_ranks < 0)
    delta = (student_ranks - teacher_ranks).double()
    scaled = (delta * teacher_sharpness).masked_fill(none, -torch.inf)
    best = scaled.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float64).min) if delta.numel() else scaled
    return (scaled - best).exp(), (-delta * student_sharpness).clamp_min(0).tanh().masked_fill(none, 0)


def shared_position_weights(in_teachers_top: Tensor, temperature: float, most: int = 50) -> Tensor:
    """Weights of a student's list for `weighted_sample`: the more of the teacher's top stands at or behind a position.

    w_j ∝ exp((min(c_j, most) + 1)/temperature), c_j the number of the teacher's top items at positions j and behind.

    Args:
        in_teachers_top: [R, K] bool, which of the student's list, best first, are in the teacher's top.
        temperature: dimensionless, > 0.
        most: where c_j is cut.

    Returns:
        weights [R, K] float64 in (0, 1], 1 at the first position.

    Source:
        Zhu & Zhang, RCE-KD, 2025, section 4.3, as released.
    """
    behind = in_teachers_top.long().flip(1).cumsum(1).flip(1).clamp_max(most)
    fewer = (behind - behind[:, :1]).double()  # never rises along a row
    return (fewer / temperature).exp().clamp_min(torch.finfo(torch.float64).tiny)


def sample_with_replacement(
    rows: Tensor,
    weights: Tensor,
    users: Tensor,
    positions: Tensor,
    *,
    seed: int,
    epoch: Tensor | int,
    stream: int,
) -> Tensor:
    """One column per entry, each drawn anew in proportion to a row of weights.

    Weights are cut to multiples of about M·2^-50 of their row's largest and summed as integers, hence the same draws
    on every device.

    Args:
        rows: [n] int64, which row of `weights` each entry draws from.
        weights: [R, M] float32 or float64, finite and ≥ 0.
        users, positions: [n] int64, the entry's counter: a draw depends on its row of weights and these alone.
        seed, epoch, stream: name the draw; epochs may differ, [n] int64.

    Returns:
        columns [n] int64; -1 where a row's weights are all 0.

    Cost:
        O(R·M + n log M) time, 16·R·M bytes.

    Source:
        Kweon et al., BD, WWW 2021, section 3.2 (negatives by rank discrepancy).
    """
    M = weights.shape[1]
    if M == 0:
        return torch.full_like(rows, -1)
    wide = weights.double()
    # Powers of two, in two steps so that neither leaves the range.
    shift = 50 - (M - 1).bit_length() - torch.frexp(wide.amax(1, keepdim=True)).exponent.long()
    cut = (wide * power_of_two(shift >> 1) * power_of_two(shift - (shift >> 1))).long()
    totals = cut.cumsum(1)  # [R, M]
    words = philox.words(users, positions, epoch, stream, 0, seed)
    uniform = ((words[:, 0] << 20) + (words[:, 1] >> 12)).double() * 2.0**-52
    target = (uniform * totals[rows, -1].double()).long()
    low, high = torch.zeros_like(rows), torch.full_like(rows, M)
    for _ in range(M.bit_length()):  # the first column whose total is above the target
        middle = (low + high) >> 1
        above = totals[rows, middle.clamp_max(M - 1)] > target
        low, high = torch.where(above, low, middle + 1), torch.where(above, middle, high)
    return low.clamp_max(M - 1).masked_fill(totals[rows, -1] == 0, -1)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent as float64 of int64 in [-1022, 1023]."""
    return ((exponent + 1023) << 52).view(torch.float64)
