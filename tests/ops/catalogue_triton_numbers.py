"""Run with TRITON_INTERPRET=1: the Triton forms of the ops over the whole catalogue on CPU tensors, against their oracles."""

from __future__ import annotations

import sys
from unittest import mock

import torch
from rankdistill.kernels.triton import catalogue_log_mass as kernels
from rankdistill.kernels.triton import catalogue_products as products
from torch import Tensor

from tests.case import DTYPES, randn, widened
from tests.cases import CASES
from tests.catalogue_cases import all_but, counted_scores, lists, tables
from tests.ops.test_properties import assert_within
from tests.ops.triton_interpreter import first_rows  # mends the interpreter

DEVICE = torch.device("cpu")
FULLY = (torch.float32,)  # dtypes of which the interpreter takes all cases; of others some
SOME = ("plain", "nothing excluded", "ended by -1", "few or no items left")
MOST_SCORES = 60_000  # of a case under the interpreter, which takes seconds for so many
MASS, LUCE = "catalogue_log_mass", "catalogue_plackett_luce"


def there(value):
    return value.detach().to(DEVICE) if isinstance(value, Tensor) else value


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def forward_arguments(op: str, args: tuple) -> tuple:
    """As the public function would pass them on, but for the op's last argument."""
    if op == MASS:
        users, items, exclude, bias = (*args, None, None)[:4]
        return users, items, *(exclude or (None, None)), bias
    users, items, ids, lengths, exclude, bias = (*args, None, None, None)[:6]
    return users, items, ids, lengths, *(exclude or (None, None)), bias


def run(op: str, args: tuple, grad: Tensor, share: float = 0.0) -> tuple[Tensor, tuple[Tensor, ...]]:
    backend, given = CASES[op].module.TRITON, tuple(map(there, forward_arguments(op, args)))
    copies = [g.clone() if isinstance(g, Tensor) else g for g in given]
    value, *saved = backend["forward"](*given, share if op == MASS else True)
    grad = grad.to(DEVICE).to(value.dtype)
    grads = backend["backward"](grad, *given, *saved, *([share] if op == MASS else []))
    for g, copy in zip(given, copies, strict=True):
        assert not isinstance(g, Tensor) or same(g, copy), "an input was written"
    return value, grads


def check(
    op: str, name: str, dtype: torch.dtype, args: tuple, equal: bool = False, share: float = 0.0
) -> None:
    """`equal`: with equal gradients of all losses. `share`: of a log-mass that may be skipped."""
    case = CASES[op]
    wide = [
        widened(a).requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args
    ]
    expected = case.expected_with_grad(wide, {})[0]
    (budget,) = case.budget(dtype, (expected.detach(),), *args)
    grad = torch.full(expected.shape, 0.75) if equal else randn(*expected.shape, seed=9)
    grad = grad.masked_fill(~expected.detach().isfinite(), 0)
    value, grads = run(op, args, grad, share)
    assert_within(value.cpu(), expected.detach(), budget, f"{op}, {name}: value")
    leaves = [w for w in wide if isinstance(w, Tensor) and w.requires_grad]
    wanted = torch.autograd.grad(expected, leaves, grad.double())
    for found, right in zip(grads, wanted, strict=False):
        assert found.dtype == dtype
        assert_within(found.cpu(), right, case.grad_budget(dtype, right), f"{op}, {name}: gradient")
    if DEVICE.type != "cpu":  # the interpreter's programs run in turn
        again = run(op, args, grad, share)
        assert all(same(a, b) for a, b in zip((value, *grads), (again[0], *again[1]), strict=True)), name
    print("checked", op, dtype, name)


def check_cases(op: str) -> None:
    for dtype in DTYPES:
        for sample in CASES[op].samples(dtype):
            if DEVICE.type == "cpu" and dtype not in FULLY and not sample.name.startswith(SOME):
                continue
            args, n_items = sample.args, max(len(sample.args[1]), 1)
            if DEVICE.type == "cpu":
                args = first_rows(args, max(MOST_SCORES // n_items, 1))
            check(op, sample.name, dtype, args)
            if op == MASS and dtype == torch.float32:  # by tiles, which skip next to nothing
                check(op, sample.name, dtype, args, share=1e-30)
        wide = tables(dtype, 5, 130, 200, 9, 40)
        lists_of = lists(5, 130, 4, 41) if op == LUCE else ()
        check(op, "a wide table", dtype, (*wide[:2], *lists_of, wide[2]), equal=True)


def mass_paths() -> None:
    # Many pieces of rows and of the catalogue.
    users, items, exclude = tables(torch.float32, 150, 300, 12, 10, 50)
    grad, args = randn(150, seed=51), (users, items, exclude, randn(300, seed=52))
    assert isinstance(kernels.whole_catalogue(users, items, None, None, None), products.Products)
    whole = run(MASS, args, grad)
    with mock.patch.multiple(products, WORKSPACE_BYTES=1, MOST_ROWS=64):
        pieces = run(MASS, args, grad)
    for found, wanted in zip((pieces[0], *pieces[1]), (whole[0], *whole[1]), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    # Tiles, whose results do not depend on the pieces; skipping no more than 1e-30 of a row's mass.
    whole = run(MASS, args, grad, 1e-30)
    with mock.patch.object(kernels, "PART_BYTES", 1):
        pieces = run(MASS, args, grad, 1e-30)
    few = run(MASS, (users[:3], items, (exclude[0][:4], exclude[1]), args[3]), grad[:3], 1e-30)
    assert same(few[0], whole[0][:3])
    assert same(few[1][0], whole[1][0][:3])
    assert all(same(a, b) for a, b in zip(pieces[1], whole[1], strict=True))
    # Scores of 1e4 and more.
    users, items, exclude = tables(torch.float32, 9, 300, 12, 10, 53, 1e4)
    value, grads = run(MASS, (users, items, exclude), torch.ones(9))
    expected = CASES[MASS].expected(users, items, exclude)[0]
    (budget,) = CASES[MASS].budget(torch.float32, (expected,), users, items)
    assert_within(value.cpu(), expected, budget, "large scores")
    assert all(g.isfinite().all() for g in grads)
    print("checked rows by pieces, and large scores")
    skipped_blocks()
    not_finite()
    no_part()
    faulty_exclusions()


def skipped_blocks() -> None:
    """Skipped mass: low by no more than its share; a skewed table skips, and a tile's neighbours do not matter."""
    backend = CASES[MASS].module.TRITON
    users, items, exclude = tables(torch.float32, 70, 900, 8, 20, 60, 30.0)
    items = (items * torch.linspace(2, 0, 900)[:, None] ** 2).contiguous()
    bias = randn(900, seed=61)
    for item_bias in (None, bias):
        expected = CASES[MASS].expected(users, items, exclude, item_bias)[0]
        for share in (1e-6, 0.1, 0.9):
            given = [there(t) for t in (users, items, *exclude, item_bias)]
            value, tops, sums = backend["forward"](*given, share)
            low = expected - value.cpu().double()
            assert (low <= -torch.log1p(torch.tensor(-share, dtype=torch.float64)) + 1e-4).all()
            assert (low >= -1e-4).all()
            grad = randn(70, seed=62)
            grads = backend["backward"](there(grad), *given, tops, sums, share)
            scores = counted_scores(users.double(), items.double(), exclude, item_bias)
            p = (scores - value.cpu().double()[:, None]).exp()
            # An item that counts as nothing held less than its part of the share.
            bound = (grad.abs().double()[:, None] * share * items.double().norm(dim=1).amax()).expand(70, 8)
            assert ((grads[0].cpu().double() - (grad.double()[:, None] * p) @ items.double()).abs() <= bound + 5e-3).all()  # fmt: skip
            alone = [there(users[:1]), given[1], given[2][:2], given[3], given[4]]
            assert same(backend["forward"](*alone, share)[0], value[:1])
            assert (grads[1][-50:] == 0).all(), "the last items, of small norms, were not skipped"
        # In float64 their weights do not vanish by themselves.
        given = [t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in given]
        for share, skips in ((0.0, False), (0.1, True)):
            grads = backend["backward"](there(grad), *given, *backend["forward"](*given, share)[1:], share)
            assert (grads[1][-50:-1] == 0).all() == skips
    print("checked skipped blocks")


def not_finite() -> None:
    """NaN and +inf stay in their row; a row without a gradient touches nothing."""
    users, items, _ = tables(torch.float32, 70, 130, 6, 0, 70)
    grad = torch.ones(70)
    clean = run(MASS, (users, items), grad)
    for bad in (torch.nan, torch.inf):
        worse = users.clone()
        worse[3, 2] = bad
        value, grads = run(MASS, (worse, items), grad)
        assert value[3].isnan()
        others = torch.arange(70) != 3
        assert same(value[others], clean[0][others])
        assert same(grads[0][others], clean[1][0][others])
        value, grads = run(MASS, (worse, items), grad.masked_fill(~others, 0))
        assert all(g.isfinite().all() for g in grads)
        assert (grads[0][3] == 0).all()
    print("checked what is not finite")


def no_part() -> None:
    """Excluded items that are no numbers, and rows whose gradient is 0, leave no trace."""
    for dtype in (torch.float32, torch.float64):
        for op, share in ((MASS, 0.0), (MASS, 0.1), (LUCE, 0.0)):
            users, items, _ = tables(dtype, 6, 130, 6, 0, 71)
            listed = (torch.tensor([[5, 8]]).expand(6, 2).contiguous(), None) if op == LUCE else ()
            exclude = torch.arange(7), torch.full((6,), 7)
            clean = run(op, (users, items, *listed, exclude), randn(6, seed=72), share)
            # By tiles an excluded item that is no number still spoils its excluders: there is no register left to look.
            by_tiles = dtype == torch.float64 or share > 0
            for broken in () if by_tiles else (torch.nan, torch.inf, -torch.inf):
                worse = items.clone()
                worse[7, 2] = broken
                value, grads = run(op, (users, worse, *listed, exclude), randn(6, seed=72), share)
                assert same(value, clean[0])
                assert all(same(a, b) for a, b in zip(grads, clean[1], strict=True)), (
                    op,
                    dtype,
                    share,
                    broken,
                )
            if op == MASS and not by_tiles:
                one = torch.tensor([0, 0, 1, 1, 1, 1, 1]), torch.tensor([7])
                worse = items.clone()
                worse[7] = torch.nan
                grads = run(op, (users, worse, one), torch.ones(6), share)[1]
                assert grads[0].isfinite().all(1).tolist() == [False, True, False, False, False, False]
            worse = users.clone()
            worse[1, 0] = torch.nan
            for grad in (randn(6, seed=73), torch.zeros(6)):  # of different numbers, and of equal ones
                grad[1] = 0
                grads = run(op, (worse, items, *listed, exclude), grad, share)[1]
                assert all(g.isfinite().all() for g in grads), (op, dtype, share)
                assert (grads[0][1] == 0).all()
    print("checked what has no part")


def faulty_exclusions() -> None:
    """A malformed row is NaN and reads nothing out of range; sound rows are as without it."""
    users, items, _ = tables(torch.float32, 3, 130, 6, 0, 80)
    sound = CASES[MASS].expected(users, items, all_but([list(range(130))] * 3, 130))[0]
    for indptr, indices in (
        ([0, 0, 1, 2**40], [1, 3]),
        ([0, 0, 2, 1], [9, 1]),
        ([0, 0, 1, 2], [-1, 130]),
        ([0, 0, 1, -5], [130, 1]),
    ):
        exclude = torch.tensor(indptr), torch.tensor(indices)
        value, _ = run(MASS, (users, items, exclude), torch.zeros(3))
        assert (value[0].cpu().double() - sound[0]).abs() < 1e-4
        assert value[2].isnan()
        ids = torch.tensor([[5, 7]] * 3)
        value, _ = run(LUCE, (users, items, ids, None, exclude), torch.ones(3))
        assert value.isnan().tolist()[0] is False
        assert value[2].isnan()
    print("checked malformed exclusions")


def luce_paths() -> None:
    """Bad lists are NaN, touch nothing, and leave other rows alone."""
    users, items, exclude = tables(torch.float32, 6, 140, 9, 12, 90)
    ids, _ = lists(6, 140, 5, 91)
    lengths = torch.tensor([5, 0, 3, 4, 5, 2])
    clean, clean_grads = run(LUCE, (users, items, ids, lengths, exclude), torch.ones(6))
    assert clean[1] == 0
    assert (clean_grads[0][1] == 0).all()
    wrong, wrong_lengths = ids.clone(), lengths.clone()
    wrong[2, 1], wrong[3, 0] = 140, -2
    wrong_lengths[4] = 6
    wrong[5, 3:] = 10**12  # past its length
    value, grads = run(LUCE, (users, items, wrong, wrong_lengths, exclude), torch.ones(6))
    assert value.isnan().tolist() == [False, False, True, True, True, False]
    kept = [0, 1, 5]
    assert same(value[kept], clean[kept])
    assert same(grads[0][kept], clean_grads[0][kept])
    value, none = CASES[LUCE].module.TRITON["forward"](*map(there, forward_arguments(LUCE, (users, items, ids, lengths, exclude))), False)[:2]  # fmt: skip
    assert same(value, clean)
    assert none.shape == (0, 0)
    print("checked bad lists")


if __name__ == "__main__":
    DEVICE = torch.device(sys.argv[1])
    for part in sys.argv[2:]:
        if part == "paths":
            mass_paths()
            luce_paths()
        else:
            check_cases(part)
