"""The Plackett–Luce loss of a list of items above the whole rest of the catalogue, without the [B, N] scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.catalogue_log_mass import check_tables
from rankdistill.ops.exclusions import check_exclusions, check_exclusions_anywhere, exclusion_lists
from rankdistill.ops.gathered_inner_product import forward_native as gathered_scores
from rankdistill.ops.gathered_inner_product import row_grads
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, native_or
from rankdistill.ops.plackett_luce import forward_native as list_forward
from rankdistill.ops.registration import LIBRARY, WAITS, asks_gradients, implement, no_double_backward
from rankdistill.ops.slopes import weighted_rows
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import catalogue_plackett_luce as reference
from rankdistill.reference.catalogue_plackett_luce import joined_exclusions, listed_items

OP = "catalogue_plackett_luce"

# Exponentials that a forward with slopes keeps between its two sweeps: bytes at most, rows at a time (a multiple of
# ROWS), and the width below which computing them again is as fast.
KEPT_BYTES, ROWS, MOST_ROWS, LEAST_WIDTH = 128 << 20, 96, 384, 48
NO_SLOPES = ((0, 0), (0,), (0,), (0,), (0, 0), (0, 0), (0,))

ARGUMENTS = (
    "Tensor users, Tensor items, Tensor item_ids, Tensor? lengths, Tensor? exclude_indptr, "
    "Tensor? exclude_indices, Tensor? item_bias, "
)
LIBRARY.define(
    f"{OP}_forward({ARGUMENTS}bool with_slopes)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    f"{OP}_backward(Tensor grad_losses, {ARGUMENTS}Tensor list_slopes, Tensor mass_slopes, Tensor tops, Tensor sums, "
    "Tensor user_slopes, Tensor item_slopes, Tensor bias_slopes) -> (Tensor, Tensor, Tensor)",
    tags=WAITS,
)


@torch.library.register_fake(f"rankdistill::{OP}_forward", lib=LIBRARY)
def _(users, items, item_ids, lengths, exclude_indptr, exclude_indices, item_bias, with_slopes):
    (B, D), N, K = users.shape, items.shape[0], item_ids.shape[1]
    biases = N if item_bias is not None else 0
    shapes = ((B, K), (B,), (B,), (B,), (B, D), (N, D), (biases,))
    if not with_slopes:
        shapes = NO_SLOPES
    wide = accumulator_dtype(users.dtype)
    return tuple(users.new_empty(shape, dtype=wide) for shape in ((B,), *shapes))


@torch.library.register_fake(f"rankdistill::{OP}_backward", lib=LIBRARY)
def _(grad_losses, users, items, *others):
    biases = items.shape[0] if others[4] is not None else 0
    return users.new_empty(users.shape), items.new_empty(items.shape), items.new_empty((biases,))


def check_lists(items: Tensor, item_ids: Tensor, lengths: Tensor | None) -> None:
    """CPU tensors: lengths in [0, K], and within them ids in [0, N)."""
    K, N = item_ids.shape[1], items.shape[0]
    if lengths is not None:
        checks.check_indices(OP, "lengths", lengths.contiguous(), 0, K + 1)
    listed, counts = listed_items(item_ids, lengths)
    checks.check_indices(OP, "listed item_ids", listed, -1, N)
    absent = (listed < 0) & (torch.arange(K) < counts[:, None])
    if bool(absent.any()):
        b, k = absent.nonzero()[0].tolist()
        raise IndexError(f"{OP}: expected listed item_ids in [0, {N}); got -1 at position [{b}, {k}]")


def forward_reference(
    users, items, item_ids, lengths, exclude_indptr, exclude_indices, item_bias, with_slopes
):
    if users.device.type == "cpu":
        check_lists(items, item_ids, lengths)
    check_exclusions_anywhere(OP, exclude_indptr, exclude_indices, items.shape[0])
    return reference.catalogue_plackett_luce_forward(
        users, items, item_ids, lengths, exclude_indptr, exclude_indices, item_bias, with_slopes
    )


class Call:
    """The arguments as the compiled kernels read them: contiguous and checked, the list among the exclusions."""

    def __init__(self, users, items, item_ids, lengths, exclude_indptr, exclude_indices, item_bias):
        check_lists(items, item_ids, lengths)
        self.users, self.items = users.contiguous(), items.contiguous()
        self.bias = None if item_bias is None else item_bias.contiguous()
        if exclude_indptr is not None:
            exclude_indptr, exclude_indices = exclude_indptr.contiguous(), exclude_indices.contiguous()
            check_exclusions(OP, exclude_indptr, exclude_indices, len(items))
        self.item_ids, self.lengths = listed_items(item_ids, lengths)
        self.indptr, self.indices = joined_exclusions(
            self.item_ids, exclude_indptr, exclude_indices, len(items)
        )
        self.code, self.wide = DTYPE_CODES[users.dtype], accumulator_dtype(users.dtype)

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.wide)

    def table_gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Room for the gradients by users, items and biases: zeros where no row would write."""
        B, (N, D) = len(self.users), self.items.shape
        filled = torch.empty if B else torch.zeros
        biases = 0 if self.bias is None else N
        return self.empty(B, D), filled((N, D), dtype=self.wide), filled(biases, dtype=self.wide)

    def list_scores(self) -> Tensor:
        return gathered_scores(self.users, None, self.items, self.item_ids, self.bias, False)

    def pieces(self) -> tuple[list[slice], tuple[Tensor, ...]]:
        """The rows to work at a time, and room for their exponentials: none where keeping them does not pay."""
        B, (N, D) = len(self.users), self.items.shape
        items = _native.catalogue_block_items()
        blocks = -(-N // items)
        most = KEPT_BYTES // max(1, blocks * items * self.wide.itemsize) // ROWS * ROWS
        if D < LEAST_WIDTH or most == 0 or B == 0:
            return [slice(0, B)], ()
        rows = -(-B // -(-B // min(most, MOST_ROWS)))
        kept = self.empty(blocks * rows * items), self.empty(blocks * rows)
        return [slice(b, min(b + rows, B)) for b in range(0, B, rows)], kept

    def arguments(self, rows: slice) -> tuple[int, ...]:
        return (
            address(self.users[rows]), address(self.items), address(self.bias), address(self.indptr[rows.start :]),
            address(self.indices),
        )  # fmt: skip

    def sizes(self, rows: slice) -> tuple:
        return rows.stop - rows.start, *self.items.shape, -math.inf

    def sum_mass(self, rows: slice, mass: tuple[Tensor, ...], kept: tuple[Tensor, ...]) -> None:
        """Writes log-masses, tops and sums of some rows."""
        addresses = [address(part[rows]) for part in mass]
        addresses += map(address, kept or (None, None))
        _native.catalogue_log_mass_forward(self.code, *self.arguments(rows), *addresses, *self.sizes(rows))

    def add_mass_gradients(self, grad, mass, grads, rows, kept=()) -> None:
        """Writes grads[0][rows], and writes (the first rows) or adds to the others, from the mass's gradients."""
        pair = [address(part[rows]) for part in mass[1:]]
        _native.catalogue_log_mass_backward(
            self.code, address(grad[rows]), *self.arguments(rows), *pair, *map(address, kept or (None, None)),
            address(grads[0][rows]), address(grads[1]), address(grads[2]), *self.sizes(rows), rows.start == 0,
        )  # fmt: skip

    def add_list_gradients(self, list_grads, grads) -> None:
        (B, K), (N, D) = self.item_ids.shape, self.items.shape
        grads[0].add_(row_grads(list_grads, self.items, self.item_ids))
        _native.gathered_inner_product_item_grads(
            self.code, address(list_grads), address(self.users), 0, address(self.item_ids), address(grads[1]),
            N, B, K, D,
        )  # fmt: skip
        if self.bias is not None:
            _native.gathered_inner_product_bias_grads(
                self.code, address(list_grads), address(self.item_ids), address(grads[2]), N, B * K
            )


def forward_native(users, items, item_ids, lengths, exclude_indptr, exclude_indices, item_bias, with_slopes):
    call = Call(users, items, item_ids, lengths, exclude_indptr, exclude_indices, item_bias)
    B, K = item_ids.shape
    scores, lengths = call.list_scores(), call.lengths
    losses, mass = call.empty(B), tuple(call.empty(B) for _ in range(3))
    if not with_slopes:
        call.sum_mass(slice(0, B), mass, ())
        losses, *_ = list_forward(scores, mass[0][:, None], lengths, with_slopes)
        return losses, *(call.empty(*shape) for shape in NO_SLOPES)
    list_slopes, mass_slopes, grads = call.empty(B, K), call.empty(B), call.table_gradients()
    pieces, kept = call.pieces()
    for rows in pieces:
        call.sum_mass(rows, mass, kept)
        luce = scores[rows], mass[0][rows, None], lengths[rows]
        losses[rows], list_slopes[rows], tail_terms = list_forward(*luce, with_slopes)
        mass_slopes[rows] = tail_terms[:, 1]  # the tail is its own top
        call.add_mass_gradients(mass_slopes, mass, grads, rows, kept)
    call.add_list_gradients(list_slopes, grads)
    return losses, list_slopes, mass_slopes, *mass[1:], *grads


def backward_reference(grad_losses, *saved):
    return reference.catalogue_plackett_luce_backward(grad_losses, *saved)


def backward_native(
    grad_losses, users, items, item_ids, lengths, exclude_indptr, exclude_indices, item_bias, list_slopes,
    mass_slopes, tops, sums, user_slopes, item_slopes, bias_slopes,
):  # fmt: skip
    grad = grad_losses.to(user_slopes.dtype).contiguous()
    if len(grad) and bool((grad == grad[0]).all()):
        slopes = user_slopes, item_slopes, bias_slopes
        grads = [(grad[0] * slope).masked_fill(grad[0] == 0, 0) for slope in slopes]
    else:  # items' slopes are summed over rows already
        call = Call(users, items, item_ids, lengths, exclude_indptr, exclude_indices, item_bias)
        grads, B = call.table_gradients(), len(grad)
        call.add_mass_gradients(
            (grad * mass_slopes).masked_fill(grad == 0, 0),
            (None, tops.contiguous(), sums.contiguous()),
            grads,
            slice(0, B),
        )
        call.add_list_gradients(weighted_rows(grad, list_slopes.contiguous()), grads)
    return tuple(g.to(users.dtype) for g in grads)


REFERENCE = {"forward": forward_reference, "backward": backward_reference}
NATIVE = {"forward": forward_native, "backward": backward_native}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
TRITON = triton_or(OP, "forward", "backward")
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def _setup(ctx, inputs, output):
    ctx.with_slopes = inputs[-1]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:-1], *output[1:])


def _backward(ctx, grad_losses, *_):
    if not ctx.with_slopes:
        raise RuntimeError(f"{OP}: expected a call with_slopes for a backward; got one without")
    if grad_losses is None:
        return (None,) * 8
    by_user, by_item, by_bias = torch.ops.rankdistill.catalogue_plackett_luce_backward(
        grad_losses, *ctx.saved_tensors
    )
    return by_user, by_item, None, None, None, None, by_bias if ctx.needs_input_grad[6] else None, None


torch.library.register_autograd(f"rankdistill::{OP}_forward", _backward, setup_context=_setup, lib=LIBRARY)
torch.library.register_autograd(f"rankdistill::{OP}_backward", no_double_backward(OP), lib=LIBRARY)


def catalogue_plackett_luce(
    users: Tensor,
    items: Tensor,
    item_ids: Tensor,
    lengths: Tensor | None = None,
    exclude: object = None,
    item_bias: Tensor | None = None,
) -> Tensor:
    """The Plackett–Luce negative log-likelihood of each row's list, best first, before the whole rest of the catalogue.

    losses = plackett_luce(scores, tail, lengths): scores[b, k] = score(b, item_ids[b, k]), and the tail of row b is
    every item that it neither lists nor excludes; score(b, n) = <users[b], items[n]> + item_bias[n]

    Args:
        users: [B, D] float table.
        items: [N, D] float table of the same dtype.
        item_ids: [B, K] int64 in [0, N) within a row's length.
        lengths: [B] int64 in [0, K], how many of a row's items count; None: those before its first -1.
        exclude: item ids that are not in a row's tail either (an excluded item that is listed counts as listed), as
            CSR, as in `inner_product_topk`; repeats are allowed.
        item_bias: [N], of the tables' dtype, added to every score of an item; None adds nothing.

    Returns:
        losses [B], float32 (float64 for float64 tables), not reduced. K = 1 without exclusions is the softmax
        cross-entropy over the catalogue.

    Contract:
        As `plackett_luce` and `catalogue_log_mass`: the tail is summed directly, so nothing cancels when the list
        holds nearly all mass. Gradients are dense tables, with the same bits for any number of threads.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices; malformed exclusions, as in `inner_product_topk`.
        IndexError: a length, a listed or an excluded id out of range (CPU; on CUDA such a row is NaN).

    Cost:
        O(B·N·D) time. A forward whose gradient is wanted takes three products (four where D < 48 or N > 349,000) and
        prepares the gradients for equal upstream gradients, as a sum or mean of losses has; others cost three
        products more in the backward. Memory besides the gradients O(B·(K + D)) and at most 160 MiB (CPU),
        about 600 MiB (CUDA).

    Source:
        Kang et al., DE-RRD, CIKM 2020, equation 8, with all unlisted items as uninteresting ones.

    Example:
        >>> users, items = torch.zeros(1, 2), torch.ones(3, 2)
        >>> catalogue_plackett_luce(users, items, torch.tensor([[2, 0]])).exp()  # 3·2 orders of the first two
        tensor([6.])
    """
    users, items, item_bias = checks.alike_under_autocast(users, items, item_bias)
    check_tables(OP, users, items, item_bias)
    checks.expect_beside(OP, "item_ids", item_ids, 2, "users", users)
    if lengths is not None:
        checks.expect_beside(OP, "lengths", lengths, 1, "users", users)
        checks.check_if_asked(OP, "lengths", lengths, 0, item_ids.shape[1] + 1)
    checks.check_if_asked(OP, "item_ids", item_ids, -1, items.shape[0])
    indptr, indices = exclusion_lists(OP, exclude, users, items.shape[0])
    tables = (users, items) if item_bias is None else (users, items, item_bias)
    with_slopes = asks_gradients(*tables)
    return torch.ops.rankdistill.catalogue_plackett_luce_forward(
        users, items, item_ids, lengths, indptr, indices, item_bias, with_slopes
    )[0]
