"""What CONTRACT demands of every op, driven by tests/cases.py."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rankdistill import ops, prepare_items
from rankdistill.ops.registration import CHOICES
from tests.case import Case, Sample, randn, widened
from tests.cases import CASES


def float_outputs(outputs):
    return [o for o in outputs if o.is_floating_point()]


def sampled(dtypes=True, differentiable=False):
    """(case, dtype, sample) triples, one test each; of all dtypes of a case, of fp32, or of those given."""
    parameters = []
    for case in CASES.values():
        if differentiable and not case.differentiable:
            continue
        wanted = case.dtypes if dtypes is True else dtypes or (torch.float32,)
        for dtype in [d for d in wanted if d in case.dtypes]:
            for sample in case.samples(dtype):
                name = f"{case.op}-{str(dtype).removeprefix('torch.')}-{sample.name}"
                parameters.append(pytest.param(case, dtype, sample, id=name))
    return pytest.mark.parametrize(("case", "dtype", "sample"), parameters)


def differentiable(sample: Sample, case: Case):
    """The sample's arguments with fresh leaves that require gradients, and those leaves."""
    args = list(copy.deepcopy(sample.args))
    for position in case.differentiable:
        if position < len(args) and isinstance(args[position], Tensor) and args[position].is_floating_point():
            args[position] = args[position].clone().requires_grad_()
    return args, [a for a in args if isinstance(a, Tensor) and a.requires_grad]


def assert_within(actual: Tensor, expected: Tensor, budget: Tensor, what: str) -> None:
    assert actual.shape == expected.shape, what
    actual = actual.double()
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    error = torch.where(same, 0.0, (actual - expected).abs())
    worst = (error - budget).max() if error.numel() else torch.tensor(0.0)
    assert not error.isnan().any(), f"{what}: NaN where the oracle has none"
    assert worst <= 0, f"{what}: error {error.max():.3e} over its budget by {worst:.3e}"


@sampled()
def test_value_is_the_oracles(case, dtype, sample):
    expected = case.expected(*sample.args, **sample.kwargs)
    budgets = iter(case.budget(dtype, expected, *sample.args, **sample.kwargs))
    for i, (actual, wanted) in enumerate(
        zip(case.outputs(*sample.args, **sample.kwargs), expected, strict=True)
    ):
        if actual.is_floating_point():
            assert_within(actual, wanted, next(budgets), f"output {i}")
        else:
            assert torch.equal(actual, wanted.to(actual.dtype)), f"output {i}"


@sampled(dtypes=False, differentiable=True)
def test_a_recomputed_gradient_is_the_same(case, dtype, sample):
    """Under torch.utils.checkpoint, which hands out what is saved once."""
    found = []
    for recomputed in (False, True):
        args, leaves = differentiable(sample, case)
        made = lambda *args: float_outputs(case.outputs(*args, **sample.kwargs))
        outputs = checkpoint(made, *args, use_reentrant=False) if recomputed else made(*args)
        outputs = [o for o in outputs if o.requires_grad]
        found.append(torch.autograd.grad(outputs, leaves, [torch.ones_like(o) for o in outputs], True))
    for grad, again in zip(*found, strict=True):
        assert (grad is None and again is None) or torch.equal(grad.nan_to_num(), again.nan_to_num())


@sampled(differentiable=True)
def test_gradient_is_the_oracles(case, dtype, sample):
    args, leaves = differentiable(sample, case)
    outputs = float_outputs(case.outputs(*args, **sample.kwargs))
    wide = [
        widened(a).requires_grad_() if isinstance(a, Tensor) and a.requires_grad else widened(a) for a in args
    ]
    expected = float_outputs(case.expected_with_grad(wide, sample.kwargs))
    seeds = [randn(*o.shape, seed=9).masked_fill(~o.detach().isfinite(), 0.0) for o in expected]
    torch.autograd.backward(outputs, [s.to(o.dtype) for s, o in zip(seeds, outputs, strict=True)])
    torch.autograd.backward(expected, [s.double() for s in seeds])
    for leaf, wanted in zip(
        leaves, [w for w in wide if isinstance(w, Tensor) and w.requires_grad], strict=True
    ):
        assert leaf.grad.dtype == leaf.dtype
        assert_within(leaf.grad, wanted.grad, case.grad_budget(dtype, wanted.grad), "gradient")


def errors_by_budget(function, sample: Sample, case: Case, seeds, wanted, budgets) -> list[float]:
    """The largest error of each float output and gradient of a function of the op's arguments, as a share of its budget."""
    args, leaves = differentiable(sample, case)
    outputs = float_outputs(function(args, sample.kwargs))
    torch.autograd.backward(outputs, [s.to(o.dtype) for s, o in zip(seeds, outputs, strict=True)])
    shares = []
    for found, expected, budget in zip(
        [*outputs, *(leaf.grad for leaf in leaves)], wanted, budgets, strict=True
    ):
        found, expected = found.detach().double(), expected.detach()
        same = (found == expected) | (found.isnan() & expected.isnan())
        share = torch.where(same, 0.0, (found - expected).abs() / budget)
        shares.append(float(share.max()) if share.numel() else 0.0)
    return shares


@sampled(dtypes=(torch.float32, torch.float64), differentiable=True)
def test_errors_are_at_most_twice_those_of_naive_torch_or_a_tenth_of_the_budget(case, dtype, sample):
    """The second gate of kernels/README.md; the oracle in the op's own dtype is naive torch."""
    args, _ = differentiable(sample, case)
    wide = [
        widened(a).requires_grad_() if isinstance(a, Tensor) and a.requires_grad else widened(a) for a in args
    ]
    expected = float_outputs(case.expected_with_grad(wide, sample.kwargs))
    seeds = [randn(*o.shape, seed=9).masked_fill(~o.detach().isfinite(), 0.0) for o in expected]
    torch.autograd.backward(expected, seeds)
    grads = [a.grad for a in wide if isinstance(a, Tensor) and a.requires_grad]
    given = case.budget(dtype, tuple(o.detach() for o in expected), *sample.args, **sample.kwargs)
    given = (seeds, [*expected, *grads], [*given, *(case.grad_budget(dtype, grad) for grad in grads)])
    ours = errors_by_budget(lambda args, kwargs: case.outputs(*args, **kwargs), sample, case, *given)
    naive = errors_by_budget(case.expected_with_grad, sample, case, *given)
    for own, other in zip(ours, naive, strict=True):
        assert own <= max(2 * other, 0.1), f"{own:.3f} of the budget, naive torch {other:.3f}"


@sampled(dtypes=False)
def test_inputs_are_not_written_and_not_returned(case, dtype, sample):
    before = copy.deepcopy(sample.args)
    outputs = case.outputs(*sample.args, **sample.kwargs)
    for argument, kept in zip(sample.args, before, strict=True):
        if isinstance(argument, Tensor):
            assert torch.equal(argument.nan_to_num(7.0), kept.nan_to_num(7.0))
            if argument.numel():
                assert all(o.data_ptr() != argument.data_ptr() for o in outputs if o.numel())


@sampled(dtypes=False)
def test_layout_does_not_matter(case, dtype, sample):
    def scattered(value):
        if not isinstance(value, Tensor) or value.dim() != 2:
            return value
        wide = torch.full((value.shape[0], 2 * value.shape[1] + 1), 3, dtype=value.dtype)
        wide[:, 1::2] = value
        return wide[:, 1::2]

    expected = case.outputs(*sample.args, **sample.kwargs)
    transposed = [
        a.t().contiguous().t() if isinstance(a, Tensor) and a.dim() == 2 else a for a in sample.args
    ]
    for args in (map(scattered, sample.args), transposed):
        for actual, wanted in zip(case.outputs(*args, **sample.kwargs), expected, strict=True):
            assert torch.equal(actual.nan_to_num(7.0), wanted.nan_to_num(7.0))


@sampled(dtypes=False)
def test_bits_do_not_depend_on_threads(case, dtype, sample):
    def run():
        args, leaves = differentiable(sample, case)
        outputs = case.outputs(*args, **sample.kwargs)
        differentiable_outputs = [o for o in float_outputs(outputs) if o.requires_grad]
        if leaves and differentiable_outputs and case.differentiable:
            torch.autograd.backward(
                differentiable_outputs, [torch.ones_like(o) for o in differentiable_outputs]
            )
        return [*outputs, *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(run())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(
            torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(results[0], other, strict=True)
        )


@sampled(dtypes=False)
def test_compiles_as_one_graph(case, dtype, sample):
    torch._dynamo.reset()
    compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
    expected = case.outputs(*sample.args, **sample.kwargs)
    actual = compiled(*sample.args, **sample.kwargs)
    for a, b in zip(actual if isinstance(actual, tuple) else (actual,), expected, strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


@sampled(dtypes=False)
def test_opcheck(case, dtype, sample):
    """Schema, fake tensors, autograd registration and dynamic shapes of every overload, as torch checks them."""
    for overload, args in case.overload_calls(differentiable(sample, case)[0], sample.kwargs):
        torch.library.opcheck(getattr(torch.ops.rankdistill, overload).default, args)


@sampled(dtypes=False)
def test_every_backend_has_the_ops_values(case, dtype, sample):
    """Backends are called directly: what serves the dispatcher does not matter here."""
    for overload, args in case.overload_calls(sample.args, sample.kwargs):
        suffix = overload.removeprefix(case.op).removeprefix("_")
        results = {name: getattr(case.module, name)[suffix](*args) for name in case.backends}
        for other in results.values():
            for actual, wanted in zip(as_tuple(other), as_tuple(results["REFERENCE"]), strict=True):
                torch.testing.assert_close(actual, wanted, equal_nan=True, **case.backend_tolerance)


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@pytest.mark.parametrize(
    ("case", "bad"),
    [pytest.param(c, b, id=f"{c.op}-{b.name}") for c in CASES.values() for b in c.bad_samples()],
)
def test_bad_input_is_a_clear_error(case, bad):
    with pytest.raises(bad.error, match=bad.match):
        case.function(*bad.args, **bad.kwargs)


@pytest.mark.parametrize("op", CASES)
def test_the_best_backend_serves_the_cpu(op):
    """No fallback in disguise: where the module was built, it serves."""
    pytest.importorskip("rankdistill._native", reason="no compiled CPU module")
    _ = CASES[op].module
    assert CHOICES[op, "CPU"].backend == CASES[op].backends[0].lower()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tables_of_no_columns_and_lists_of_no_scores(dtype):
    """Their address is null, however they are stored: every score is 0."""
    users, items = torch.zeros(3, 0, dtype=dtype), torch.zeros(50, 0, dtype=dtype)
    assert ops.inner_product_topk(users, items, 4).indices.tolist() == [[0, 1, 2, 3]] * 3
    assert ops.inner_product_rank(users, items, torch.tensor([[0], [7], [49]])).tolist() == [[0], [7], [49]]
    assert ops.catalogue_log_mass(users, items).tolist() == pytest.approx([math.log(50)] * 3, rel=1e-6)
    empty, tail = torch.zeros(3, 0, dtype=dtype), torch.ones(3, 5, dtype=dtype)
    assert ops.plackett_luce(empty, tail).tolist() == [0.0] * 3 == ops.plackett_luce(empty, empty).tolist()


def mixes():
    """(case, arguments, position): float tensors beside one another, and which of them is to be of half precision."""
    for case in CASES.values():
        for sample in list(case.samples(torch.float32))[:3]:
            floats = [
                at for at, a in enumerate(sample.args) if isinstance(a, Tensor) and a.is_floating_point()
            ]
            for at in floats if len(floats) > 1 else ():
                yield pytest.param(case, sample, at, id=f"{case.op}-{sample.name}-{at}")


@pytest.mark.parametrize(("case", "sample", "at"), list(mixes()))
def test_autocast_gives_half_precision_beside_a_table(case, sample, at):
    """As torch's own operations, an op then takes both in the wider dtype; gradients come back in each one's own."""
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        args = list(sample.args)
        args[at] = args[at].bfloat16().to(dtype)
        args, leaves = differentiable(Sample("", tuple(args)), case)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = case.outputs(*args, **sample.kwargs)
        asked = [o for o in float_outputs(outputs) if o.requires_grad]
        grads = torch.autograd.grad(asked, leaves, [torch.ones_like(o) for o in asked], True) if asked else ()
        assert [g.dtype for g in grads] == [leaf.dtype for leaf in leaves][: len(grads)]
        found.append([*outputs, *(g.to(leaf.dtype) for g, leaf in zip(grads, leaves))])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.to(a.dtype).nan_to_num(7.0))


OF_ONE_DTYPE = (
    "catalogue_log_mass", "catalogue_plackett_luce", "cross_relation_distance", "embedding_plackett_luce",
    "gathered_inner_product", "inner_product_rank", "inner_product_topk", "plackett_luce", "relation",
)  # fmt: skip


@pytest.mark.parametrize("op", OF_ONE_DTYPE)
def test_without_autocast_two_dtypes_stay_an_error(op):
    case = CASES[op]
    sample = next(s for s in case.samples(torch.float32) if isinstance(s.args[1], Tensor))
    at = max(at for at, a in enumerate(sample.args) if isinstance(a, Tensor) and a.is_floating_point())
    args = [a.bfloat16() if i == at else a for i, a in enumerate(sample.args)]
    with pytest.raises(TypeError, match=f"^{op}: expected .* with the dtype of"):
        case.function(*args, **sample.kwargs)
    with torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(case.function, fullgraph=True, backend="aot_eager")
        torch._dynamo.reset()
        for a, b in zip(
            as_tuple(compiled(*args, **sample.kwargs)), case.outputs(*args, **sample.kwargs), strict=True
        ):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


@pytest.mark.parametrize("narrow", ["users", "items"])
def test_autocast_gives_half_precision_beside_prepared_items(narrow):
    users, items = randn(4, 8, seed=1), randn(300, 8, seed=2)
    half = {"users": users.bfloat16(), "items": items.bfloat16()}
    given = {"users": users, "items": items, narrow: half[narrow]}
    wanted = ops.inner_product_topk(given["users"].float(), given["items"].float(), 5)
    prepared = prepare_items(given["items"])
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.inner_product_topk(given["users"], prepared, 5)
    assert all(map(torch.equal, found, wanted))
