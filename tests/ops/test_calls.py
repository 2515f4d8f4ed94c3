"""`registration.call`: what a plain call spares itself of the dispatcher changes nothing, and others still meet it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rankdistill import embedding_plackett_luce, gathered_inner_product, plackett_luce
from rankdistill.ops import registration
from tests.case import randint, randn
from tests.cases import CASES
from tests.ops.test_properties import differentiable, float_outputs
from tests.process import output

CALLED = sorted(
    op for op in CASES if registration.SHORTCUTS.get(f"{op}_forward") and not op.startswith("catalogue_")
)


@pytest.fixture
def direct(monkeypatch):
    """The schemas that were called without the dispatcher, in order."""
    taken = []

    def counted(schema, function):
        def run(*args):
            taken.append(schema)
            return function(*args)

        return run

    for schema, known in registration.SHORTCUTS.items():
        functions = {keys: counted(schema, function) for keys, function in known.functions.items()}
        monkeypatch.setattr(known, "functions", functions)
    return taken


def run(case, sample):
    args, leaves = differentiable(sample, case)
    outputs = case.outputs(*args, **sample.kwargs)
    losses = [o for o in float_outputs(outputs) if o.requires_grad]
    if losses:
        torch.autograd.backward(losses, [randn(*o.shape, seed=9).to(o.dtype) for o in losses])
    return [*outputs, *(leaf.grad for leaf in leaves)]


def same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.dtype, a.requires_grad, a.is_leaf) == (b.dtype, b.requires_grad, b.is_leaf)
            assert torch.equal(a.detach().nan_to_num(7.0), b.detach().nan_to_num(7.0))


def by_dispatcher(monkeypatch, function, *args):
    with monkeypatch.context() as patch:
        patch.setattr(registration, "NOBODY", -1)
        return function(*args)


@pytest.mark.parametrize("op", CALLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_give_the_same_bits_and_flags(op, dtype, monkeypatch, direct):
    case = CASES[op]
    for sample in case.samples(dtype):
        wanted = by_dispatcher(monkeypatch, run, case, sample)
        assert not direct
        found = run(case, sample)
        assert direct[0] == f"{op}_forward"
        assert any("backward" in schema for schema in direct)
        same(found, wanted)
        del direct[:]
        with torch.no_grad():
            same(case.outputs(*sample.args, **sample.kwargs), [o.detach() for o in wanted[: len(found)]][:1])
        assert direct == [f"{op}_forward"]
        del direct[:]


@pytest.mark.parametrize("op", CALLED)
def test_all_outputs_have_the_same_flags(op, monkeypatch, direct):
    """Those that the public function drops too: slopes and the like are not differentiable."""
    case = CASES[op]
    sample = next(iter(case.samples(torch.float32)))
    for overload, args in case.overload_calls(differentiable(sample, case)[0], sample.kwargs):
        if overload != f"{op}_forward":
            continue
        outputs = [registration.call(overload, *args), getattr(torch.ops.rankdistill, overload)(*args)]
        same(*(o if isinstance(o, tuple) else (o,) for o in outputs))
        assert direct == [overload]


def example():
    users, items = randn(3, 4, seed=1), randn(9, 4, seed=2)
    return users, items, randint(0, 9, (3, 5), seed=3)


def all_three(users, items, ids):
    scores = gathered_inner_product(users, items, ids)
    return plackett_luce(scores[:, :2], scores[:, 2:]) + embedding_plackett_luce(users, items, ids, 2)


def test_a_mode_sees_every_op(direct):
    seen = []

    class Listener(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    users, items, ids = example()
    with Listener():
        all_three(users.requires_grad_(), items.requires_grad_(), ids).sum().backward()
    for op in ("gathered_inner_product", "plackett_luce", "embedding_plackett_luce"):
        assert {f"rankdistill.{op}_forward.default", f"rankdistill.{op}_backward.default"} <= set(seen)
    assert not direct
    all_three(users, items, ids).sum().backward()
    assert len(direct) == 6


def test_a_mode_that_begins_before_the_backward_sees_that(direct):
    users, items, ids = example()
    loss = all_three(users.requires_grad_(), items, ids).sum()
    assert len(direct) == 3
    with torch.profiler.profile() as profile:
        loss.backward()
    assert len(direct) == 3
    names = {event.key for event in profile.key_averages()}
    assert {"rankdistill::plackett_luce_backward", "rankdistill::gathered_inner_product_backward"} <= names


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace says that it is deprecated
def test_others_go_through_the_dispatcher(direct):
    users, items, ids = example()
    expected = all_three(users, items, ids)
    assert len(direct) == 3

    def traced(function):
        return torch.jit.trace(function, (users, items), check_trace=False)(users, items)

    class Subclass(torch.Tensor):
        pass

    calls = {
        "a tensor's subclass": lambda: all_three(users.as_subclass(Subclass), items, ids),
        "a function mode": lambda: in_mode(torch.device("cpu")),
        "inference": lambda: in_mode(torch.inference_mode()),
        "a trace": lambda: traced(lambda u, i: all_three(u, i, ids)),
        "functorch": lambda: torch.func.functionalize(all_three)(users, items, ids),
        "below autograd": lambda: in_mode(torch._C._AutoDispatchBelowAutograd()),
        "compile": lambda: torch.compile(all_three, backend="aot_eager", fullgraph=True)(users, items, ids),
        "vmap": lambda: torch.func.vmap(plackett_luce)(expected.expand(2, 1, 3))[0],
    }

    def in_mode(mode):
        with mode:
            return all_three(users, items, ids)

    del direct[:]
    by_row = plackett_luce(expected[None])
    assert direct.pop() == "plackett_luce_forward"
    for name, function in calls.items():
        found = function()
        assert not direct, name
        assert torch.equal(found, by_row if name == "vmap" else expected), name
    # torch's own registration has no derivative for functorch.
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda u: all_three(u, items, ids).sum())(users)
    assert not direct


def test_tensors_without_data_go_through_the_dispatcher(direct):
    with FakeTensorMode() as mode:
        fake = [mode.from_tensor(t) for t in example()]
        assert all_three(*fake).shape == (3,)
    assert gathered_inner_product(*(t.to("meta") for t in example())).shape == (3, 5)
    zeros = torch._efficientzerotensor((2, 3))
    assert torch.equal(plackett_luce(zeros), plackett_luce(torch.zeros(2, 3)))
    assert direct == ["plackett_luce_forward"]
    conjugate = torch.complex(randn(2, 3), randn(2, 3, seed=1)).conj().imag
    assert conjugate.is_neg()
    assert torch.equal(plackett_luce(conjugate), plackett_luce(conjugate.resolve_neg()))


def test_autocast_changes_nothing(direct):
    users, items, ids = example()
    expected = all_three(users, items, ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(all_three(users, items, ids), expected)
    assert len(direct) == 6


def test_a_second_derivative_is_refused_either_way(monkeypatch, direct):
    def second():
        scores = randn(3, 4).requires_grad_()
        (grad,) = torch.autograd.grad(plackett_luce(scores).sum(), scores, create_graph=True)
        with pytest.raises(NotImplementedError) as caught:
            torch.autograd.grad(grad.sum(), scores)
        return str(caught.value)

    message = second()
    # The differentiable backward is the dispatcher's.
    assert direct == ["plackett_luce_forward"]
    assert by_dispatcher(monkeypatch, second) == message


def test_errors_of_a_backend_come_through(monkeypatch, direct):
    def error():
        users, items, ids = copy.deepcopy(example())
        ids[1, 2] = 9
        with pytest.raises(IndexError) as caught:
            embedding_plackett_luce(users.requires_grad_(), items, ids, 2)
        return str(caught.value)

    assert error() == by_dispatcher(monkeypatch, error)
    assert direct == ["embedding_plackett_luce_forward"]


def test_a_call_of_a_wrong_kind_is_the_dispatchers_to_refuse(direct):
    users, items, ids = example()
    with pytest.raises((TypeError, RuntimeError), match="embedding_plackett_luce_forward"):
        embedding_plackett_luce(users, items, ids, 2.0)
    assert not direct


def test_hooks_on_what_is_saved_see_it(direct):
    packed = []
    scores = randn(3, 4).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t, lambda t: t):
        loss = plackett_luce(scores).sum()
    loss.backward()
    assert torch.Size([3, 4]) in packed
    (again,) = torch.autograd.grad(
        torch.utils.checkpoint.checkpoint(plackett_luce, scores, use_reentrant=False).sum(), scores
    )
    assert torch.equal(again, scores.grad)
    assert direct.count("plackett_luce_forward") == 3


@pytest.mark.parametrize("missing", [*registration.PRIVATE, "_profiler_enabled"])
def test_a_torch_without_a_private_name_is_noticed(missing, monkeypatch):
    assert registration.may_be_direct()
    monkeypatch.delattr(torch.autograd if missing == "_profiler_enabled" else torch._C, missing)
    assert not registration.may_be_direct()


def test_a_torch_that_does_not_tell_of_transforms_may_have_one(monkeypatch):
    assert not registration.within_transform()
    monkeypatch.delattr(torch._C._functorch, "peek_interpreter_stack")
    assert registration.within_transform()
    assert registration.asks_gradients(randn(2))


WITHOUT = """
import builtins, types, torch
real, names = builtins.__import__, {names!r}

class Without:
    def __getattr__(self, name):
        if name in names:
            raise AttributeError(name)
        return getattr(torch._C, name)

def imported(name, globals=None, locals=None, fromlist=(), level=0):
    if name == "torch" and fromlist == ("_C",) and globals["__name__"] == "rankdistill.ops.registration":
        return types.SimpleNamespace(_C=Without())
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = imported
from rankdistill import plackett_luce
from rankdistill.ops import registration
assert not registration.DIRECT
scores = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
plackett_luce(scores).sum().backward()
print(scores.grad.tolist(), [known.functions for known in registration.SHORTCUTS.values() if known.functions])
"""


def test_without_private_names_calls_go_by_the_dispatcher():
    scores = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    plackett_luce(scores).sum().backward()
    code = WITHOUT.format(names=(*registration.PRIVATE, "_functorch"))
    assert output(code).strip() == f"{scores.grad.tolist()} []"
