"""Sampling of positions in a ranked list, the better the likelier."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.cuda import cuda_or
from rankdistill.ops.native import _native, address, native_or
from rankdistill.ops.registration import LIBRARY, WAITS, implement
from rankdistill.reference import position_sample as reference

OP = "position_sample"

LIBRARY.define(
    f"{OP}(Tensor users, Tensor lengths, SymInt n_samples, float temperature, int seed, int epoch, int stream)"
    " -> Tensor",
    tags=WAITS,
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(users, lengths, n_samples, temperature, seed, epoch, stream):
    return users.new_empty((users.shape[0], n_samples))


def check_rows(users: Tensor, lengths: Tensor) -> None:
    checks.check_indices(OP, "users", users, 0, 2**32)
    checks.check_indices(OP, "lengths", lengths, 0, 2**31)


def sample_reference(users, lengths, n_samples, temperature, seed, epoch, stream):
    if users.device.type == "cpu":
        check_rows(users.contiguous(), lengths.contiguous())
    return reference.position_sample(users, lengths, n_samples, temperature, seed, epoch, stream)


def sample_native(users, lengths, n_samples, temperature, seed, epoch, stream):
    users, lengths = users.contiguous(), lengths.contiguous()
    check_rows(users, lengths)
    samples = torch.empty((users.shape[0], n_samples), dtype=torch.int64)
    longest = int(lengths.max()) if lengths.numel() else 0
    drawn = _native.position_sample(
        address(users), address(lengths), address(samples), *samples.shape, longest, temperature,
        seed % 2**64, epoch % 2**32, stream,
    )  # fmt: skip
    if not drawn:
        raise MemoryError(f"{OP}: expected scratch memory for lists of {longest}; got none")
    return samples


def sample_cuda(users, lengths, n_samples, temperature, seed, epoch, stream):
    from rankdistill.ops.cuda import run

    users, lengths = users.contiguous(), lengths.contiguous()
    samples = torch.empty((users.shape[0], n_samples), dtype=torch.int64, device=users.device)
    sound = lengths.where(lengths < 2**31, 0)  # a row of another length is all -1
    longest = max(int(sound.max()), 0) if lengths.numel() else 0
    keys = torch.empty((users.shape[0], longest), dtype=torch.float64, device=users.device)
    run(
        OP, users.device, address(users), address(lengths), address(keys), address(samples), *samples.shape, longest,
        temperature, seed % 2**64, epoch % 2**32, stream,
    )  # fmt: skip
    return samples


REFERENCE = {"": sample_reference}
NATIVE = {"": sample_native}
CUDA = {"": sample_cuda}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"native": cuda_or(CUDA), "reference": REFERENCE})


def position_sample(
    users: Tensor,
    lengths: Tensor,
    n_samples: int,
    temperature: float,
    *,
    seed: int,
    epoch: int = 0,
    stream: int = 0,
) -> Tensor:
    """Positions of a ranked list, drawn without replacement, the better the likelier (position importance).

    Position i (0-based) has weight exp(−(i + 1)/temperature); one after another is drawn in proportion to the
    weights that are left (equivalently, the best of Gumbel noise plus log-weight).

    Args:
        users: [R] int64 in [0, 2^32); a row's draw depends on its user, `seed`, `epoch` and `stream` alone.
        lengths: [R] int64 in [0, 2^31), how long each row's list is.
        n_samples: draws per row, K.
        temperature: dimensionless, > 0; the smaller, the closer to the first K positions.
        seed, epoch: any integers (64 and 32 bits are used).
        stream: 0 to 255, tells apart draws that share a user and an epoch.

    Returns:
        positions [R, K] int64, ascending; a list shorter than K gives all its positions, then -1.

    Contract:
        The same draws on every device, for any batch and any number of threads.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices, a number out of range.
        IndexError: a user or length out of range (CPU; on CUDA a row of such a length is all -1).

    Cost:
        O(R·list length) time, O(R·K) memory (on CUDA O(R·list length)).

    Source:
        Kang et al., DE-RRD, CIKM 2020, section 4.2.1 (sampling of interesting items).

    Example:
        >>> position_sample(torch.tensor([3]), torch.tensor([500]), 4, 1e-3, seed=0)
        tensor([[0, 1, 2, 3]])
    """
    checks.expect_tensor(OP, "users", users, 1, (torch.int64,))
    checks.expect_beside(OP, "lengths", lengths, 1, "users", users)
    checks.expect(n_samples >= 0, OP, "n_samples of 0 or more", n_samples)
    checks.expect(
        math.isfinite(temperature) and temperature > 0, OP, "a finite temperature above 0", temperature
    )
    checks.expect(0 <= stream < 256, OP, "stream in [0, 256)", stream)
    seed, epoch = checks.signed64(seed), checks.signed64(epoch)
    checks.check_if_asked(OP, "users", users, 0, 2**32)
    checks.check_if_asked(OP, "lengths", lengths, 0, 2**31)
    return torch.ops.rankdistill.position_sample(users, lengths, n_samples, temperature, seed, epoch, stream)
