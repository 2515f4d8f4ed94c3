"""A table of items prepared once for `inner_product_topk`, and reused by every call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankdistill.ops import checks, device_topk
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address
from rankdistill.ops.registration import CHOICES

OP = "prepare_items"
SAMPLED = 64  # rows whose bits are compared, to twice as many
NORMED = 1 << 20  # values that are widened at a time


@dataclass(frozen=True, eq=False)
class PreparedItems:
    """An item table, its biases, and what makes `inner_product_topk` on it faster. Made by `prepare_items`."""

    items: Tensor  # contiguous
    item_bias: Tensor | None
    buffer: Tensor | None  # uint8, read by the compiled kernels of its device only; None without them
    versions: tuple[int, ...]
    sample: tuple[Tensor, ...]  # bits of some rows: fused optimisers raise no version
    given: tuple[Tensor, Tensor | None]  # what was prepared, to be compared with both

    @property
    def n_items(self) -> int:
        return len(self.items)

    def tables(self) -> tuple[Tensor, Tensor | None]:
        """The items and their biases, unless they have changed since."""
        if versions_of(*self.given) != self.versions or not all(
            map(torch.equal, sample_of(*self.given), self.sample)
        ):
            raise ValueError(
                f"{OP}: expected items as they were when prepared; got a table written since. Prepare it again"
            )
        return self.items, self.item_bias


def versions_of(*tensors: Tensor | None) -> tuple[int, ...]:
    return tuple(t._version for t in tensors if t is not None and not t.is_inference())


def sample_of(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Copies of the bits of evenly spread rows; of none on a device, which would have to be waited for."""
    found = (t[:: max(1, len(t) // SAMPLED)] for t in tensors if t is not None and t.device.type == "cpu")
    # Copied into new memory: a single number keeps the stride it had, of which there is no view as bytes.
    return tuple(rows.new_empty(rows.numel()).copy_(rows.flatten()).view(torch.uint8) for rows in found)


def checked_bias(op: str, items: Tensor, item_bias: Tensor | None) -> None:
    if item_bias is None:
        return
    checks.expect_tensor(op, "item_bias", item_bias, 1)
    checks.expect_same(op, "items", items, "item_bias", item_bias)
    checks.expect(len(item_bias) == len(items), op, f"item_bias of {len(items)} entries, as items", item_bias)


def prepare_items(items: Tensor, item_bias: Tensor | None = None) -> PreparedItems:
    """Orders and packs a table of items once, so that many `inner_product_topk` calls need not.

    Results are those of the plain table, bit for bit; items stand by falling norm, so that whole blocks that cannot
    reach a row's list are skipped where norms are skewed. Worth it from the second call on, or for few users.

    Args:
        items: [N, D] float table. Kept, and copied only where it is not contiguous: a call after it was written to is an
            error.
        item_bias: [N], of the items' dtype, added to every score of an item; None adds nothing. Items of -inf stand last
            and are never looked at.

    Returns:
        PreparedItems, to be passed as `items`.

    Raises:
        TypeError, ValueError: wrong dtypes or shapes.

    Contract:
        A table that was written since is refused. A write that torch does not count (a fused optimiser's, one through
        `.data`) is noticed on a CPU where it meets one of some 64 rows that are compared, and not on CUDA: prepare anew.

    Cost:
        O(N·D + N·log N) time; N·(D + 9) bytes where the processor multiplies bytes (AVX-512 VNNI), else 9·N (to 20·N
        in float64), and 28·N more while it sorts. On CUDA devices 2·N·D + 16·N bytes (half-precision tiles), a
        thirty-second more for a sample. Without the compiled module nothing is prepared.

    Example:
        >>> items = prepare_items(torch.tensor([[1., 0.], [0., 1.], [1., 1.]]))
        >>> inner_product_topk(torch.tensor([[1., 2.]]), items, 2).indices
        tensor([[2, 1]])
    """
    items, item_bias = checks.alike_under_autocast(items, item_bias)
    checks.expect_tensor(OP, "items", items, 2)
    checked_bias(OP, items, item_bias)
    items = items.detach()
    item_bias = None if item_bias is None else item_bias.detach()
    given = items, item_bias
    noticed = versions_of(*given), sample_of(*given), given
    items, item_bias = items.contiguous(), None if item_bias is None else item_bias.contiguous()
    if items.device.type == "cuda" and CHOICES["inner_product_topk", "CUDA"].backend == "native":
        return PreparedItems(items, item_bias, device_topk.prepared_buffer(items, item_bias), *noticed)
    if items.device.type != "cpu" or _native is None:
        return PreparedItems(items, item_bias, None, *noticed)
    (N, D), code = items.shape, DTYPE_CODES[items.dtype]
    wide = accumulator_dtype(items.dtype)
    blocks = items.split(max(1, NORMED // max(1, D))) if N else ()
    norms = torch.cat([block.to(wide).norm(dim=1) for block in blocks]) if N else items.new_zeros(0)
    unranked = norms.isnan() if item_bias is None else norms.isnan() | ~(item_bias > -torch.inf)
    order = norms.masked_fill(unranked, -1).argsort(descending=True, stable=True)
    size = _native.prepared_items_bytes(code, N, D, item_bias is not None)
    buffer = torch.empty(size, dtype=torch.uint8, device=items.device)
    _native.prepare_items(code, address(items), address(item_bias), address(order), N, D, address(buffer))
    return PreparedItems(items, item_bias, buffer, *noticed)
