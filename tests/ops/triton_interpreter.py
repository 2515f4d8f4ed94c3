"""Imported before a kernel runs under TRITON_INTERPRET=1: lets Triton 3.6's interpreter loop under numpy >= 2.4.

Its scalars are arrays of one element, of which numpy no longer makes an int. Its scans go entry by entry; here they take
whole slices, which is the same order of the same additions.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor
from triton.runtime import interpreter

_patch = interpreter._patch_lang_tensor


def _patch_lang_tensor(tensor, scope):
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_lang_tensor


def _generic_scan(scan, inputs):
    arrays = [np.moveaxis(given.handle.data, scan.axis, 0) for given in inputs]
    outputs = [np.array(array) for array in arrays]
    tensors = lambda parts: [
        scan.to_tensor(np.asarray(part), given.dtype) for part, given in zip(parts, inputs, strict=True)
    ]
    for i in range(1, len(outputs[0])):
        before, here = tensors(o[i - 1] for o in outputs), tensors(a[i] for a in arrays)
        for output, combined in zip(outputs, scan.combine_fn.fn(*before, *here), strict=True):
            output[i] = np.reshape(combined.handle.data, np.shape(output[i]))
    return tensors(np.moveaxis(output, 0, scan.axis) for output in outputs)


interpreter.ScanOps.generic_scan = _generic_scan


def first_rows(args: tuple, rows: int) -> tuple:
    """An op's arguments for the first rows of its first one: lists in CSR form and tensors of as many rows are cut."""
    n_rows = len(args[0])

    def cut(given):
        if isinstance(given, tuple):
            indptr, indices = given
            return indptr[: rows + 1], indices[: int(indptr[: rows + 1][-1])]
        return given[:rows] if isinstance(given, Tensor) and len(given) == n_rows else given

    return tuple(map(cut, args))
