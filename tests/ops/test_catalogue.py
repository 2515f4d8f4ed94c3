"""catalogue_log_mass and catalogue_plackett_luce beyond what every op is asked: mass that cancels, sizes, isolation."""

from __future__ import annotations

import functools

import pytest
import torch

from rankdistill import catalogue_log_mass, catalogue_plackett_luce, gathered_inner_product, plackett_luce
from tests.case import DTYPES, randn
from tests.catalogue_cases import all_but, counted_scores, lists, log_sums, tables


def gradients(function, *leaves, grad=None):
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    outputs = function(*leaves)
    return outputs.detach(), torch.autograd.grad(
        outputs, leaves, torch.ones_like(outputs) if grad is None else grad
    )


def test_by_hand():
    users, items = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.eye(2)
    exclude = torch.tensor([0, 1, 1]), torch.tensor([1])
    mass, (by_user, by_item) = gradients(lambda u, i: catalogue_log_mass(u, i, exclude), users, items)
    e2 = torch.tensor(2.0).exp()
    torch.testing.assert_close(mass, torch.stack([torch.tensor(1.0), (1 + e2).log()]))
    share = torch.stack([1 / (1 + e2), e2 / (1 + e2)])
    torch.testing.assert_close(by_user, torch.stack([torch.tensor([1.0, 0.0]), share]))
    torch.testing.assert_close(
        by_item,
        torch.stack([torch.tensor([1.0, 2 * share[0]]), torch.stack([torch.tensor(0.0), 2 * share[1]])]),
    )


def test_gradcheck_in_float64():
    users, items, exclude = tables(torch.float64, 5, 12, 3, 3, seed=1)
    bias = randn(12, seed=2, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (users, items, bias)]
    assert torch.autograd.gradcheck(lambda u, i, b: catalogue_log_mass(u, i, exclude, b), leaves)
    ids, lengths = lists(5, 12, 4, 3)
    losses = lambda u, i, b: catalogue_plackett_luce(u, i, ids, lengths, exclude, b)
    assert torch.autograd.gradcheck(losses, leaves)
    assert torch.autograd.gradcheck(lambda *t: losses(*t).mean(), leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
def test_scores_of_any_size(dtype, scale):
    """Finite, and within what the scores' own roundings allow."""
    if dtype == torch.float16 and scale == 1e4:
        scale = 3e3
    users, items, exclude = tables(dtype, 30, 3000, 24, 40, seed=3, scale=scale)
    mass, grads = gradients(lambda u, i: catalogue_log_mass(u, i, exclude), users, items)
    expected, wanted = gradients(
        lambda u, i: log_sums(counted_scores(u, i, exclude, None)), users.double(), items.double()
    )
    sizes = users.double().norm(dim=1) * items.double().norm(dim=1).amax()
    unit = 1e-14 if dtype == torch.float64 else 2e-6
    assert ((mass.double() - expected).abs() <= unit * sizes + unit).all()
    for found, right in zip(grads, wanted, strict=True):
        assert found.isfinite().all()
        lost = torch.finfo(dtype).eps if dtype.itemsize == 2 else 0.0
        assert (
            (found.double() - right).abs()
            <= (unit * float(sizes.max()) * 4 + lost) * (right.abs() + right.abs().amax())
        ).all()


def test_the_complement_is_summed_directly():
    """What is excluded holds all but 1e-25 of the mass: a total less a part would be zero or noise."""
    users, items = torch.ones(1, 4), torch.zeros(900, 4)
    items[:3] = 15.0
    exclude = torch.tensor([0, 3]), torch.tensor([0, 1, 2])
    torch.testing.assert_close(catalogue_log_mass(users, items, exclude), torch.tensor([897.0]).log())
    losses, (by_user, _by_item) = gradients(
        lambda u, i: catalogue_plackett_luce(u, i, torch.tensor([[0, 1, 2]])), users, items
    )
    wide = gradients(
        lambda u, i: catalogue_plackett_luce(u, i, torch.tensor([[0, 1, 2]])), users.double(), items.double()
    )
    torch.testing.assert_close(losses.double(), wide[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(by_user.double(), wide[1][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_left_is_minus_infinity_with_gradient_zero(dtype):
    users, items, _ = tables(dtype, 3, 40, 5, 0, seed=4)
    exclude = all_but([[], [7], []], 40)
    mass, grads = gradients(
        lambda u, i, b: catalogue_log_mass(u, i, exclude, b), users, items, randn(40, dtype=dtype)
    )
    assert mass[0] == mass[2] == -torch.inf
    assert mass[1].isfinite()
    assert (grads[0][[0, 2]] == 0).all()
    assert grads[2][7] == 1
    assert grads[2].sum() == 1
    torch.testing.assert_close(grads[1][7], users[1])
    assert catalogue_log_mass(users, items[:0]).tolist() == [-torch.inf] * 3


def test_biases_shift_the_mass():
    users, items, exclude = tables(torch.float32, 20, 1000, 8, 30, seed=5)
    mass = catalogue_log_mass(users, items, exclude)
    for shift in (-3.0, 50.0):
        shifted = catalogue_log_mass(users, items, exclude, torch.full((1000,), shift))
        torch.testing.assert_close(shifted, mass + shift, rtol=1e-6, atol=1e-5)
        ids, _ = lists(20, 1000, 5, 6)
        torch.testing.assert_close(
            catalogue_plackett_luce(users, items, ids, None, exclude, torch.full((1000,), shift)),
            catalogue_plackett_luce(users, items, ids, None, exclude), rtol=1e-5, atol=1e-4,
        )  # fmt: skip


@pytest.mark.parametrize("D", [5, 64])
def test_a_row_does_not_depend_on_the_batch(D):
    users, items, exclude = tables(torch.float32, 230, 1500, D, 30, seed=7)
    grad = randn(230, seed=8)
    mass, (by_user, by_item) = gradients(
        lambda u, i: catalogue_log_mass(u, i, exclude), users, items, grad=grad
    )
    ids, lengths = lists(230, 1500, 6, 9)
    losses, (slopes, _) = gradients(
        lambda u, i: catalogue_plackett_luce(u, i, ids, lengths, exclude), users, items
    )
    total = torch.zeros_like(by_item)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 17), slice(17, 130), slice(130, 230)):
        indptr = exclude[0][rows.start : rows.stop + 1]
        part = indptr - indptr[0], exclude[1][indptr[0] : indptr[-1]]
        of_mass = functools.partial(catalogue_log_mass, exclude=part)
        own, (own_by_user, own_by_item) = gradients(of_mass, users[rows], items, grad=grad[rows])
        assert torch.equal(own, mass[rows])
        assert torch.equal(own_by_user, by_user[rows])
        total += own_by_item
        of_list = functools.partial(
            catalogue_plackett_luce, item_ids=ids[rows], lengths=lengths[rows], exclude=part
        )
        own, (own_slopes, _) = gradients(of_list, users[rows], items)
        assert torch.equal(own, losses[rows])
        assert torch.equal(own_slopes, slopes[rows])
    torch.testing.assert_close(total, by_item, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_row_stays_alone(bad):
    users, items, exclude = tables(torch.float32, 30, 600, 8, 10, seed=10)
    before = gradients(lambda u, i: catalogue_log_mass(u, i, exclude), users, items)
    spoiled = users.clone()
    spoiled[11, 3] = bad
    mass, (by_user, _) = gradients(lambda u, i: catalogue_log_mass(u, i, exclude), spoiled, items)
    others = torch.arange(30) != 11
    assert mass[11].isnan()
    assert by_user[11].isnan().all()
    assert torch.equal(mass[others], before[0][others])
    assert torch.equal(by_user[others], before[1][0][others])
    # Without an upstream gradient it has no part in anything.
    grad = others.float()
    quiet = gradients(lambda u, i: catalogue_log_mass(u, i, exclude), spoiled, items, grad=grad)[1]
    assert (quiet[0][11] == 0).all()
    assert quiet[1].isfinite().all()


def test_repeated_exclusions_count_once():
    users, items, _ = tables(torch.float32, 4, 700, 8, 0, seed=11)
    kept = [[1, 5, 699], [0], [288, 289], list(range(600))]
    twice = all_but(kept, 700)
    once = torch.unique_consecutive(twice[1][: twice[0][1]])
    single = catalogue_log_mass(users[:1], items, (torch.tensor([0, len(once)]), once))
    assert torch.equal(catalogue_log_mass(users, items, twice)[:1], single)
    for b, row in enumerate(kept):
        expected = (users[b] @ items[row].t()).logsumexp(0)
        torch.testing.assert_close(catalogue_log_mass(users, items, twice)[b], expected)


@pytest.mark.parametrize("share", [1e-3, 1e-6])
def test_what_is_skipped_is_bounded(share):
    """Items by falling norm: most blocks hold nothing that counts."""
    users, items = randn(40, 16, seed=12), randn(6000, 16, seed=13)
    items *= 2.0 * torch.logspace(0.5, -3, 6000)[:, None]
    exact, exact_grads = gradients(catalogue_log_mass, users, items)
    mass, grads = gradients(lambda u, i: catalogue_log_mass(u, i, skipped_mass=share), users, items)
    lost = exact.double() - mass.double()
    rounding = 2e-6 * (1 + exact.abs().max())
    assert (lost >= -rounding).all()
    assert (lost <= -torch.log1p(torch.tensor(-share)) + rounding).all()
    bound = 2 * share * items.norm(dim=1).amax() + 1e-5
    assert (grads[0] - exact_grads[0]).norm(dim=1).amax() <= bound
    skipped = (grads[1] == 0).all(1)
    assert skipped.any(), "expected blocks to be skipped"
    assert (exact_grads[1][skipped].norm(dim=1) <= 2 * share / 6000 * users.norm(dim=1).sum()).all()


def test_unequal_upstream_gradients_are_computed_again():
    """The forward prepares gradients for equal ones; both ways agree, and a batch in one piece with one in several."""
    users, items, exclude = tables(torch.float32, 120, 900, 64, 20, seed=14)
    ids, lengths = lists(120, 900, 7, 15)
    losses = lambda u, i: catalogue_plackett_luce(u, i, ids, lengths, exclude)
    grad = torch.ones(120)
    equal = gradients(losses, users, items, grad=grad)
    grad[::2] += 1e-6
    unequal = gradients(losses, users, items, grad=grad)
    for one, other in zip(equal[1], unequal[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(catalogue_plackett_luce(users, items, ids, lengths, exclude), equal[0])


def test_one_listed_item_is_softmax_cross_entropy():
    users, items, _ = tables(torch.float32, 50, 800, 32, 0, seed=16)
    wanted = torch.randint(0, 800, (50,), generator=torch.Generator().manual_seed(17))
    expected = torch.nn.functional.cross_entropy(users @ items.t(), wanted, reduction="none")
    torch.testing.assert_close(
        catalogue_plackett_luce(users, items, wanted[:, None]), expected, rtol=1e-6, atol=2e-6
    )


def test_what_stands_behind_a_list_never_matters():
    users, items, _ = tables(torch.float32, 6, 90, 8, 0, seed=18)
    ids, _lengths = lists(6, 90, 9, 19)
    lengths = torch.tensor([0, 1, 3, 9, 2, 0])
    expected = catalogue_plackett_luce(users, items, ids, lengths)
    padding = torch.arange(9) >= lengths[:, None]
    for filler in (-1, 5, 10**12, -7):
        assert torch.equal(
            catalogue_plackett_luce(users, items, ids.masked_fill(padding, filler), lengths), expected
        )
    ended = ids.masked_fill(padding, -1)
    assert torch.equal(catalogue_plackett_luce(users, items, ended), expected)
    assert expected[0] == expected[5] == 0


def test_the_tail_is_what_a_list_of_all_others_gives():
    users, items, _ = tables(torch.float32, 7, 60, 8, 0, seed=20)
    order = torch.stack([torch.randperm(60, generator=torch.Generator().manual_seed(b)) for b in range(7)])
    scores = (users @ items.t()).gather(1, order)
    torch.testing.assert_close(
        catalogue_plackett_luce(users, items, order[:, :12]), plackett_luce(scores[:, :12], scores[:, 12:]), rtol=1e-5, atol=1e-5
    )  # fmt: skip


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_an_item_that_every_row_lists(scale):
    """Its gradient is the small difference of two sums over the rows: no further off than torch's, which sums in a tree."""
    users, items, _ = tables(torch.float32, 6000, 120, 20, 0, seed=21, scale=scale)
    bias = randn(120, seed=22)
    everyone = torch.zeros(6000, 1, dtype=torch.int64)
    cross_entropy = lambda u, i, b: torch.nn.functional.cross_entropy(
        u @ i.T + b, everyone[:, 0], reduction="none"
    )
    ours = lambda u, i, b: catalogue_plackett_luce(u, i, everyone, item_bias=b)
    exact = gradients(cross_entropy, users.double(), items.double(), bias.double())[1]
    found, by_torch = (gradients(f, users, items, bias)[1] for f in (ours, cross_entropy))
    for mine, other, right in zip(found, by_torch, exact, strict=True):
        budget = 2e-6 * (1 + right.abs())
        error, allowed = ((g - right).abs() / budget for g in (mine, other))
        assert error.max() <= max(2.0, 2 * allowed.max())  # without fused multiply-adds 1.4


@pytest.mark.parametrize("D", [700, 4096])
def test_rows_whose_roundings_all_go_one_way(D):
    """Constant rows: one chain of D roundings would leave 1.5 to 5 times the budget."""
    shares = torch.linspace(0.9, 2.1, 40)
    for share in shares:
        users, items = torch.full((1, D), float(share) / D**0.5), torch.full((30, D), 1.7 / D**0.5)
        exact = (users.double() @ items.double().T).logsumexp(1)
        assert (catalogue_log_mass(users, items).double() - exact).abs() <= 2.5e-6 * exact
        exact = users.double() @ items.double().T
        scores = gathered_inner_product(users, items, torch.arange(30)[None]).double()
        assert ((scores - exact).abs() <= 1e-6 * float(users.norm() * items[0].norm())).all()
