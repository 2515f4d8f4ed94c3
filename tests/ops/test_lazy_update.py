"""Steps on the touched rows of a table: every form against float64 and the reference, and what is refused."""

from __future__ import annotations

import pytest
import torch

from rankdistill.ops import lazy_update
from tests.case import randint, randn

N, D = 300, 19


def arguments(what, dtype):
    """Of a backend function; the first two or three are written."""
    ids, marks = torch.arange(5, N, 3), -randint(0, 3, (N,), seed=4).double() / 10
    grads = randn(len(ids), D, seed=3, dtype=dtype)
    tables = [randn(N, D, seed=s, dtype=dtype) for s in (0, 1)] + [randn(N, D, seed=2, dtype=dtype).abs()]
    return {
        "adam": (*tables, ids, grads, 0.9, 0.99, 0.1, 1e-8),
        "sgd": (tables[0], marks, ids, grads, 0.1, 0.9, -0.3, -0.5),
        "catch_up": (tables[0], marks, torch.cat([ids, ids.flip(0)]), -0.3),
    }[what]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("what", ["adam", "sgd", "catch_up"])
def test_backends_agree_and_threads_do_not_matter(what, dtype):
    pytest.importorskip("rankdistill._native", reason="no compiled CPU module")
    results = []
    for functions, threads in ((lazy_update.REFERENCE, 2), (lazy_update.NATIVE, 1), (lazy_update.NATIVE, 5)):
        torch.set_num_threads(threads)
        given = arguments(what, dtype)
        functions[what](*given)
        torch.set_num_threads(2)
        results.append(given[: 3 if what == "adam" else 2])
    for reference, one, five in zip(*results, strict=True):
        torch.testing.assert_close(one, reference, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=1e-7)
        assert torch.equal(one, five)
        assert (one[5] != arguments(what, dtype)[0][5]).any()


def test_every_form_of_a_step_takes_a_decay_that_a_factor_would_lose():
    """1 - 2.5e-8 is 1 in float32; roundings of rows that start at 1 average out over their gradients."""
    shape, decay = (N, 64), 2.5e-8
    ids, grads = torch.arange(N), torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2**-21
    forms = [lazy_update.REFERENCE, *([lazy_update.NATIVE] if isinstance(lazy_update.NATIVE, dict) else [])]
    for functions in forms:
        for marks in (None, torch.zeros(N, dtype=torch.float64)):
            rows = torch.ones(shape)
            functions["sgd"](rows, marks, ids, grads, 1.0, 1 - decay, 0.0, -decay)
            lost = (1 - rows.double() - grads.double()).mean()
            torch.testing.assert_close(float(lost), decay, rtol=0.05, atol=0)


def test_decay_of_any_strength_is_right_to_float32():
    """From far below a row's last place to all of it, by a step and by catching up."""
    for missed in (1e-9, 1e-7, 1e-4, 0.1, 0.69, 0.7, 3.0, 20.0, 60.0):
        for kept in (1.0, 0.9, 0.3):
            rows, marks = randn(N, D), torch.zeros(N, dtype=torch.float64)
            parameter = torch.nn.Parameter(rows.clone())
            torch.ops.rankdistill.lazy_update_sgd(
                parameter.data, marks, torch.arange(N), torch.zeros(N, D), 0.1, kept, -missed, -missed - 1
            )
            right = rows.double() * kept * torch.tensor(-missed, dtype=torch.float64).exp()
            torch.testing.assert_close(parameter.detach().double(), right, rtol=4e-7, atol=0)
            assert (marks == -missed - 1).all()
        caught = rows.clone()
        torch.ops.rankdistill.lazy_update_catch_up(caught, torch.zeros_like(marks), None, -missed)
        right = rows.double() * torch.tensor(-missed, dtype=torch.float64).exp()
        torch.testing.assert_close(caught.double(), right, rtol=2e-7, atol=0)


RAW = torch.ops.rankdistill
STEPS = {
    "adam": lambda t: RAW.lazy_update_adam(
        t["table"], t["means"], t["squares"], t["ids"], t["grads"], 0.9, 0.99, 0.1, 1e-8
    ),
    "sgd": lambda t: RAW.lazy_update_sgd(t["table"], t["marks"], t["ids"], t["grads"], 0.1, 0.9, -0.3, -0.5),
    "catch_up": lambda t: RAW.lazy_update_catch_up(t["table"], t["marks"], t["ids"], -0.3),
}


@pytest.mark.parametrize("what", STEPS)
def test_a_step_refuses_what_does_not_fit_its_table(what):
    def given(**others):
        wide = {name: randn(6, 4, seed=2).abs() for name in ("table", "means", "squares")}
        marks = torch.zeros(6, dtype=torch.float64)
        return wide | {"marks": marks, "ids": torch.tensor([1, 3]), "grads": randn(2, 4)} | others

    used = {
        "adam": ("table", "means", "squares", "grads"), "sgd": ("table", "marks", "grads"), "catch_up": ("table", "marks"),
    }[what]  # fmt: skip
    strange = {
        "table": torch.zeros(4, 6).t(), "means": torch.zeros(5, 4), "squares": torch.zeros(6, 4).double(),
        "marks": torch.zeros(12).double()[::2], "grads": torch.zeros(2, 3),
    }  # fmt: skip
    for name in used:
        with pytest.raises(ValueError, match=f"lazy_update: expected {name} contiguous"):
            STEPS[what](given(**{name: strange[name]}))
    for table in (torch.zeros(6, 4, dtype=torch.int64), torch.zeros(6, 4).half()):
        with pytest.raises(TypeError, match="lazy_update: expected table as a float32 or float64 tensor"):
            STEPS[what](given(table=table))
    with pytest.raises(ValueError, match="lazy_update: expected table of one dimension or more"):
        STEPS[what](given(table=torch.tensor(1.0), means=torch.tensor(1.0), squares=torch.tensor(1.0)))
    with pytest.raises(TypeError, match="lazy_update: expected ids as an int64 or int32 tensor"):
        STEPS[what](given(ids=torch.tensor([1.0, 3.0])))
    if what != "catch_up":
        with pytest.raises(ValueError, match="lazy_update: expected ids with 1 dimension"):
            STEPS[what](given(ids=torch.tensor([[1], [3]])))
    right, found = given(), given(ids=torch.tensor([1, 0, 3, 0], dtype=torch.int32)[::2])
    STEPS[what](right)
    STEPS[what](found)
    for name in used:
        assert torch.equal(right[name], found[name])
    assert (right["table"] != given()["table"]).any()


@pytest.mark.parametrize("what", STEPS)
def test_a_step_refuses_tensors_of_another_device(what):
    reached = []
    functions = lazy_update.checked(dict.fromkeys(STEPS, lambda *args: reached.append(args)))
    _, *given = arguments(what, torch.float32)
    for elsewhere, tensor in enumerate(given):
        if isinstance(tensor, torch.Tensor):
            mixed = [t.to("meta") if i == elsewhere else t for i, t in enumerate(given)]
            with pytest.raises(ValueError, match=r"lazy_update: expected \w+ on the device of table \(cpu\)"):
                functions[what](arguments(what, torch.float32)[0], *mixed)
    assert not reached
    functions[what](*arguments(what, torch.float32))
    assert len(reached) == 1
