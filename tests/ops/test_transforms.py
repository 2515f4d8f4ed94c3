"""What torch does with an op beside calling it: other layouts of gradients, derivatives, vmap, export, tensors without data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only

from tests.case import randn
from tests.cases import CASES
from tests.ops.test_properties import as_tuple, differentiable, float_outputs, sampled


def first_sampled(of_floats=False, with_gradients=False):
    """Each op with the first of its samples."""
    parameters = []
    for case in CASES.values():
        sample = next(iter(case.samples(torch.float32)))
        floats = any(isinstance(a, Tensor) and a.is_floating_point() for a in sample.args)
        if (floats or not of_floats) and (case.differentiable or not with_gradients):
            parameters.append(pytest.param(case, sample, id=case.op))
    return pytest.mark.parametrize(("case", "sample"), parameters)


def same(found, wanted) -> bool:
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(found, wanted, strict=True))


@sampled(dtypes=False, differentiable=True)
def test_gradients_may_be_expanded_or_transposed(case, dtype, sample):
    """As those of a sum are, and of a transposed output: the same bits as of contiguous ones."""

    def gradients(seeded):
        args, leaves = differentiable(sample, case)
        outputs = [o for o in float_outputs(case.outputs(*args, **sample.kwargs)) if o.requires_grad]
        grads = torch.autograd.grad(outputs, leaves, list(map(seeded, outputs)), allow_unused=True)
        return [grad for grad in grads if grad is not None]

    drawn = lambda o: randn(*o.shape, seed=9).to(o.dtype)
    turned = lambda o: drawn(o).transpose(0, -1).contiguous().transpose(0, -1) if o.dim() > 1 else drawn(o)
    assert same(gradients(lambda o: o.new_ones(()).expand(o.shape)), gradients(torch.ones_like))
    assert same(gradients(turned), gradients(drawn))


@first_sampled(with_gradients=True)
def test_a_second_derivative_is_refused(case, sample):
    """Of whatever argument and of the upstream gradient: never zeros without a word."""
    args, leaves = differentiable(sample, case)
    outputs = [o for o in float_outputs(case.outputs(*args, **sample.kwargs)) if o.requires_grad]
    seeds = [torch.ones_like(o).requires_grad_() for o in outputs]
    for grad in torch.autograd.grad(outputs, leaves, seeds, create_graph=True):
        with pytest.raises(NotImplementedError, match=f"^{case.op}: expected a first derivative; got"):
            torch.autograd.grad(grad.sum(), [*leaves, *seeds], allow_unused=True, retain_graph=True)


@first_sampled(of_floats=True)
def test_forward_derivatives_are_refused(case, sample):
    """Of outputs that are whole numbers there is none to refuse."""
    for at, value in enumerate(sample.args):
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            continue
        with forward_ad.dual_level():
            args = list(sample.args)
            args[at] = forward_ad.make_dual(value, torch.ones_like(value))
            try:
                outputs = case.outputs(*args, **sample.kwargs)
            except NotImplementedError as error:
                assert str(error).startswith(f"{case.op}: expected plain tensors; got a dual tensor")
            else:
                assert not float_outputs(outputs), f"argument {at}"


@first_sampled()
def test_vmap_is_a_call_for_each(case, sample):
    both = [
        [a.roll(shift, 0) if shift and a.dim() else a for a in sample.args if isinstance(a, Tensor)]
        for shift in (0, 1)
    ]
    stacked = iter(map(torch.stack, zip(*both)))
    args = [next(stacked) if isinstance(a, Tensor) else a for a in sample.args]
    axes = tuple(0 if isinstance(a, Tensor) else None for a in sample.args)
    found = as_tuple(torch.vmap(lambda *a: case.function(*a, **sample.kwargs), in_dims=axes)(*args))
    for at in (0, 1):
        own = [a[at] if isinstance(a, Tensor) else a for a in args]
        assert same([f[at] for f in found], case.outputs(*own, **sample.kwargs))


@first_sampled()
def test_an_exported_program_has_the_same_bits(case, sample):
    class Model(nn.Module):
        def forward(self, *args):
            return case.function(*args, **sample.kwargs)

    program = torch.export.export(Model(), tuple(sample.args))
    assert same(as_tuple(program.module()(*sample.args)), case.outputs(*sample.args, **sample.kwargs))


@sampled(dtypes=False)
def test_tensors_of_a_gpu_without_data_have_the_same_shapes(case, dtype, sample):
    """Where torch knows no CUDA too: a program may be traced for a device that is not there."""
    made = lambda value: torch.empty(value.shape, dtype=value.dtype, device="cuda")
    with FakeTensorMode():
        args, kwargs = tree_map_only(Tensor, made, (sample.args, sample.kwargs))
        found = case.outputs(*args, **kwargs)
    wanted = case.outputs(*sample.args, **sample.kwargs)
    assert [(f.shape, f.dtype) for f in found] == [(w.shape, w.dtype) for w in wanted]
    assert {f.device.type for f in found} == {"cuda"}
