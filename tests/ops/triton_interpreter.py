"""Imported before a kernel runs under TRITON_INTERPRET=1: lets Triton 3.6's interpreter loop under numpy >= 2.4.

Its scalars are arrays of one element, of which numpy no longer makes an int.
"""

from __future__ import annotations

from triton.runtime import interpreter

_patch = interpreter._patch_lang_tensor


def _patch_lang_tensor(tensor, scope):
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patch_lang_tensor
