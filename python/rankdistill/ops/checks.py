"""Checks of a caller's arguments, made once at the boundary. Every error reads `op: expected …; got …`."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from reprlib import Repr

import numpy as np
import torch
from torch import Tensor

# Read once. On a device an index out of range is suppressed and spoils its row; so is it an error at the call.
CHECKS_DEVICE = os.environ.get("RANKDISTILL_CHECK_INDICES", "0") not in ("", "0")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SHORT = Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxlong, SHORT.maxother = 2, 80, 80, 80


def describe(value: object) -> str:
    """For an error: dtype and shape of tensors and arrays, the beginning of anything else, on one line."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    if isinstance(value, np.ndarray):
        return f"{type(value).__name__} of {value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} " + " ".join(SHORT.repr(value).splitlines())


def expect(condition: bool, op: str, expected: str, got: object) -> None:
    if not condition:
        got = got if isinstance(got, str) else describe(got)
        raise ValueError(f"{op}: expected {expected}; got {got}")


def expect_tensor(
    op: str, name: str, value: object, dim: int, dtypes: tuple[torch.dtype, ...] = FLOATS
) -> None:
    """A TypeError unless `value` is a tensor of one of `dtypes`; a ValueError unless it has `dim` dimensions."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes:
        kinds = (
            "float32, float64, float16 or bfloat16"
            if dtypes is FLOATS
            else " or ".join(str(d).removeprefix("torch.") for d in dtypes)
        )
        raise TypeError(f"{op}: expected {name} as a {kinds} tensor; got {describe(value)}")
    if value.dim() != dim:
        expect(False, op, f"{name} with {dim} dimensions", value)


def expect_beside(
    op: str,
    name: str,
    value: object,
    dim: int,
    first_name: str,
    first: Tensor,
    dtypes: tuple[torch.dtype, ...] = (torch.int64,),
) -> None:
    """`expect_tensor`, on the device of another tensor and of as many rows."""
    expect_tensor(op, name, value, dim, dtypes)
    if value.device != first.device:
        expect(False, op, f"{name} on the device of {first_name} ({first.device})", value)
    if value.shape[0] != first.shape[0]:
        expect(False, op, f"{name} with {first.shape[0]} rows, as {first_name}", value)


def expect_same(op: str, first_name: str, first: Tensor, name: str, value: Tensor) -> None:
    """The same device and dtype."""
    if value.device != first.device:
        expect(False, op, f"{name} on the device of {first_name} ({first.device})", value)
    if value.dtype != first.dtype:
        raise TypeError(
            f"{op}: expected {name} with the dtype of {first_name} ({first.dtype}); got {describe(value)}"
        )


def alike_under_autocast(*values: object) -> tuple:
    """Float tensors in the widest of their dtypes where autocast is on, as torch's own operations then take the half
    precision of a layer beside a float32 table; what is no float tensor, and all without autocast, as it is."""
    if not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
        return values
    floats = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    dtypes, devices = {value.dtype for value in floats}, {value.device.type for value in floats}
    if len(dtypes) < 2 or not devices <= {"cpu", "cuda"} or not all(map(torch.is_autocast_enabled, devices)):
        return values
    wide = functools.reduce(torch.promote_types, dtypes)
    return tuple(value.to(wide) if any(value is part for part in floats) else value for value in values)


def expect_layout(op: str, **tensors: tuple[Tensor, Sequence[int], torch.dtype]) -> None:
    """Contiguous tensors by name, each of its shape and dtype: what a pointer does not know."""
    for name, (tensor, shape, dtype) in tensors.items():
        if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(
                f"{op}: expected {name} contiguous, {dtype}, of shape {list(shape)}; got {tensor.dtype} of shape "
                f"{list(tensor.shape)} and strides {list(tensor.stride())}"
            )


def expect_no_forward_ad(op: str, *tensors: Tensor | None) -> None:
    """Forward-mode derivatives would vanish without a word in a library op; refuse them."""
    if torch.autograd.forward_ad._current_level < 0:
        return
    for tensor in tensors:
        if tensor is not None and torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"{op}: expected plain tensors; got a dual tensor. It has no forward-mode derivative"
            )


def index_error(op: str, name: str, indices: Tensor, position: int, low: int, high: int) -> IndexError:
    """The error for the bad index at flat `position` of `indices`."""
    flat = int(indices.reshape(-1)[position])
    where = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(position), indices.shape))
    return IndexError(f"{op}: expected {name} in [{low}, {high}); got {flat} at position [{where}]")


def first_out_of_range(indices: Tensor, low: int, high: int) -> int:
    """The flat position of the first of `indices` (int64, CPU) outside [low, high), or -1."""
    from rankdistill.ops.native import _native

    indices = indices.contiguous()
    if _native is not None:
        return _native.first_out_of_range(indices.data_ptr(), indices.numel(), low, high)
    bad = ((indices < low) | (indices >= high)).reshape(-1)
    return int(bad.to(torch.uint8).argmax()) if bool(bad.any()) else -1


def check_indices(op: str, name: str, indices: Tensor, low: int, high: int) -> None:
    """An IndexError naming the first of `indices` (int64, CPU) outside [low, high)."""
    position = first_out_of_range(indices, low, high)
    if position >= 0:
        raise index_error(op, name, indices, position, low, high)


def check_given(op: str, name: str, indices: Tensor, low: int, high: int) -> None:
    """`check_indices` in a composition of ops: of a caller's CPU tensor, not while it is compiled; else `check_if_asked`."""
    if indices.device.type == "cpu" and not torch.compiler.is_compiling():
        check_indices(op, name, indices, low, high)
    check_if_asked(op, name, indices, low, high)


def check_if_asked(op: str, name: str, indices: Tensor | None, low: int, high: int) -> None:
    """`check_indices` of a device's, which has to be waited for: only under `RANKDISTILL_CHECK_INDICES=1`."""
    if not CHECKS_DEVICE or indices is None or indices.device.type == "cpu" or torch.compiler.is_compiling():
        return
    bad = ((indices < low) | (indices >= high)).flatten()
    if bool(bad.any()):
        raise index_error(op, name, indices, int(bad.to(torch.uint8).argmax()), low, high)


def signed64(value: int) -> int:
    """The int64 with the lowest 64 bits of any integer: what a schema's int can carry."""
    return (int(value) + 2**63) % 2**64 - 2**63


def csr_tensors(op: str, name: str, csr: object, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """indptr and indices (int64) of a pair, of an object with these attributes, or of None."""
    if csr is None:
        return None, None
    pair = (csr.indptr, csr.indices) if hasattr(csr, "indptr") else csr
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(
            f"{op}: expected {name} as (indptr, indices), or with these attributes; got {describe(csr)}"
        )
    for part, tensor in zip(("indptr", "indices"), pair):
        expect_tensor(op, f"{name} {part}", tensor, 1, (torch.int64,))
        expect(tensor.device == device, op, f"{name} {part} on {device}", tensor)
    expect(pair[0].numel() > 0, op, f"{name} indptr of one entry or more", pair[0])
    return pair[0], pair[1]


def check_csr(op: str, name: str, indptr: Tensor, indices: Tensor, n_columns: int) -> None:
    """A ValueError for a malformed indptr, an IndexError for an id out of range or out of order (CPU tensors)."""
    check_ends(op, name, indptr, indices)
    check_indices(op, f"{name} indices", indices, 0, n_columns)
    falls = (indptr[1:] < indptr[:-1]).nonzero()
    expect(falls.numel() == 0, op, f"{name} indptr that never falls", first_fall(falls))
    if indices.numel() > 1:
        not_ascending = indices[1:] <= indices[:-1]
        not_ascending[indptr[(indptr > 0) & (indptr < indices.numel())] - 1] = False
        bad = not_ascending.nonzero()
        expect(
            bad.numel() == 0,
            op,
            f"{name} indices ascending and without repeats within each row",
            first_fall(bad),
        )


def check_ends(op: str, name: str, indptr: Tensor, indices: Tensor) -> None:
    first, last, count = int(indptr[0]), int(indptr[-1]), indices.numel()
    expect(first == 0, op, f"{name} indptr to begin with 0", str(first))
    expect(last == count, op, f"{name} indptr to end with {count}", str(last))


def check_csr_rows(op: str, name: str, indptr: Tensor, indices: Tensor, n_columns: int, rows: Tensor) -> None:
    """`check_csr` of what is read of some rows [n], each in range: O(their entries), or of all where they have as many."""
    check_ends(op, name, indptr, indices)
    begin, end = indptr[rows], indptr[rows + 1]
    counts = end - begin
    bad = ((begin < 0) | (counts < 0) | (end > indices.numel())).nonzero()
    if len(bad):
        row = int(rows[bad[0, 0]])
        got = f"{int(indptr[row])} and {int(indptr[row + 1])} at position [{row}]"
        raise ValueError(
            f"{op}: expected {name} indptr that never falls, in [0, {indices.numel()}]; got {got}"
        )
    within = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(within[-1])
    if total >= indices.numel():
        return check_csr(op, name, indptr, indices, n_columns)
    shift = (begin - within[:-1]).repeat_interleave(counts, output_size=total)
    check_csr(op, name, within, indices[shift.add_(torch.arange(total))], n_columns)


def first_fall(positions: Tensor) -> str:
    return f"a fall after position {int(positions[0])}" if positions.numel() else ""
