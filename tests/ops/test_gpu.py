"""Every op on a CUDA device: the samplers' draws are the processor's bit for bit, the rest meets its oracle."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from rankdistill import (
    LazyAdam,
    LazySGD,
    catalogue_log_mass,
    catalogue_plackett_luce,
    complement_sample,
    dropout_mask,
    embedding_plackett_luce,
    gathered_inner_product,
    gumbel_noise,
    position_sample,
    routed_experts,
)
from rankdistill.ops.registration import CHOICES, Unavailable
from tests.case import Sample, randint, randn, widened
from tests.cases import CASES
from tests.ops.test_properties import assert_within, differentiable, float_outputs, sampled
from tests.process import output

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")


def moved(value, device=CUDA):
    """A copy of an argument on `device`, whatever it is nested in."""
    if isinstance(value, Tensor):
        copy = value.detach().to(device)
        return copy.requires_grad_(value.requires_grad)
    if isinstance(value, (tuple, list)):
        return type(value)(moved(v, device) for v in value)
    if isinstance(value, dict):
        return {k: moved(v, device) for k, v in value.items()}
    return value


def same_bits(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.cpu().nan_to_num(7.0), b.cpu().nan_to_num(7.0))
    )


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@sampled()
def test_value_is_the_oracles(case, dtype, sample):
    expected = case.expected(*sample.args, **sample.kwargs)
    budgets = iter(case.budget(dtype, expected, *sample.args, **sample.kwargs))
    for i, (actual, wanted) in enumerate(
        zip(case.outputs(*moved(sample.args), **moved(sample.kwargs)), expected, strict=True)
    ):
        assert actual.device.type == "cuda"
        if actual.is_floating_point():
            assert_within(actual.cpu(), wanted, next(budgets), f"output {i}")
        else:
            assert torch.equal(actual.cpu(), wanted.to(actual.dtype)), f"output {i}"


@sampled()
def test_gradient_is_the_oracles(case, dtype, sample):
    if not case.differentiable:
        pytest.skip("not differentiable")
    args, leaves = differentiable(sample, case)
    wide = [
        widened(a).requires_grad_() if isinstance(a, Tensor) and a.requires_grad else widened(a) for a in args
    ]
    expected = float_outputs(case.expected_with_grad(wide, sample.kwargs))
    seeds = [randn(*o.shape, seed=9).masked_fill(~o.detach().isfinite(), 0.0) for o in expected]
    there = moved(args)
    outputs = float_outputs(case.outputs(*there, **moved(sample.kwargs)))
    torch.autograd.backward(outputs, [s.to(o) for s, o in zip(seeds, outputs, strict=True)])
    torch.autograd.backward(expected, [s.double() for s in seeds])
    grads = [a.grad for a in there if isinstance(a, Tensor) and a.requires_grad]
    assert len(grads) == len(leaves)
    for grad, wanted in zip(
        grads, [w.grad for w in wide if isinstance(w, Tensor) and w.requires_grad], strict=True
    ):
        assert_within(grad.cpu(), wanted, case.grad_budget(dtype, wanted), "gradient")


@sampled(dtypes=False)
def test_same_bits_twice_and_on_another_stream(case, dtype, sample):
    args, kwargs = moved(sample.args), moved(sample.kwargs)
    first = case.outputs(*args, **kwargs)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        second = case.outputs(*args, **kwargs)
    torch.cuda.synchronize()
    assert all(same_bits(a, b) for a, b in zip(first, second, strict=True))


@sampled(dtypes=False)
def test_every_cuda_backend_has_the_references_values(case, dtype, sample):
    """Backends are called directly, whichever of them serves the dispatcher."""
    backends = [
        name for name in ("CUDA", "TRITON")
        if hasattr(case.module, name) and not isinstance(getattr(case.module, name), Unavailable)
    ]  # fmt: skip
    if not backends:
        pytest.skip("the reference is the only backend on CUDA, or the others were not built")
    for overload, args in case.overload_calls(sample.args, sample.kwargs):
        suffix = overload.removeprefix(case.op).removeprefix("_")
        wanted = as_tuple(case.module.REFERENCE[suffix](*moved(args)))
        for backend in backends:
            functions = getattr(case.module, backend)
            if suffix not in functions:
                continue
            for actual, expected in zip(as_tuple(functions[suffix](*moved(args))), wanted, strict=True):
                torch.testing.assert_close(actual, expected, equal_nan=True, **case.backend_tolerance)


@pytest.mark.parametrize("op", sorted({op for op, _ in CHOICES}))
def test_the_best_backend_serves(op):
    """No fallback in disguise: a better backend is passed over only where it was not built."""
    for name, why in CHOICES[op, "CUDA"].passed_over.items():
        assert "no compiled CUDA module" in why.reason or "not installed" in why.reason, (
            f"{name}: {why.reason}"
        )


def csr(n_users: int, n_items: int, density: float, seed: int) -> tuple[Tensor, Tensor]:
    picked = torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed)) < density
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), picked.sum(1).cumsum(0)])
    return indptr, picked.nonzero()[:, 1].contiguous()


POSITION = {
    "plain": (64, 100, 10),
    "R = 0": (0, 100, 10),
    "K = 0": (16, 100, 0),
    "one row, one draw": (1, 1, 1),
    "lists shorter than K": (50, 6, 9),
    "longer than a block": (20, 1000, 40),
    "not a multiple of anything": (37, 131, 129),
}


@pytest.mark.parametrize("shape", POSITION)
@pytest.mark.parametrize("temperature", [1e-310, 1e-3, 1.0, 10.0, 1e6])
def test_position_sample_draws_as_the_processor(shape, temperature):
    R, longest, K = POSITION[shape]
    users = randint(0, 2**32, (R,), seed=1)
    lengths = randint(0, longest + 1, (R,), seed=2)
    draw = {"seed": 12345678901234567, "epoch": 3, "stream": 7}
    wanted = position_sample(users, lengths, K, temperature, **draw)
    drawn = position_sample(users.to(CUDA), lengths.to(CUDA), K, temperature, **draw)
    assert drawn.device.type == "cuda"
    assert torch.equal(drawn.cpu(), wanted)


@pytest.mark.parametrize(("B", "count"), [(1, 1), (1000, 30), (33, 131), (0, 4)])
def test_gumbel_noise_draws_as_the_processor(B, count):
    ids, parts = randint(0, 2**32, (B,), seed=1), randint(0, 2, (B,), seed=2)
    draw = {"seed": 12345678901234567, "epoch": 3, "step": 9, "stream": 7}
    for more in ({}, {"parts": parts}):
        there = {name: part.to(CUDA) for name, part in more.items()}
        drawn = gumbel_noise(ids.to(CUDA), count, **draw, **there)
        assert drawn.device.type == "cuda"
        assert torch.equal(drawn.cpu(), gumbel_noise(ids, count, **draw, **more))


@pytest.mark.parametrize(("B", "M", "W"), [(1, 1, 1), (1000, 5, 200), (33, 3, 37), (0, 2, 4), (4, 0, 4)])
def test_dropout_masks_are_those_of_the_processor(B, M, W):
    ids = randint(0, 2**32, (B,), seed=1)
    draw = {"seed": 12345678901234567, "epoch": 3, "step": 9, "stream": 7}
    kept = dropout_mask(ids.to(CUDA), M, W, 0.2, **draw)
    assert kept.device.type == "cuda"
    assert torch.equal(kept.cpu(), dropout_mask(ids, M, W, 0.2, **draw))


@pytest.mark.parametrize(("seed", "epoch", "stream"), [(0, 0, 0), (-1, -1, 255), (2**63 - 1, 2**32 - 1, 1)])
def test_samplers_take_any_seed(seed, epoch, stream):
    users, lengths = torch.arange(40), torch.full((40,), 60)
    draw = {"seed": seed, "epoch": epoch, "stream": stream}
    there = position_sample(users.to(CUDA), lengths.to(CUDA), 8, 20.0, **draw)
    assert torch.equal(there.cpu(), position_sample(users, lengths, 8, 20.0, **draw))
    there = complement_sample(users.to(CUDA), 1000, 8, **draw)
    assert torch.equal(there.cpu(), complement_sample(users, 1000, 8, **draw))


COMPLEMENT = {
    "plain": (64, 20, 500, 10, 0.1),
    "R = 0": (0, 20, 500, 10, 0.1),
    "L = 0": (16, 20, 500, 0, 0.1),
    "no items": (16, 20, 0, 3, 0.1),
    "nearly all excluded": (64, 20, 500, 12, 0.98),
    "exhausted": (64, 20, 12, 12, 0.5),
    "all excluded": (10, 20, 30, 4, 1.1),
    "more rows than a block": (1000, 300, 70, 5, 0.3),
}


@pytest.mark.parametrize("shape", COMPLEMENT)
@pytest.mark.parametrize("parts", ["exclude", "listed", "exclude, listed, positions", "neither"])
def test_complement_sample_draws_as_the_processor(shape, parts):
    R, U, N, L, density = COMPLEMENT[shape]
    users = randint(0, U, (R,), seed=1)
    kwargs = {
        "exclude": csr(U, N, density, seed=2) if "exclude" in parts else None,
        "listed": randint(-1, max(N, 1), (U, 7), seed=3).int() if "listed" in parts else None,
        "positions": torch.arange(R) * L if "positions" in parts else None,
        "seed": 99,
        "epoch": 1,
    }
    wanted = complement_sample(users, N, L, **kwargs)
    drawn = complement_sample(users.to(CUDA), N, L, **moved(kwargs))
    assert drawn.device.type == "cuda"
    assert torch.equal(drawn.cpu(), wanted)


def test_complement_sample_a_user_out_of_range_gets_no_items():
    users = torch.tensor([0, -1, 3, 2**40, 2])
    kwargs = {"exclude": csr(3, 50, 0.2, seed=2), "listed": randint(-1, 50, (3, 4), seed=3).int(), "seed": 5}
    drawn = complement_sample(users.to(CUDA), 50, 6, **moved(kwargs)).cpu()
    good = torch.tensor([0, 4])
    assert torch.equal(drawn[good], complement_sample(users[good], 50, 6, **kwargs))
    assert (drawn[1:4] == -1).all()


def test_complement_sample_a_malformed_exclusion_gets_no_items():
    indptr, indices = torch.tensor([0, 2, 9, 3]), torch.tensor([0, 1, 2])
    drawn = complement_sample(
        torch.arange(3).to(CUDA), 10, 2, (indptr.to(CUDA), indices.to(CUDA)), seed=0
    ).cpu()
    assert (drawn[0] >= 2).all()
    assert (drawn[1:] == -1).all()


def test_samplers_draw_the_same_in_any_batch():
    users, lengths = torch.arange(100).to(CUDA), torch.full((100,), 40).to(CUDA)
    whole = position_sample(users, lengths, 5, 10.0, seed=1)
    halves = [
        position_sample(u, n, 5, 10.0, seed=1)
        for u, n in zip(users.split(33), lengths.split(33), strict=True)
    ]
    assert torch.equal(whole, torch.cat(halves))


def test_samplers_compile():
    def draw(users, lengths):
        return position_sample(users, lengths, 4, 5.0, seed=1), complement_sample(users, 100, 3, seed=1)

    users, lengths = torch.arange(10).to(CUDA), torch.full((10,), 20).to(CUDA)
    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")(users, lengths)
    assert all(torch.equal(a, b) for a, b in zip(compiled, draw(users, lengths), strict=True))


@pytest.mark.parametrize("op", sorted(CASES))
def test_smallest_call_of_a_case(op):
    """What it must not do is for the sanitizer to see; values are the other tests'."""
    case = CASES[op]
    sample = next(iter(case.samples(torch.float32)))
    args = moved(differentiable(sample, case)[0])
    outputs = [o for o in float_outputs(case.outputs(*args, **moved(sample.kwargs))) if o.requires_grad]
    if outputs:
        torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])
    torch.cuda.synchronize()


def test_ids_out_of_range_are_errors_where_that_is_asked_for():
    code = """
import pytest, torch
from rankdistill import catalogue_log_mass, embedding_plackett_luce, gathered_inner_product, masked_rank
users, items = torch.ones(2, 3).cuda(), torch.ones(5, 3).cuda()
bad = torch.tensor([[0, 1], [9, -1]]).cuda()
for call in (
    lambda: gathered_inner_product(users, items, bad),
    lambda: embedding_plackett_luce(users, items, bad, list_size=1),
    lambda: masked_rank(users, bad),
):
    with pytest.raises(IndexError, match=r"expected item_ids in .*; got 9 at position"):
        call()
with pytest.raises(IndexError, match="expected exclude indices in"):
    catalogue_log_mass(users, items, exclude=(torch.tensor([0, 1, 1]).cuda(), torch.tensor([5]).cuda()))
from rankdistill import position_sample, triplet_angle_huber
with pytest.raises(IndexError, match="expected lengths in"):
    embedding_plackett_luce(users, items, bad % 5, list_size=1, lengths=torch.tensor([1, 2]).cuda())
with pytest.raises(IndexError, match="expected lengths in"):
    position_sample(bad[0], torch.tensor([3, -1]).cuda(), 2, 1.0, seed=0)
with pytest.raises(IndexError, match="expected anchors in"):
    triplet_angle_huber(items, items, torch.tensor([5]).cuda())
print("all refused")
"""
    assert output(code, RANKDISTILL_CHECK_INDICES="1") == "all refused"


@pytest.mark.parametrize("op", ["inner_product_topk", "masked_topk", "inner_product_rank", "masked_rank"])
def test_smallest_sampled_call_of_the_triton_rankings(op):
    """Called directly: native code serves the first two."""
    case = CASES[op]
    users, items, bias = (randn(*shape, seed=1).to(CUDA) for shape in ((20, 9), (5000, 9), (5000,)))
    exclude = moved(csr(20, 5000, 0.01, seed=2))
    given = (users @ items.T,) if op.startswith("masked") else (users, items)
    wanted = 10 if op.endswith("topk") else randint(-1, 5000, (20, 3), seed=3).to(CUDA)
    args = *given, wanted, *exclude, None if op.startswith("masked") else bias
    found, expected = (as_tuple(b[""](*args)) for b in (case.module.TRITON, case.module.REFERENCE))
    assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))


def test_smallest_call_of_the_samplers():
    users, lengths = torch.tensor([0, 1, 2]).to(CUDA), torch.tensor([0, 3, 150]).to(CUDA)
    assert position_sample(users, lengths, 5, 10.0, seed=0).shape == (3, 5)
    listed = torch.tensor([[0, -1], [5, 6], [1, 2]], dtype=torch.int32).to(CUDA)
    assert complement_sample(users, 9, 8, moved(csr(3, 9, 0.5, seed=1)), listed, seed=0).shape == (3, 8)
    torch.cuda.synchronize()


@pytest.mark.parametrize("with_bias", [True, False])
def test_sparse_gradients_are_the_dense_ones(with_bias):
    tables = [randn(40, 12, seed=1), randn(900, 12, seed=2), randn(900, seed=3)]
    users, items, bias = (t.to(CUDA).requires_grad_() for t in tables)
    bias = bias if with_bias else None
    ids, user_ids = randint(0, 300, (60, 9), seed=4).to(CUDA), randint(0, 40, (60,), seed=5).to(CUDA)
    ids[:, 7:][ids[:, 7:] < 30] = -1
    leaves = [users, items] + [bias] * with_bias
    for op in (
        lambda sparse: gathered_inner_product(users, items, ids, user_ids, bias, sparse)[ids >= 0].sum(),
        lambda sparse: embedding_plackett_luce(users, items, ids, 7, None, user_ids, bias, sparse).sum(),
    ):
        for wanted, found in zip(
            torch.autograd.grad(op(False), leaves), torch.autograd.grad(op(True), leaves), strict=True
        ):
            assert found.is_coalesced()
            torch.testing.assert_close(found.to_dense(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_lengths", [True, False])
def test_sparse_gradients_have_the_dense_ones_bits(with_lengths):
    """A hot item, and ids past a list's length, which no gradient counts."""
    users, items = (randn(*shape, seed=1).to(CUDA).requires_grad_() for shape in ((300, 64), (5000, 64)))
    ids = randint(0, 5000, (300, 90), seed=4)
    ids[:, ::3] = 7
    ids = ids.to(CUDA)
    lengths = randint(0, 31, (300,), seed=5).to(CUDA) if with_lengths else None
    for op in (
        lambda sparse: gathered_inner_product(users, items, ids, None, None, sparse).sum(),
        lambda sparse: embedding_plackett_luce(users, items, ids, 30, lengths, None, None, sparse).sum(),
    ):
        wanted, again, found = (torch.autograd.grad(op(s), items)[0] for s in (False, False, True))
        assert torch.equal(wanted, again)
        assert torch.equal(found.to_dense(), wanted)


@pytest.mark.parametrize("with_lengths", [False, True])
def test_none_within_a_list_spoils_its_row_alone(with_lengths):
    """On a processor it is an error."""
    users, items = (randn(n, 8, seed=n).to(CUDA).requires_grad_() for n in (3, 9))
    ids = torch.tensor([[1, 2, 3, 5], [1, -1, 2, 5], [4, -1, 6, -1]]).to(CUDA)
    ids[2, 1] = -1 if with_lengths else 7
    lengths = torch.tensor([3, 3, 1]).to(CUDA) if with_lengths else None
    losses = embedding_plackett_luce(users, items, ids, 3, lengths)
    assert losses.isnan().tolist() == [False, True, False]
    losses.nansum().backward()
    assert bool(items.grad.isfinite().all())


@pytest.mark.parametrize("op", ["embedding", "catalogue", "gathered"])
def test_a_row_that_is_not_asked_for_leaves_no_trace(op):
    users, items = randn(3, 8, seed=1).to(CUDA), randn(400, 8, seed=2).to(CUDA)
    users[1] = torch.nan
    users.requires_grad_(), items.requires_grad_()
    ids = randint(0, 400, (3, 5), seed=3).to(CUDA)
    rows = {
        "embedding": lambda: embedding_plackett_luce(users, items, ids, 3),
        "catalogue": lambda: catalogue_plackett_luce(users, items, ids),
        "gathered": lambda: gathered_inner_product(users, items, ids).sum(1),
    }[op]()
    weights = torch.tensor([1.0, 1.0, 2.0]).to(CUDA)
    (weights * torch.where(rows.isfinite(), rows, 0)).sum().backward()
    for table in (users, items):
        assert bool(table.grad.isfinite().all())


def test_a_malformed_row_of_the_catalogue_is_nan_alone():
    users, items = randn(3, 16, seed=1).to(CUDA), randn(400, 16, seed=2).to(CUDA)
    exclude = torch.tensor([0, 1, 2, 2**40]).to(CUDA), torch.tensor([3, 400, 5]).to(CUDA)
    values = catalogue_log_mass(users, items, exclude).cpu()
    assert values.isnan().tolist() == [False, True, True]
    sound = catalogue_log_mass(users[:1].cpu(), items.cpu(), (torch.tensor([0, 1]), torch.tensor([3])))
    torch.testing.assert_close(values[:1], sound, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(300, 12), (300,), (300, 3, 5), (300, 300)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize(("optimizer", "settings"), [(LazyAdam, {}), (LazySGD, {"weight_decay": 0.5})])
def test_lazy_optimisers_are_the_processors(optimizer, settings, dtype, tolerance, shape):
    """Tables and biases, by gradients of distinct rows and of repeated ones, with a rate that changes."""
    results = []
    for device in ("cpu", CUDA):
        table = torch.nn.Parameter(randn(*shape, seed=1, dtype=dtype).to(device))
        lazy = optimizer([table], lr=0.1, **settings)
        for step in range(9):
            ids = randint(0, 90, (50,), seed=step)
            rows = randn(50, *shape[1:], seed=step + 1, dtype=dtype)
            gradient = torch.sparse_coo_tensor(ids[None], rows, shape, check_invariants=False).to(device)
            table.grad = gradient.coalesce() if step % 2 else gradient
            lazy.param_groups[0]["lr"] = 0.1 / (1 + step)
            if optimizer is LazySGD:
                lazy.catch_up(table, randint(-1, 300, (7, 9), seed=step).to(device))
            lazy.step()
        lazy.state_dict()
        results.append(table.detach().cpu())
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


def test_a_lazy_step_neither_waits_nor_compiles_again():
    """Launches alone: whatever the rate is, and however many rows there are."""
    kernels = pytest.importorskip("rankdistill.kernels.triton.lazy_update", reason="no triton package")
    steps = []
    for n_rows in (1, 64, 77, 100):
        table = torch.nn.Parameter(randn(300, 12, seed=1).to(CUDA))
        touched, rows = torch.arange(n_rows)[None].to(CUDA), randn(n_rows, 12).to(CUDA)
        table.grad = torch.sparse_coo_tensor(
            touched, rows, (300, 12), is_coalesced=True, check_invariants=False
        )
        steps.append((table, LazyAdam([table], 0.01 * n_rows), LazySGD([table], 0.01, 0.5)))
    ids = torch.arange(9).to(CUDA)
    compiled = []
    torch.cuda.synchronize()
    try:
        for table, adam, sgd in steps:
            torch.cuda.set_sync_debug_mode("error")
            adam.step()
            sgd.step()
            sgd.catch_up(table, ids)
            torch.cuda.set_sync_debug_mode("default")
            launched = (getattr(kernels, f"lazy_update_{k}_kernel") for k in ("adam", "sgd", "catch_up"))
            compiled.append(
                [len(kernel.device_caches[torch.cuda.current_device()][0]) for kernel in launched]
            )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert compiled[0] == compiled[-1]


def test_experts_in_blocks_are_those_in_one(monkeypatch):
    parts = randn(4, 11, 6, seed=1), randn(4, 11, seed=2), randn(4, 9, 11, seed=3), randn(4, 9, seed=4)
    given = [
        t.to(CUDA).requires_grad_() for t in (randn(70, 6, seed=5), randn(70, 4, seed=6).softmax(1), *parts)
    ]

    def outputs() -> list[torch.Tensor]:
        out = routed_experts(*given)
        return [out, *torch.autograd.grad(out.square().sum(), given)]

    whole = outputs()
    monkeypatch.setattr(
        importlib.import_module("rankdistill.ops.routed_experts"), "DEVICE_BYTES", 30 * 44 * 4
    )
    for one, several in zip(whole, outputs(), strict=True):
        torch.testing.assert_close(several, one)


OF_TORCH_IN_FLOAT64 = ("relation", "relation_distance", "cross_relation_distance")
RANKED = ("inner_product_topk", "inner_product_rank", "masked_topk", "masked_rank")


@pytest.fixture
def precision():
    kept = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(kept)


def outputs_and_gradients(case, sample) -> list[Tensor]:
    args, leaves = differentiable(sample, case)
    outputs = case.outputs(*args, **sample.kwargs)
    asked = [o for o in float_outputs(outputs) if o.requires_grad]
    grads = torch.autograd.grad(asked, leaves, [torch.ones_like(o) for o in asked], True) if asked else ()
    return [o.detach() for o in (*outputs, *grads) if o is not None]


@pytest.mark.parametrize("op", [*OF_TORCH_IN_FLOAT64, *RANKED])
def test_tf32_changes_no_bit_of_relations_and_ranks(op, precision):
    for sample in CASES[op].samples(torch.float32):
        sample = Sample(sample.name, moved(sample.args), moved(sample.kwargs))
        precision("highest")
        wanted = outputs_and_gradients(CASES[op], sample)
        precision("high")  # TF32
        found = outputs_and_gradients(CASES[op], sample)
        assert all(map(same_bits, found, wanted)), sample.name


@pytest.mark.parametrize("chosen", [False, True])
def test_tf32_costs_experts_its_rounding(chosen, precision):
    """A factor keeps 10 bits: a product is off by 2⁻⁹ of its size at most, and what two layers sum by 2⁻⁸ of all sizes."""
    M, H, D, O, B = 5, 64, 48, 40, 300
    parts = randn(M, H, D, seed=1), randn(M, H, seed=2), randn(M, O, H, seed=3), randn(M, O, seed=4)
    routing = randint(0, M, (B,), seed=5) if chosen else randn(B, M, seed=6).softmax(1)
    given = randn(B, D, seed=7), routing, *parts
    case = CASES["routed_experts"]
    exact, sizes = (case.expected(*args)[0] for args in (given, [part.abs() for part in given]))
    errors = []
    for kept in ("highest", "high"):
        precision(kept)
        errors.append((routed_experts(*moved(given)).cpu().double() - exact).abs())
    assert bool((errors[0] <= 1e-5 * sizes).all())
    assert bool((errors[1] <= 2**-8 * sizes).all())
