"""Run with TRITON_INTERPRET=1: the Triton forms of the ops on listed items and of sums by id, against their oracles."""

from __future__ import annotations

import sys

import torch
from rankdistill.kernels.triton import touched_rows as sums
from torch import Tensor

import tests.ops.triton_interpreter  # noqa: F401 - mends the interpreter
from rankdistill.ops.embedding_plackett_luce import counted_ids
from rankdistill.ops.touched_rows import TRITON as SUMS
from rankdistill.reference.touched_rows import coalesce_rows
from tests.case import DTYPES, randint, randn, widened
from tests.cases import CASES
from tests.ops.test_properties import assert_within

DEVICE = torch.device("cpu")
FULLY = (
    torch.float32,
    torch.bfloat16,
)  # dtypes of which the interpreter takes all cases; of others the first


def there(value):
    return value.detach().to(DEVICE) if isinstance(value, Tensor) else value


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def forward_arguments(op: str, args: tuple, sparse: bool) -> tuple:
    if op == "gathered_inner_product":
        users, items, ids, user_ids, bias = (*args, None, None)[:5]
        return users, user_ids, items, ids, bias, sparse
    users, items, ids, list_size, lengths, user_ids, bias = (*args, None, None, None)[:7]
    return users, user_ids, items, ids, lengths, list_size, True, bias, sparse


def backward_arguments(op: str, given: tuple, outputs, grad: Tensor) -> tuple:
    if op == "gathered_inner_product":
        return grad, *given[:5]
    users, user_ids, items, ids, lengths, list_size, _, bias, _ = given
    ids = counted_ids(ids, lengths, list_size)
    return grad, users, user_ids, items, ids, *outputs[1:], bias


def to_dense(grads: tuple, users: Tensor, user_ids, items: Tensor, bias) -> tuple:
    """What a sparse backward gives, as whole tables."""
    seen, grad_users, touched, grad_items, grad_bias = grads
    for ids in (seen, touched):
        assert (ids.diff() > 0).all()
    if user_ids is not None:
        grad_users = users.new_zeros(users.shape).index_copy_(0, seen, grad_users)
    grad_items = items.new_zeros(items.shape).index_copy_(0, touched, grad_items)
    if bias is not None:
        grad_bias = bias.new_zeros(bias.shape).index_copy_(0, touched, grad_bias)
    return grad_users, grad_items, grad_bias


def check(op: str, name: str, dtype: torch.dtype, args: tuple) -> None:
    """Values and gradients within the case's budgets; sparse gradients the dense ones' bits; inputs left alone."""
    case, backend = CASES[op], CASES[op].module.TRITON
    wide = [
        widened(a).requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args
    ]
    expected = case.expected_with_grad(wide, {})[0]
    (budget,) = case.budget(dtype, (expected.detach(),), *(a.detach() if isinstance(a, Tensor) else a for a in args))  # fmt: skip
    given = tuple(map(there, forward_arguments(op, args, False)))
    copies = [g.clone() if isinstance(g, Tensor) else g for g in given]
    outputs = backend["forward"](*given)
    value = outputs[0] if isinstance(outputs, tuple) else outputs
    assert_within(value.cpu(), expected.detach(), budget, f"{op}, {name}: value")
    grad = randn(*expected.shape, seed=9).masked_fill(~expected.detach().isfinite(), 0)
    backward = backward_arguments(op, given, outputs, grad.to(DEVICE).to(value.dtype))
    grads = backend["backward"](*backward)
    leaves = [w for w in wide if isinstance(w, Tensor) and w.requires_grad]
    wanted = torch.autograd.grad(expected, leaves, grad.double(), allow_unused=True)
    for found, right in zip(grads, wanted, strict=False):
        right = torch.zeros(found.shape, dtype=torch.float64) if right is None else right
        assert found.dtype == dtype
        assert_within(found.cpu(), right, case.grad_budget(dtype, right), f"{op}, {name}: gradient")
    again = backend["backward"](*backward)
    users, user_ids, items, bias = given[0], given[1], given[2], args[-1] if len(leaves) == 3 else None
    sparse = to_dense(backend["sparse_backward"](*backward), users, user_ids, items, there(bias))
    for found, other, whole in zip(grads, again, sparse, strict=True):
        assert same(found, other), f"{op}, {name}: other bits when run again"
        assert same(found, whole), f"{op}, {name}: other bits when sparse"
    for g, copy in zip(given, copies, strict=True):
        assert not isinstance(g, Tensor) or same(g, copy), f"{op}, {name}: an input was written"
    print("checked", op, dtype, name)


def more_samples(op: str, dtype: torch.dtype):
    """Lists longer than a tile, items that fill several chunks of a sum, widths of several blocks, large scores."""

    def given(U, N, D, B, K, seed, scale=0.3):
        users, items = (randn(n, D, seed=seed + i, dtype=dtype, scale=scale) for i, n in enumerate((U, N)))
        ids, user_ids = randint(0, N, (B, K), seed=seed + 2), randint(0, U, (B,), seed=seed + 3)
        return users, items, ids, user_ids

    users, items, ids, user_ids = given(5, 60, 20, 30, 70, 20)
    ids[:, 40:] = torch.where(ids[:, 40:] % 3 == 0, ids[:, 40:], 7)
    ids[:, 60:][ids[:, 60:] % 2 == 0] = -1
    bias = randn(60, seed=25, dtype=dtype)
    yield "an item of a thousand", users, items, ids, user_ids, bias
    yield "several blocks of a width", *given(3, 9, 300, 4, 20, 30, scale=0.1), None
    if dtype == torch.float32:
        yield "several programs to a row", *given(2, 50, 3, 2, 2500, 40), None
        for scale in (1e-3, 1.0, 100.0):
            yield f"scores of {scale**2 * 4:g}", *given(6, 30, 16, 8, 12, 50, scale=scale), None


def sample_arguments(op: str, users, items, ids, user_ids, bias) -> tuple:
    if op == "gathered_inner_product":
        return users, items, ids, user_ids, bias
    lengths = randint(0, 9, (len(ids),), seed=60)
    lengths[0] = 0
    ids = torch.cat([ids[:, :8].clamp_min(0), ids[:, 8:]], 1)
    return users, items, ids, 8, lengths, user_ids, bias


def check_cases(op: str) -> None:
    for dtype in DTYPES:
        for sample in CASES[op].samples(dtype):
            if DEVICE.type != "cpu" or dtype in FULLY or sample.name.startswith("plain"):
                check(op, sample.name, dtype, sample.args)
        for name, *given in more_samples(op, dtype):
            args = sample_arguments(op, *given)
            if op == "embedding_plackett_luce" and name.startswith("scores of 4"):
                check_large_scores(name, args)
                continue
            check(op, name, dtype, args)
    check_layouts(op)
    check_faulty(op)
    check_no_part(op)


def check_large_scores(name: str, args: tuple) -> None:
    """Their own error, a part of the norms, is the loss's: 2e-6 of 4e4 and more."""
    op = "embedding_plackett_luce"
    expected = CASES[op].expected(*args)[0]
    given = tuple(map(there, forward_arguments(op, args, False)))
    losses, slopes, user_slopes = CASES[op].module.TRITON["forward"](*given)
    users, items = args[:2]
    size = users.double().norm(dim=1).amax() * items.double().norm(dim=1).amax()
    assert ((losses.cpu().double() - expected).abs() <= 2e-6 * (expected.abs() + 16 * size)).all(), name
    assert slopes.isfinite().all()
    assert user_slopes.isfinite().all()
    print("checked", op, name)


def check_layouts(op: str) -> None:
    """Tables and ids that are not contiguous, and an expanded gradient."""
    users, items, ids = randn(12, 6, seed=1), randn(40, 6, seed=2), randint(0, 40, (6, 10), seed=3)
    user_ids, backend = randint(0, 6, (6,), seed=4), CASES[op].module.TRITON
    plain = sample_arguments(op, users[::2].contiguous(), items[:, ::2].contiguous().repeat(1, 2), ids, user_ids, None)  # fmt: skip
    odd = list(plain)
    odd[0], odd[1] = users[::2], plain[1].t().contiguous().t()
    odd[2] = plain[2].t().contiguous().t()
    results = []
    for args in (plain, odd):
        given = tuple(map(there, forward_arguments(op, tuple(args), False)))
        if args is odd:
            assert not given[0].is_contiguous() or DEVICE.type != "cpu"
        outputs = backend["forward"](*given)
        value = outputs[0] if isinstance(outputs, tuple) else outputs
        grads = backend["backward"](
            *backward_arguments(op, given, outputs, value.new_ones(()).expand(value.shape))
        )
        results.append((value, *grads))
    assert all(same(a, b) for a, b in zip(*results, strict=True))
    print("checked layouts of", op)


def check_faulty(op: str) -> None:
    """An id out of range makes its row NaN, touches no item, and leaves other rows as they were."""
    users, items, ids = randn(5, 6, seed=1), randn(30, 6, seed=2), randint(0, 30, (6, 11), seed=3)
    user_ids, backend = torch.tensor([0, 1, 2, 3, 4, 4]), CASES[op].module.TRITON
    ids[:, 9] = -1
    results = []
    for faults in (False, True):
        wrong, wrong_users = ids.clone(), user_ids.clone()
        if faults:
            wrong[1, 10], wrong[2, 8], wrong_users[4] = 30, -2, 5
            wrong[3, 9] = 2**40
        args = sample_arguments(op, users, items, wrong, wrong_users, None)
        given = list(map(there, forward_arguments(op, args, False)))
        if op == "embedding_plackett_luce":
            given[4] = None
            given[3] = there(wrong)
        outputs = backend["forward"](*given)
        value = outputs[0] if isinstance(outputs, tuple) else outputs
        grad = torch.ones_like(value).nan_to_num()
        if not faults:
            grad[1:5] = 0
        results.append((value, backend["backward"](*backward_arguments(op, tuple(given), outputs, grad))))
    (clean, clean_grads), (found, grads) = results
    assert same(found[[0, 5]], clean[[0, 5]])
    assert found[1:5].isnan().all()
    assert not clean.isnan().any()
    assert grads[0].isnan().any(1).tolist() == [False, True, True, True, False]
    assert grads[1].isfinite().all()
    assert torch.allclose(grads[1], clean_grads[1], atol=1e-5)
    print("checked faulty rows of", op)


def check_no_part(op: str) -> None:
    """A row whose gradient is 0 leaves no trace of what is no number in it, in its own gradient or an item's."""
    users, items, ids = randn(5, 6, seed=1), randn(30, 6, seed=2), randint(0, 30, (5, 11), seed=3)
    user_ids, backend, results = torch.arange(5), CASES[op].module.TRITON, []
    for broken in (0.0, torch.nan):
        spoiled = users.clone()
        spoiled[1, 2] += broken
        given = tuple(
            map(
                there, forward_arguments(op, sample_arguments(op, spoiled, items, ids, user_ids, None), False)
            )
        )
        outputs = backend["forward"](*given)
        value = outputs[0] if isinstance(outputs, tuple) else outputs
        grad = randn(*value.shape, seed=5).to(value)
        grad[1] = 0
        backward = backward_arguments(op, given, outputs, grad)
        results.append((*backend["backward"](*backward), *backend["sparse_backward"](*backward)))
    assert value[1].isnan().any()
    for clean, found in zip(*results, strict=True):
        assert found.isfinite().all()
        assert torch.equal(found, clean)
    print("checked rows without a gradient of", op)


def check_sums() -> None:
    """Sums by id at every place where a chunk may end, against sums in float64."""
    for dtype in DTYPES:
        for n, n_rows, width in (
            (0, 5, 3),
            (1, 1, 1),
            (31, 3, 64),
            (200, 4, 64),
            (700, 2, 70),
            (513, 300, 5),
        ):
            for repeats in (0, 33, 300):
                ids = randint(0, n_rows, (n,), seed=n)
                ids[:repeats] = n_rows - 1
                rows = randn(n, width, seed=3, dtype=dtype)
                found_ids, found = SUMS[""](there(ids), there(rows), n_rows)
                wanted_ids, wanted = coalesce_rows(ids, rows.double(), n_rows)
                assert torch.equal(found_ids.cpu(), wanted_ids)
                assert found.dtype == dtype
                bound = (1e-12 if dtype == torch.float64 else 1e-5) * (1 + wanted.abs())
                bound = bound + torch.finfo(dtype).eps * wanted.abs()
                assert ((found.cpu().double() - wanted).abs() <= bound).all(), (dtype, n, n_rows, width)
    ids, rows = there(randint(0, 6, (400,), seed=1)), there(randn(400, 7, seed=2))
    found = sums.occurrences_of_ids(ids, 6)
    once = sums.add_rows(torch.zeros(6, 7, device=DEVICE), found, rows)
    twice = sums.add_rows(once.clone(), found, rows, adds=True)
    assert torch.equal(twice, 2 * once)
    wide = sums.Occurrences(found.keys.long(), found.order, found.n_rows)
    assert torch.equal(sums.add_rows(torch.zeros(6, 7, device=DEVICE), wide, rows), once)
    scalars = SUMS[""](ids, rows[:, 0].contiguous(), 6)[1]
    assert scalars.shape == (6,)
    torch.testing.assert_close(scalars, once[:, 0])
    missing = torch.where(ids % 2 == 0, ids, there(torch.tensor([-1, 6, 2**40, -(2**40)])).repeat(100))
    for width in (7, 0):
        touched, evens = SUMS[""](missing, rows[:, :width], 6)
        assert touched.tolist() == [0, 2, 4]
        assert evens.shape == (3, width)
        torch.testing.assert_close(evens, once[::2, :width], rtol=1e-5, atol=1e-5)
    assert len(SUMS[""](there(torch.full((5,), 6)), rows[:5], 6)[0]) == 0
    print("checked sums by id")


if __name__ == "__main__":
    DEVICE = torch.device(sys.argv[1])
    for op in sys.argv[2:]:
        check_sums() if op == "coalesce_rows" else check_cases(op)
