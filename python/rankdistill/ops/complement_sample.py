"""Uniform sampling of the items that a user has neither seen nor been ranked."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.cuda import cuda_or
from rankdistill.ops.native import _native, address, contiguous, native_or
from rankdistill.ops.registration import LIBRARY, implement
from rankdistill.reference import complement_sample as reference

OP = "complement_sample"

LIBRARY.define(
    f"{OP}(Tensor users, Tensor? positions, int n_items, SymInt n_samples, Tensor? exclude_indptr,"
    " Tensor? exclude_indices, Tensor? listed, int seed, int epoch, int stream) -> Tensor"
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(users, positions, n_items, n_samples, exclude_indptr, exclude_indices, listed, seed, epoch, stream):
    return users.new_empty((users.shape[0], n_samples))


def check_rows(users, positions, n_items, exclude_indptr, exclude_indices, listed):
    n_users = 2**32
    if exclude_indptr is not None:
        n_users = exclude_indptr.shape[0] - 1
    if listed is not None:
        n_users = min(n_users, listed.shape[0])
    checks.check_indices(OP, "users", users, 0, n_users)
    if exclude_indptr is not None:
        checks.check_csr_rows(OP, "exclude", exclude_indptr, exclude_indices, n_items, users)
    if positions is not None:
        checks.check_indices(OP, "positions", positions, 0, 2**32)


def sample_reference(users, positions, n_items, n_samples, exclude_indptr, exclude_indices, listed, *draw):
    if users.device.type == "cpu":
        check_rows(users, positions, n_items, exclude_indptr, exclude_indices, listed)
    return reference.complement_sample(
        users, positions, n_items, n_samples, exclude_indptr, exclude_indices, listed, *draw
    )


def sample_native(
    users, positions, n_items, n_samples, exclude_indptr, exclude_indices, listed, seed, epoch, stream
):
    users, positions, exclude_indptr, exclude_indices, listed = contiguous(
        users, positions, exclude_indptr, exclude_indices, listed
    )
    check_rows(users, positions, n_items, exclude_indptr, exclude_indices, listed)
    samples = torch.empty((users.shape[0], n_samples), dtype=torch.int64)
    _native.complement_sample(
        address(users), address(positions), address(exclude_indptr), address(exclude_indices), address(listed),
        0 if listed is None else listed.shape[1], n_items, address(samples), *samples.shape,
        seed % 2**64, epoch % 2**32, stream,
    )  # fmt: skip
    return samples


def sample_cuda(
    users, positions, n_items, n_samples, exclude_indptr, exclude_indices, listed, seed, epoch, stream
):
    from rankdistill.ops.cuda import run

    users, positions, exclude_indptr, exclude_indices, listed = contiguous(
        users, positions, exclude_indptr, exclude_indices, listed
    )
    samples = torch.empty((users.shape[0], n_samples), dtype=torch.int64, device=users.device)
    rows = [2**32] + [t.shape[0] - extra for t, extra in ((exclude_indptr, 1), (listed, 0)) if t is not None]
    run(
        OP, users.device, address(users), address(positions), address(exclude_indptr), address(exclude_indices),
        0 if exclude_indices is None else exclude_indices.numel(), address(listed),
        0 if listed is None else listed.shape[1], min(rows), n_items, address(samples), *samples.shape,
        seed % 2**64, epoch % 2**32, stream,
    )  # fmt: skip
    return samples


REFERENCE = {"": sample_reference}
NATIVE = {"": sample_native}
CUDA = {"": sample_cuda}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"native": cuda_or(CUDA), "reference": REFERENCE})


def complement_sample(
    users: Tensor,
    n_items: int,
    n_samples: int,
    exclude=None,
    listed: Tensor | None = None,
    positions: Tensor | None = None,
    *,
    seed: int,
    epoch: int = 0,
    stream: int = 0,
) -> Tensor:
    """Items drawn uniformly without replacement from those that are neither excluded nor listed.

    Args:
        users: [R] int64, rows of `exclude` and of `listed`; users may repeat.
        n_items: N, the size of the catalogue, below 2^31.
        n_samples: draws per row, L.
        exclude: items never drawn, as CSR over users: `(indptr [U + 1], indices)`, int64, ascending and
            without repeats within a row, or an object with these attributes.
        listed: [U, M] int32 items never drawn either, in any order, -1 for none (a user's ranking).
        positions: [R] int64 ≥ 0 or None (0): where a row's draws begin in its user's sequence; rows that share
            a user need positions at least L apart to be independent.
        seed, epoch: any integers (64 and 32 bits are used).
        stream: 0 to 255, tells apart draws that share a user and an epoch.

    Returns:
        items [R, L] int64, in the order drawn; -1 where fewer than L items are left.

    Contract:
        Exactly uniform. The same draws on every device, for any batch and any number of threads. Listed ids that the
        catalogue has not exclude nothing. On CUDA a row of `exclude` that does not ascend is not noticed: reads stay
        inside, but what it excludes may be drawn.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices, a number out of range, rows of `exclude` that do not ascend (CPU).
        IndexError: an id or a user out of range (CPU; on CUDA such a row is all -1).

    Cost:
        O(R·L·(log exclusions + M + L)) time while most items are free, no memory besides the output. A draw
        that is rejected 64 times enumerates the catalogue instead.

    Source:
        Kang et al., DE-RRD, CIKM 2020, section 4.2.1 (sampling of uninteresting items).

    Example:
        >>> indptr, indices = torch.tensor([0, 3]), torch.tensor([0, 1, 3])
        >>> complement_sample(torch.tensor([0]), 4, 2, (indptr, indices), seed=0)
        tensor([[ 2, -1]])
    """
    checks.expect_tensor(OP, "users", users, 1, (torch.int64,))
    checks.expect(0 <= n_items < 2**31, OP, "n_items in [0, 2^31)", n_items)
    checks.expect(n_samples >= 0, OP, "n_samples of 0 or more", n_samples)
    checks.expect(0 <= stream < 256, OP, "stream in [0, 256)", stream)
    indptr, indices = checks.csr_tensors(OP, "exclude", exclude, users.device)
    if listed is not None:
        checks.expect_tensor(OP, "listed", listed, 2, (torch.int32,))
        checks.expect(
            listed.device == users.device, OP, f"listed on the device of users ({users.device})", listed
        )
    if positions is not None:
        checks.expect_beside(OP, "positions", positions, 1, "users", users)
    seed, epoch = checks.signed64(seed), checks.signed64(epoch)
    checks.check_if_asked(OP, "users", users, 0, 2**32)
    return torch.ops.rankdistill.complement_sample(
        users, positions, n_items, n_samples, indptr, indices, listed, seed, epoch, stream
    )
