"""Noise of a routing: standard Gumbel variates that depend on ids, not on batches."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.cuda import cuda_or
from rankdistill.ops.native import _native, address, native_or
from rankdistill.ops.registration import LIBRARY, call, implement
from rankdistill.reference import gumbel_noise as reference

OP = "gumbel_noise"
MOST = 4 * reference.PART

LIBRARY.define(
    f"{OP}(Tensor ids, Tensor? parts, SymInt count, int seed, int epoch, int step, int stream) -> Tensor"
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(ids, parts, count, seed, epoch, step, stream):
    return ids.new_empty((ids.shape[0], count), dtype=torch.float64)


def check_ids(ids: Tensor, parts: Tensor | None) -> None:
    checks.check_indices(OP, "ids", ids, 0, 2**32)
    if parts is not None:
        checks.check_indices(OP, "parts", parts, 0, 2)


def draw_reference(ids, parts, count, seed, epoch, step, stream):
    if ids.device.type == "cpu":
        check_ids(ids.contiguous(), None if parts is None else parts.contiguous())
    return reference.gumbel_noise(ids, parts, count, seed, epoch, step, stream)


def prepared(ids, parts, count):
    ids, parts = ids.contiguous(), None if parts is None else parts.contiguous()
    noise = torch.empty((ids.shape[0], count), dtype=torch.float64, device=ids.device)
    return ids, parts, noise


def draw_native(ids, parts, count, seed, epoch, step, stream):
    ids, parts, noise = prepared(ids, parts, count)
    check_ids(ids, parts)
    _native.gumbel_noise(
        address(ids), address(parts), address(noise), *noise.shape, seed % 2**64, epoch % 2**32, stream << 24 | step
    )  # fmt: skip
    return noise


def draw_cuda(ids, parts, count, seed, epoch, step, stream):
    from rankdistill.ops.cuda import run

    ids, parts, noise = prepared(ids, parts, count)
    run(
        OP, ids.device, address(ids), address(parts), address(noise), *noise.shape, seed % 2**64, epoch % 2**32,
        stream << 24 | step,
    )  # fmt: skip
    return noise


REFERENCE = {"": draw_reference}
NATIVE = {"": draw_native}
CUDA = {"": draw_cuda}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"native": cuda_or(CUDA), "reference": REFERENCE})


def gumbel_noise(
    ids: Tensor,
    count: int,
    *,
    seed: int,
    epoch: int = 0,
    step: int = 0,
    stream: int = 0,
    parts: Tensor | None = None,
) -> Tensor:
    """Standard Gumbel variates of every id, such as the noise that routes an entity to one of `count` experts.

    Args:
        ids: [B] int64 in [0, 2^32), users or items; a row's noise depends on its id and part, `seed`, `epoch`, `step` and
            `stream` alone.
        count: variates per id, up to 2^22.
        seed, epoch: any integers (64 and 32 bits are used).
        step: the number of a call within its epoch; its low 24 bits count.
        stream: 0 to 255, tells apart draws that share an id and an epoch.
        parts: [B] int64, 0 or 1, where an id may occur twice and is to have two draws; None: 0 everywhere.

    Returns:
        noise [B, count] float64, at most 22.88.

    Raises:
        IndexError: ids or parts out of their ranges (CPU). ValueError, TypeError: anything else that is not as above.

    Contract:
        The same bits on every device, for any batch and any number of threads.

    Cost:
        O(B·count) time and memory.

    Source:
        Kang et al., DE-RRD, CIKM 2020, section 4.1 (the noise of the selection of experts).

    Example:
        >>> gumbel_noise(torch.tensor([3, 5]), 4, seed=0)[1].equal(gumbel_noise(torch.tensor([5]), 4, seed=0)[0])
        True
    """
    checks.expect_tensor(OP, "ids", ids, 1, (torch.int64,))
    if parts is not None:
        checks.expect_beside(OP, "parts", parts, 1, "ids", ids)
    checks.expect(0 <= count <= MOST, OP, f"count of 0 to {MOST}", count)
    checks.expect(0 <= stream < 256, OP, "stream in [0, 256)", stream)
    seed, epoch, step = checks.signed64(seed), checks.signed64(epoch), step % (1 << 24)
    checks.check_if_asked(OP, "ids", ids, 0, 2**32)
    return call(OP, ids, parts, count, seed, epoch, step, stream)
