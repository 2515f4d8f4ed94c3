"""The log-sum-exp of each user's scores over the whole catalogue but excluded items, without the [B, N] scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rankdistill.ops import checks
from rankdistill.ops.exclusions import check_exclusions, check_exclusions_anywhere, exclusion_lists
from rankdistill.ops.native import DTYPE_CODES, _native, accumulator_dtype, address, contiguous, native_or
from rankdistill.ops.prepared_items import checked_bias
from rankdistill.ops.registration import LIBRARY, implement, no_double_backward
from rankdistill.ops.triton_kernels import triton_or
from rankdistill.reference import catalogue_log_mass as reference

OP = "catalogue_log_mass"

ARGUMENTS = "Tensor users, Tensor items, Tensor? exclude_indptr, Tensor? exclude_indices, Tensor? item_bias, "
LIBRARY.define(f"{OP}_forward({ARGUMENTS}float skipped_mass) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    f"{OP}_backward(Tensor grad_log_masses, {ARGUMENTS}Tensor tops, Tensor sums, float skipped_mass)"
    " -> (Tensor, Tensor, Tensor)"
)


@torch.library.register_fake(f"rankdistill::{OP}_forward", lib=LIBRARY)
def _(users, items, exclude_indptr, exclude_indices, item_bias, skipped_mass):
    rows, wide = users.shape[:1], accumulator_dtype(users.dtype)
    return tuple(users.new_empty(rows, dtype=wide) for _ in range(3))


@torch.library.register_fake(f"rankdistill::{OP}_backward", lib=LIBRARY)
def _(grad_log_masses, users, items, exclude_indptr, exclude_indices, item_bias, tops, sums, skipped_mass):
    biases = items.shape[0] if item_bias is not None else 0
    return users.new_empty(users.shape), items.new_empty(items.shape), items.new_empty((biases,))


def forward_reference(users, items, exclude_indptr, exclude_indices, item_bias, skipped_mass):
    check_exclusions_anywhere(OP, exclude_indptr, exclude_indices, items.shape[0])
    return reference.catalogue_log_mass_forward(
        users, items, exclude_indptr, exclude_indices, item_bias, skipped_mass
    )


def backward_reference(grad_log_masses, users, items, exclude_indptr, exclude_indices, *others):
    check_exclusions_anywhere(OP, exclude_indptr, exclude_indices, items.shape[0])
    return reference.catalogue_log_mass_backward(
        grad_log_masses, users, items, exclude_indptr, exclude_indices, *others
    )


def contiguous_inputs(users, items, exclude_indptr, exclude_indices, item_bias):
    """The arguments as the compiled kernels read them, checked."""
    found = contiguous(users, items, exclude_indptr, exclude_indices, item_bias)
    if exclude_indptr is not None:
        check_exclusions(OP, *found[2:4], items.shape[0])
    return found


def log_share(skipped_mass: float, n_items: int) -> float:
    """What an item's share of the mass must reach to be counted, as a logarithm."""
    return math.log(skipped_mass / max(n_items, 1)) if skipped_mass > 0 else -math.inf


def forward_native(users, items, exclude_indptr, exclude_indices, item_bias, skipped_mass):
    users, items, indptr, indices, bias = contiguous_inputs(
        users, items, exclude_indptr, exclude_indices, item_bias
    )
    (B, D), N = users.shape, items.shape[0]
    log_masses, tops, sums = (torch.empty(B, dtype=accumulator_dtype(users.dtype)) for _ in range(3))
    _native.catalogue_log_mass_forward(
        DTYPE_CODES[users.dtype], address(users), address(items), address(bias), address(indptr), address(indices),
        address(log_masses), address(tops), address(sums), 0, 0, B, N, D, log_share(skipped_mass, N),
    )  # fmt: skip
    return log_masses, tops, sums


def backward_native(
    grad_log_masses, users, items, exclude_indptr, exclude_indices, item_bias, tops, sums, skipped_mass
):
    users, items, indptr, indices, bias = contiguous_inputs(
        users, items, exclude_indptr, exclude_indices, item_bias
    )
    (B, D), N, wide = users.shape, items.shape[0], accumulator_dtype(users.dtype)
    grad = grad_log_masses.to(wide).contiguous()
    tops, sums = tops.contiguous(), sums.contiguous()
    grad_users = torch.empty((B, D), dtype=wide)
    filled = torch.empty if B else torch.zeros
    grad_items, grad_bias = filled((N, D), dtype=wide), filled(N if bias is not None else 0, dtype=wide)
    _native.catalogue_log_mass_backward(
        DTYPE_CODES[users.dtype], address(grad), address(users), address(items), address(bias), address(indptr),
        address(indices), address(tops), address(sums), 0, 0, address(grad_users), address(grad_items),
        address(grad_bias), B, N, D, log_share(skipped_mass, N), True,
    )  # fmt: skip
    return grad_users.to(users.dtype), grad_items.to(items.dtype), grad_bias.to(items.dtype)


REFERENCE = {"forward": forward_reference, "backward": backward_reference}
NATIVE = {"forward": forward_native, "backward": backward_native}
implement(OP, "CPU", {"native": native_or(NATIVE), "reference": REFERENCE})
TRITON = triton_or(OP, "forward", "backward")
implement(OP, "CUDA", {"triton": TRITON, "reference": REFERENCE})


def _setup(ctx, inputs, output):
    *tables, ctx.skipped_mass = inputs
    _, tops, sums = output
    ctx.mark_non_differentiable(tops, sums)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tables, tops, sums)


def _backward(ctx, grad_log_masses, *_):
    if grad_log_masses is None:
        return (None,) * 6
    grad_users, grad_items, grad_bias = torch.ops.rankdistill.catalogue_log_mass_backward(
        grad_log_masses, *ctx.saved_tensors, ctx.skipped_mass
    )
    return grad_users, grad_items, None, None, grad_bias if ctx.needs_input_grad[4] else None, None


torch.library.register_autograd(f"rankdistill::{OP}_forward", _backward, setup_context=_setup, lib=LIBRARY)
torch.library.register_autograd(f"rankdistill::{OP}_backward", no_double_backward(OP), lib=LIBRARY)


def check_tables(op: str, users: Tensor, items: Tensor, item_bias: Tensor | None) -> None:
    checks.expect_tensor(op, "users", users, 2)
    checks.expect_tensor(op, "items", items, 2)
    checks.expect_same(op, "users", users, "items", items)
    checks.expect(items.shape[1] == users.shape[1], op, f"items of width {users.shape[1]}, as users", items)
    checked_bias(op, items, item_bias)
    checks.expect_no_forward_ad(op, users, items, item_bias)


def check_share(op: str, skipped_mass: float) -> None:
    if isinstance(skipped_mass, bool) or not isinstance(skipped_mass, (int, float)):
        raise TypeError(f"{op}: expected skipped_mass as a float; got {checks.describe(skipped_mass)}")
    checks.expect(0 <= skipped_mass < 1, op, "skipped_mass in [0, 1)", skipped_mass)


def catalogue_log_mass(
    users: Tensor,
    items: Tensor,
    exclude: object = None,
    item_bias: Tensor | None = None,
    skipped_mass: float = 0.0,
) -> Tensor:
    """The log of each user's summed exponentiated scores over all items but excluded ones.

    log_mass[b] = log Σ_n [n not excluded by b] e^score(b, n), score(b, n) = <users[b], items[n]> + item_bias[n]

    Args:
        users: [B, D] float table.
        items: [N, D] float table of the same dtype.
        exclude: item ids of a row that do not count, as CSR, as in `inner_product_topk`; repeats are allowed.
        item_bias: [N], of the tables' dtype, added to every score of an item; None adds nothing.
        skipped_mass: in [0, 1): blocks of items are skipped that, by their norms, hold at most this share of a
            row's mass altogether. The value is then low by at most −log(1 − skipped_mass), and a skipped item's
            probability counts as 0. 0 skips nothing. Worth it only where norms are skewed and items stand by
            falling norm.

    Returns:
        log_masses [B], float32 (float64 for float64 tables); -inf, with gradient 0, where no item counts.

    Contract:
        The complement itself is summed, never the total less a part: nothing cancels. Scores of any size that are
        finite in the result's dtype give finite values and gradients. A score of -inf has no mass; NaN or +inf makes
        its row NaN, and the gradients that it has part in (on CUDA a coordinate of ±inf makes NaN of every row that the item
        is not excluded from). Row b's value and gradient do not depend on other rows.
        Same bits for any number of threads.

    Raises:
        TypeError, ValueError: wrong dtypes, shapes or devices; malformed exclusions, as in `inner_product_topk`.
        IndexError: an excluded id out of range. On CUDA exclusions are checked there: a malformed row is NaN.

    Cost:
        O(B·N·D) time: one product forward, three backward, which computes the scores again. Memory besides the
        gradients O(B·D) and at most 16 MiB + 2 KiB·D a thread, never O(B·N) (CPU); on CUDA
        O(B·D) and about 600 MiB at most (64 MiB for float64 or where `skipped_mass` > 0).

    Example:
        >>> users, items = torch.zeros(1, 2), torch.ones(4, 2)
        >>> catalogue_log_mass(users, items, exclude=(torch.tensor([0, 1]), torch.tensor([2])))  # log 3
        tensor([1.0986])
    """
    users, items, item_bias = checks.alike_under_autocast(users, items, item_bias)
    check_tables(OP, users, items, item_bias)
    indptr, indices = exclusion_lists(OP, exclude, users, items.shape[0])
    check_share(OP, skipped_mass)
    return torch.ops.rankdistill.catalogue_log_mass_forward(
        users, items, indptr, indices, item_bias, float(skipped_mass)
    )[0]
