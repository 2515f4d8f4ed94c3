"""What a row must not list or count: item ids by row (CSR), or a [B, N] mask. Repeats of an id are allowed."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.native import _native, address


def exclusion_tensors(
    op: str, exclude: object, scores: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """indptr [B + 1] and indices [nnz] of int64, or a mask [B, N] of bool, for scores [B, N]; None for what is not."""
    if isinstance(exclude, Tensor):
        checks.expect_tensor(op, "exclude", exclude, 2, (torch.bool,))
        shape = list(scores.shape)
        checks.expect(exclude.shape == scores.shape, op, f"exclude of shape {shape}, as scores", exclude)
        checks.expect(exclude.device == scores.device, op, f"exclude on {scores.device}", exclude)
        return None, None, exclude
    return *exclusion_lists(op, exclude, scores, scores.shape[1]), None


def exclusion_lists(
    op: str, exclude: object, rows: Tensor, N: int | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """indptr [B + 1] and indices [nnz] of int64 for the rows of a tensor [B, …], or None twice.

    On a device they are checked against the catalogue's N items only where that is asked for (`checks.CHECKS_DEVICE`).
    """
    indptr, indices = checks.csr_tensors(op, "exclude", exclude, rows.device)
    if indptr is not None:
        entries = rows.shape[0] + 1
        checks.expect(
            indptr.shape[0] == entries, op, f"exclude indptr of {entries} entries, one more than rows", indptr
        )
        asked = checks.CHECKS_DEVICE and indptr.device.type != "cpu" and not torch.compiler.is_compiling()
        if asked and N is not None:
            check_exclusions_anywhere(op, indptr, indices, N)
    return indptr, indices


def check_exclusions(op: str, indptr: Tensor, indices: Tensor, N: int) -> None:
    """An error that names the first bad position of exclusion lists (int64, contiguous, CPU)."""
    count = indices.numel()
    checks.expect(
        int(indptr[0]) == 0, op, "exclude indptr to begin with 0", f"{int(indptr[0])} at position [0]"
    )
    position = first(indptr[1:] < indptr[:-1]) + 1
    if position > 0:
        got = f"{int(indptr[position])} after {int(indptr[position - 1])} at position [{position}]"
        raise ValueError(f"{op}: expected exclude indptr that never descends; got {got}")
    checks.expect(int(indptr[-1]) == count, op, f"exclude indptr to end with {count}, the number of indices",
                  f"{int(indptr[-1])} at position [{indptr.numel() - 1}]")  # fmt: skip
    checks.check_indices(op, "exclude indices", indices, 0, N)
    if _native is not None:
        position = _native.first_not_ascending(address(indptr), address(indices), indptr.numel() - 1)
    else:
        descends = torch.zeros(count, dtype=torch.bool)
        descends[1:] = indices.diff() < 0
        descends[indptr[:-1][indptr[:-1] < count]] = (
            False  # the first of a row may be less than the one before
        )
        position = first(descends)
    if position >= 0:
        got = f"{int(indices[position])} after {int(indices[position - 1])} at position [{position}]"
        raise ValueError(f"{op}: expected exclude indices ascending within a row; got {got}")


def check_exclusions_anywhere(op: str, indptr: Tensor | None, indices: Tensor | None, N: int) -> None:
    """`check_exclusions` for lists on any device, or none."""
    if indptr is not None:
        check_exclusions(op, indptr.cpu().contiguous(), indices.cpu().contiguous(), N)


def first(bad: Tensor) -> int:
    """The position of the first True, or -1."""
    return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else -1
