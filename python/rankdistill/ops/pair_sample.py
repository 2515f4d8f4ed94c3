"""Sampling of pairs of positions in a ranked list, the better likelier and first."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.cuda import cuda_or
from rankdistill.ops.native import _native, address, contiguous, native_or
from rankdistill.ops.registration import LIBRARY, implement
from rankdistill.reference import pair_sample as reference

OP = "pair_sample"

LIBRARY.define(
    f"{OP}(Tensor users, Tensor? positions, Tensor lengths, SymInt n_samples, float temperature, bool distinct,"
    " int seed, int epoch, int stream) -> Tensor"
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(users, positions, lengths, n_samples, temperature, distinct, seed, epoch, stream):
    return users.new_empty((users.shape[0], n_samples, 2))


def check_rows(users: Tensor, positions: Tensor | None, lengths: Tensor) -> None:
    checks.check_indices(OP, "users", users, 0, 2**32)
    checks.check_indices(OP, "lengths", lengths, 0, 2**31)
    if positions is not None:
        checks.check_indices(OP, "positions", positions, 0, 2**32)


def sample_reference(users, positions, lengths, *draw):
    if users.device.type == "cpu":
        check_rows(*contiguous(users, positions, lengths))
    return reference.pair_sample(users, positions, lengths, *draw)


def sample_native(users, positions, lengths, n_samples, temperature, distinct, seed, epoch, stream):
    users, positions, lengths = contiguous(users, positions, lengths)
    check_rows(users, positions, lengths)
    pairs = torch.empty((users.shape[0], n_samples, 2), dtype=torch.int64)
    _native.pair_sample(
        address(users), address(positions), address(lengths), address(pairs), *pairs.shape[:2], temperature,
        distinct, seed % 2**64, epoch % 2**32, stream,
    )  # fmt: skip
    return pairs


def sample_cuda(users, positions, lengths, n_samples, temperature, distinct, seed, epoch, stream):
    from rankdistill.ops.cuda import run

    users, positions, lengths = contiguous(users, positions, lengths)
    pairs = torch.empty((users.shape[0], n_samples, 2), dtype=torch.int64, device=users.device)
    run(
        OP, users.device, address(users), address(positions), address(lengths), address(pairs), *pairs.shape[:2],
        temperature, distinct, seed % 2**64, epoch % 2**32, stream,
    )  # fmt: skip
    return pairs


REFERENCE = {"": sample_reference}
NATIVE = {"": sample_native}
CUDA = {"": sample_cuda}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"native": cuda_or(CUDA), "reference": REFERENCE})


def pair_sample(
    users: Tensor,
    lengths: Tensor,
    n_samples: int,
    temperature: float,
    distinct: bool = True,
    positions: Tensor | None = None,
    *,
    seed: int,
    epoch: int = 0,
    stream: int = 0,
) -> Tensor:
    """Pairs of positions of a ranked list, the better one first, each pair drawn anew.

    With weights w_i = exp(−(i + 1)/temperature), i from 0: different positions i < j have probability
    w_i·w_j / Σ_{a<b} w_a·w_b; without `distinct` a pair is two independent draws, and its first column is a tournament
    of two: position i with probability 2·p_i·Σ_{j>i} p_j + p_i², p = w/Σw.

    Args:
        users: [R] int64 in [0, 2^32); a row's draws depend on its user, its place in the user's sequence, `seed`,
            `epoch` and `stream` alone.
        lengths: [R] int64 in [0, 2^31), how long each row's list is.
        n_samples: pairs per row, K.
        temperature: dimensionless, > 0.
        distinct: whether the two must differ.
        positions: [R] int64 ≥ 0 or None (0): where a row's draws begin in its user's sequence; rows that share
            a user need positions at least K apart to be independent.
        seed, epoch: any integers (64 and 32 bits are used).
        stream: 0 to 255, tells apart draws that share a user and an epoch.

    Returns:
        pairs [R, K, 2] int64; (-1, -1) where a list has no pair (fewer than two positions, or than one).

    Contract:
        The stated law to 2^-32, at any temperature. The same draws on every device, for any batch and any number
        of threads.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices, a number out of range.
        IndexError: a user, length or position out of range (CPU; on CUDA such a length gives -1).

    Cost:
        O(R·K) time whatever the lengths, no memory besides the output. A quarter of the attempts or more are kept.

    Source:
        Distinct pairs: Chen et al., UnKD, WSDM 2023. The tournament: Lee et al., CD, ICDM 2019, as released.

    Example:
        >>> pair_sample(torch.tensor([3]), torch.tensor([9]), 2, 1e-3, seed=0)
        tensor([[[0, 1],
                 [0, 1]]])
    """
    checks.expect_tensor(OP, "users", users, 1, (torch.int64,))
    checks.expect_beside(OP, "lengths", lengths, 1, "users", users)
    if positions is not None:
        checks.expect_beside(OP, "positions", positions, 1, "users", users)
    checks.expect(n_samples >= 0, OP, "n_samples of 0 or more", n_samples)
    checks.expect(
        math.isfinite(temperature) and temperature > 0, OP, "a finite temperature above 0", temperature
    )
    checks.expect(0 <= stream < 256, OP, "stream in [0, 256)", stream)
    seed, epoch = checks.signed64(seed), checks.signed64(epoch)
    checks.check_if_asked(OP, "lengths", lengths, 0, 2**31)
    checks.check_if_asked(OP, "users", users, 0, 2**32)
    return torch.ops.rankdistill.pair_sample(
        users, positions, lengths, n_samples, temperature, distinct, seed, epoch, stream
    )
