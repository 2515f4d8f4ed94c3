"""Dropout whose draws depend on ids, not on batches."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.cuda import cuda_or
from rankdistill.ops.native import _native, address, native_or
from rankdistill.ops.registration import LIBRARY, call, implement
from rankdistill.reference import dropout_mask as reference

OP = "dropout_mask"
DRAWS = 2**16

LIBRARY.define(
    f"{OP}(Tensor ids, SymInt n_masks, SymInt width, int least, int seed, int epoch, int step, int stream) -> Tensor"
)


@torch.library.register_fake(f"rankdistill::{OP}", lib=LIBRARY)
def _(ids, n_masks, width, least, seed, epoch, step, stream):
    return ids.new_empty((n_masks, ids.shape[0], width), dtype=torch.bool)


def draw_reference(ids, n_masks, width, least, seed, epoch, step, stream):
    if ids.device.type == "cpu":
        checks.check_indices(OP, "ids", ids.contiguous(), 0, 2**32)
    return reference.dropout_mask(ids, n_masks, width, least, seed, epoch, step, stream)


def draw_native(ids, n_masks, width, least, seed, epoch, step, stream):
    ids = ids.contiguous()
    checks.check_indices(OP, "ids", ids, 0, 2**32)
    kept = torch.empty((n_masks, ids.shape[0], width), dtype=torch.bool)
    last_word = stream << 24 | step
    _native.dropout_mask(
        address(ids), address(kept), *kept.shape, least, seed % 2**64, epoch % 2**32, last_word
    )
    return kept


def draw_cuda(ids, n_masks, width, least, seed, epoch, step, stream):
    from rankdistill.ops.cuda import run

    ids = ids.contiguous()
    kept = torch.empty((n_masks, ids.shape[0], width), dtype=torch.bool, device=ids.device)
    if kept.numel():
        run(
            OP, ids.device, address(ids), address(kept), *kept.shape, least, seed % 2**64, epoch % 2**32,
            stream << 24 | step,
        )  # fmt: skip
    return kept


REFERENCE = {"": draw_reference}
NATIVE = {"": draw_native}
CUDA = {"": draw_cuda}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
implement(OP, "CUDA", {"native": cuda_or(CUDA), "reference": REFERENCE})


def in_sixteen_bits(share: float) -> float:
    """The share of 2^16 equally likely draws that is nearest."""
    return round(share * DRAWS) / DRAWS


def dropout_mask(
    ids: Tensor,
    n_masks: int,
    width: int,
    share_dropped: float,
    *,
    seed: int,
    epoch: int = 0,
    step: int = 0,
    stream: int = 0,
) -> Tensor:
    """Which of every id's elements dropout keeps, in each of several masks.

    Args:
        ids: [B] int64 in [0, 2^32), users or items; a row's draws depend on its id, the mask, `width`, `seed`, `epoch`,
            `step` and `stream` alone.
        n_masks: M, such as one for each of several networks; M·⌈width/8⌉ at most 2^32.
        width: W, elements per id.
        share_dropped: in [0, 1]; what is dropped is the nearest multiple of 2^-16.
        seed, epoch: any integers (64 and 32 bits are used).
        step: the number of a call within its epoch; its low 24 bits count.
        stream: 0 to 255, tells apart draws that share an id and an epoch.

    Returns:
        kept [M, B, W] bool.

    Raises:
        IndexError: ids out of their range (CPU). ValueError, TypeError: anything else that is not as above.

    Contract:
        The same bits on every device, for any batch and any number of threads. Equal ids have equal draws.

    Cost:
        O(M·B·W) time and memory.

    Example:
        >>> kept = dropout_mask(torch.tensor([3, 5]), 2, 40, 0.2, seed=0)
        >>> kept[:, 1].equal(dropout_mask(torch.tensor([5]), 2, 40, 0.2, seed=0)[:, 0])
        True
    """
    checks.expect_tensor(OP, "ids", ids, 1, (torch.int64,))
    checks.expect(n_masks >= 0, OP, "n_masks of 0 or more", n_masks)
    checks.expect(width >= 0, OP, "width of 0 or more", width)
    checks.expect(n_masks * -(-width // 8) <= 2**32, OP, "n_masks · ⌈width/8⌉ of at most 2^32", n_masks)
    checks.expect(0 <= share_dropped <= 1, OP, "share_dropped in [0, 1]", share_dropped)
    checks.expect(0 <= stream < 256, OP, "stream in [0, 256)", stream)
    seed, epoch, step = checks.signed64(seed), checks.signed64(epoch), step % (1 << 24)
    return call(OP, ids, n_masks, width, round(share_dropped * DRAWS), seed, epoch, step, stream)
