"""Sampling without replacement in proportion to given weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.cuda import cuda_or
from rankdistill.ops.native import DTYPE_CODES, _native, address, native_or
from rankdistill.ops.registration import LIBRARY, implement
from rankdistill.reference import weighted_sample as reference

OP = "weighted_sample"

LIBRARY.define(
    f"{OP}(Tensor users, Tensor weights, SymInt n_samples, int seed, int epoch, int stream) -> Tensor"
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(users, weights, n_samples, seed, epoch, stream):
    return users.new_empty((users.shape[0], n_samples))


def check_rows(users: Tensor, weights: Tensor) -> None:
    checks.check_indices(OP, "users", users, 0, 2**32)
    least, most = weights.aminmax() if weights.numel() else (0.0, 0.0)
    if not (least >= 0 and most < torch.inf):  # NaN is neither
        r, i = (~((weights >= 0) & (weights < torch.inf))).nonzero()[0].tolist()
        raise ValueError(
            f"{OP}: expected weights in [0, inf); got {float(weights[r, i])} at position [{r}, {i}]"
        )


def sample_reference(users, weights, n_samples, seed, epoch, stream):
    if users.device.type == "cpu":
        check_rows(users.contiguous(), weights)
    return reference.weighted_sample(users, weights, n_samples, seed, epoch, stream)


def sample_native(users, weights, n_samples, seed, epoch, stream):
    users, weights = users.contiguous(), weights.contiguous()
    check_rows(users, weights)
    samples = torch.empty((users.shape[0], n_samples), dtype=torch.int64)
    drawn = _native.weighted_sample(
        DTYPE_CODES[weights.dtype], address(users), address(weights), address(samples), *samples.shape,
        weights.shape[1], seed % 2**64, epoch % 2**32, stream,
    )  # fmt: skip
    if not drawn:
        raise MemoryError(f"{OP}: expected scratch memory for {weights.shape[1]} weights; got none")
    return samples


def sample_cuda(users, weights, n_samples, seed, epoch, stream):
    from rankdistill.ops.cuda import run

    users, weights = users.contiguous(), weights.contiguous()
    samples = torch.empty((users.shape[0], n_samples), dtype=torch.int64, device=users.device)
    keys = torch.empty(weights.shape, dtype=torch.float64, device=users.device)
    run(
        OP, users.device, DTYPE_CODES[weights.dtype], address(users), address(weights), address(keys),
        address(samples), *samples.shape, weights.shape[1], seed % 2**64, epoch % 2**32, stream,
    )  # fmt: skip
    return samples


REFERENCE = {"": sample_reference}
NATIVE = {"": sample_native}
CUDA = {"": sample_cuda}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"native": cuda_or(CUDA), "reference": REFERENCE})


def weighted_sample(
    users: Tensor, weights: Tensor, n_samples: int, *, seed: int, epoch: int = 0, stream: int = 0
) -> Tensor:
    """Columns drawn one after another without replacement, each in proportion to the weights that are left.

    Args:
        users: [R] int64 in [0, 2^32); a row's draw depends on its user and weights, `seed`, `epoch` and `stream` alone.
        weights: [R, M] float32 or float64, finite and ≥ 0, of any sum; 0 (and a subnormal float64) is never drawn,
            and what lies outside [2^-1000, 2^990] counts as that bound.
        n_samples: draws per row, K.
        seed, epoch: any integers (64 and 32 bits are used).
        stream: 0 to 255, tells apart draws that share a user and an epoch.

    Returns:
        columns [R, K] int64, ascending; a row with fewer than K positive weights gives these, then -1.

    Contract:
        The same draws on every device, for any batch and any number of threads.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices, a number out of range; a weight that is negative or not finite (CPU; on CUDA its
            row is all -1).
        IndexError: a user out of range (CPU).

    Cost:
        O(R·M) time, O(R·K) memory (on CUDA O(R·M), and O(M²) time per row on 128 threads).

    Source:
        Efraimidis & Spirakis, IPL 2006 (the keys); the weights of Lee & Kim, DCD, CIKM 2021, and Zhu & Zhang, RCE-KD, 2025 (`rankdistill.sampling`).

    Example:
        >>> weighted_sample(torch.tensor([0]), torch.tensor([[0.0, 2.0, 0.0, 1.0]]), 3, seed=0)
        tensor([[ 1,  3, -1]])
    """
    checks.expect_tensor(OP, "users", users, 1, (torch.int64,))
    checks.expect_beside(OP, "weights", weights, 2, "users", users, (torch.float32, torch.float64))
    checks.expect(n_samples >= 0, OP, "n_samples of 0 or more", n_samples)
    checks.expect(0 <= stream < 256, OP, "stream in [0, 256)", stream)
    seed, epoch = checks.signed64(seed), checks.signed64(epoch)
    checks.check_if_asked(OP, "users", users, 0, 2**32)
    return torch.ops.rankdistill.weighted_sample(users, weights, n_samples, seed, epoch, stream)
