"""Optimisers of embedding tables: torch's own rules on touched rows, decay caught up exactly, exact resumes."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import embedding, softplus

from rankdistill import DistillationExperts, LazyAdam, LazySGD, MatrixFactorization, Trainer
from rankdistill.config import TrainingConfig
from rankdistill.data import generate
from rankdistill.optim import make_optimizers
from rankdistill.sampling import sample_negatives, within_row_positions
from tests.case import randint, randn
from tests.test_trainer import CONFIG, make, weights

N, D = 300, 19


def table(dtype=torch.float32, *shape, seed=0):
    return torch.nn.Parameter(randn(*(shape or (N, D)), seed=seed, dtype=dtype))


def sparse_gradient(like, seed, coalesced=True):
    """Some rows, several times each where not coalesced."""
    ids = randint(0, like.shape[0] // 3, (40,), seed=seed)
    rows = randn(40, *like.shape[1:], seed=seed + 1, dtype=like.dtype)
    gradient = torch.sparse_coo_tensor(ids[None], rows, like.shape, check_invariants=False)
    return gradient.coalesce() if coalesced else gradient


def run(optimizer, parameter, steps, seed=0, coalesced=True):
    for step in range(steps):
        parameter.grad = sparse_gradient(parameter, seed + 2 * step, coalesced)
        optimizer.step()


@pytest.mark.parametrize("coalesced", [True, False])
@pytest.mark.parametrize("shape", [(N, D), (N,), (N, 64), (N, 3, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_lazy_adam_is_torchs_sparse_adam(dtype, tolerance, shape, coalesced):
    ours, theirs = table(dtype, *shape), table(dtype, *shape)
    settings = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6}
    run(LazyAdam([ours], **settings), ours, 60, coalesced=coalesced)
    run(torch.optim.SparseAdam([theirs], **settings), theirs, 60, coalesced=coalesced)
    assert (theirs != table(dtype, *shape)).any()
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=10 * tolerance)


def test_lazy_adam_leaves_other_rows_alone():
    parameter = table()
    optimizer = LazyAdam([parameter], lr=0.1)
    run(optimizer, parameter, 3)
    before, state = parameter.detach().clone(), copy.deepcopy(optimizer.state[parameter])
    version = parameter._version
    parameter.grad = sparse_gradient(parameter, 99)
    optimizer.step()
    touched = torch.zeros(N, dtype=torch.bool)
    touched[parameter.grad._indices()[0]] = True
    assert (parameter[touched] != before[touched]).all()
    assert torch.equal(parameter[~touched], before[~touched])
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[parameter][name][~touched], state[name][~touched])
    assert parameter._version > version, "autograd must see that a saved table was written"


def test_lazy_adam_goes_on_from_its_own_state_and_from_sparse_adams():
    whole = table()
    run(LazyAdam([whole], lr=0.02), whole, 20)
    parts = table()
    first = LazyAdam([parts], lr=0.02)
    run(first, parts, 12)
    second = LazyAdam([parts], lr=7.0)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    run(second, parts, 8, seed=24)
    assert torch.equal(whole, parts)
    theirs = table()
    before = torch.optim.SparseAdam([theirs], lr=0.02)
    run(before, theirs, 12)
    after = LazyAdam([theirs])
    after.load_state_dict(before.state_dict())
    run(after, theirs, 8, seed=24)
    torch.testing.assert_close(theirs, whole, rtol=2e-6, atol=2e-5)


def interactions(step):
    """Users, positives and negatives of one step."""
    return tuple(randint(0, high, (24,), seed=5 * step + i) for i, high in enumerate((40, 100, 300)))


def learning_rate(step):
    return (0.3, 0.01, 0.12)[step // 40 % 3] / (1 + step / 50)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-13)])
def test_lazy_sgd_is_dense_sgd_with_decay(dtype, tolerance):
    """Bayesian personalised ranking, with a learning rate that jumps and falls; most rows miss most steps."""
    decay, steps = 0.2, 200
    dense = [table(dtype, rows, 8, seed=rows) for rows in (40, N)]
    lazy = [table(dtype, rows, 8, seed=rows) for rows in (40, N)]
    sgd = torch.optim.SGD(dense, lr=1.0, weight_decay=decay)
    ours = LazySGD(lazy, lr=1.0, weight_decay=decay)
    for step in range(steps):
        users, positives, negatives = interactions(step)
        ours.catch_up(lazy[0], users)
        ours.catch_up(lazy[1], torch.stack([positives, negatives]))
        for (u, i), optimizer, sparse in ((dense, sgd, False), (lazy, ours, True)):
            optimizer.param_groups[0]["lr"] = learning_rate(step)
            pairs = ((users, u), (negatives, i), (positives, i))
            user, negative, positive = (embedding(ids, t, sparse=sparse) for ids, t in pairs)
            margin = (user * (negative - positive)).sum(1)
            optimizer.zero_grad()
            softplus(margin).sum().backward()
            optimizer.step()
        if step == steps // 2:
            missed = (lazy[1] - dense[1]).abs().max()
    assert missed > 0.01, "nothing was lazy"
    ours.catch_up()
    for found, wanted in zip(lazy, dense, strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    kept = [t.detach().clone() for t in lazy]
    ours.catch_up()
    assert all(torch.equal(a, b) for a, b in zip(kept, lazy, strict=True)), "a second time changes nothing"


@pytest.mark.parametrize("strength", [1e-6, 1e-7, 2.5e-8])
def test_weak_decay_is_as_near_to_float64_as_torchs(strength):
    """Rows touched at every step, rows touched rarely, and such that are read at every step."""
    shape, rate = (90, 16), 0.01
    given = [table(dtype, *shape) for dtype in (torch.float32, torch.float32, torch.float64)]
    optimizers = [
        kind([parameter], lr=rate, weight_decay=strength / rate)
        for kind, parameter in zip((LazySGD, torch.optim.SGD, torch.optim.SGD), given, strict=True)
    ]
    read = torch.arange(60, 90)
    for step in range(2000):
        ids = torch.arange(90 if step % 97 == 0 else 30)
        rows = 1e-3 * randn(len(ids), 16, seed=step)
        gradient = torch.sparse_coo_tensor(ids[None], rows, shape, is_coalesced=True, check_invariants=False)
        optimizers[0].catch_up(given[0], read)
        given[0].grad = gradient
        for parameter in given[1:]:
            parameter.grad = gradient.to_dense().to(parameter.dtype)
        for optimizer in optimizers:
            optimizer.step()
    optimizers[0].catch_up()
    ours, theirs, right = (p.detach().double() for p in given)
    for rows in (torch.arange(30), torch.arange(30, 60), read):
        errors = [(found - right)[rows] for found in (ours, theirs)]
        size, torchs_size = (float(e.square().mean().sqrt()) for e in errors)
        share, torchs_share = (
            float((e * right[rows]).sum().abs() / right[rows].square().sum()) for e in errors
        )
        assert size < 1.1 * torchs_size
        assert share < 1.1 * torchs_share + 2e-8, "of the rows, lost or gained"


def test_marks_are_kept_from_the_first_decay_on():
    ours, theirs = table(torch.float64), table(torch.float64)
    lazy, dense = LazySGD([ours], 0.1), torch.optim.SGD([theirs], 0.1)
    for step in range(12):
        decay = 0.5 * (step in (4, 5, 6, 9))
        for optimizer in (lazy, dense):
            optimizer.param_groups[0]["weight_decay"] = decay
        ours.grad = sparse_gradient(ours, step)
        theirs.grad = ours.grad.to_dense()
        lazy.step()
        dense.step()
        assert bool(lazy._decay) == (step >= 4), "8 bytes per row"
    lazy.catch_up()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_lazy_sgd_without_reads_is_caught_up_by_the_step():
    """Gradients that do not depend on the table: `step` alone brings rows up to date."""
    ours, theirs = table(torch.float64), table(torch.float64)
    lazy, dense = LazySGD([ours], 0.1, 0.5), torch.optim.SGD([theirs], 0.1, weight_decay=0.5)
    for step in range(30):
        ours.grad = sparse_gradient(ours, step, coalesced=False)
        theirs.grad = ours.grad.to_dense()
        lazy.step()
        dense.step()
    state = lazy.state_dict()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    assert not state["state"]
    assert state["param_groups"][0]["weight_decay"] == 0.5


@pytest.mark.parametrize("how", ["state_dict", "pickle", "copy"])
def test_lazy_sgd_goes_on_exactly(how):
    whole = table()
    optimizer = LazySGD([whole], 0.1, 0.5)
    run(optimizer, whole, 7)
    optimizer.state_dict()
    parts = torch.nn.Parameter(whole.detach().clone())
    run(optimizer, whole, 9, seed=50)
    optimizer.catch_up()
    if how == "state_dict":
        again = LazySGD([parts], 3.0)
        again.load_state_dict(optimizer.state_dict())
    else:
        first = LazySGD([parts], 0.1, 0.5)
        again = pickle.loads(pickle.dumps(first)) if how == "pickle" else copy.deepcopy(first)
        parts = again.param_groups[0]["params"][0]
    run(again, parts, 9, seed=50)
    again.catch_up()
    assert torch.equal(whole, parts)


def test_catching_up_takes_any_ids():
    whole, some = table(torch.float64), table(torch.float64)
    optimizers = [LazySGD([t], 0.1, 0.5) for t in (whole, some)]
    for optimizer, parameter in zip(optimizers, (whole, some)):
        run(optimizer, parameter, 5)
    optimizers[0].catch_up()
    ids = torch.tensor([[290, -1, 290], [0, 7, 0]])
    version = some._version
    optimizers[1].catch_up(some, ids)
    assert some._version == version, "a forward may have read other rows"
    torch.testing.assert_close(some[[290, 0, 7]], whole[[290, 0, 7]], rtol=1e-15, atol=0)
    assert (some[200] != whole[200]).all()
    with pytest.raises(IndexError, match=r"lazy_update: expected ids in \[-1, 300\); got 300"):
        optimizers[1].catch_up(some, torch.tensor([300]))
    optimizers[1].catch_up()
    torch.testing.assert_close(some, whole, rtol=1e-15, atol=0)


def test_ids_are_int64_or_int32():
    """Views too, of which a pointer would see the neighbours."""
    right, found = table(), table()
    for parameter, dtype in ((right, torch.int64), (found, torch.int32)):
        optimizer = LazySGD([parameter], 0.1, 0.5)
        run(optimizer, parameter, 5)
        optimizer.catch_up(parameter, torch.tensor([290, 7, 280, 7, -1, 7], dtype=dtype)[::2])
        with pytest.raises(IndexError, match=r"lazy_update: expected ids in \[-1, 300\); got -5"):
            optimizer.catch_up(parameter, torch.tensor([-5], dtype=dtype))
    assert torch.equal(found, right)
    assert (found[[290, 280]] != table()[[290, 280]]).all()
    assert torch.equal(found[7], right[7])
    assert torch.equal(found[270], table()[270])
    for one in (optimizer, LazySGD([found], 0.1)):
        for ids in (torch.tensor([1.0]), torch.tensor([True]), torch.tensor([1], dtype=torch.int16), [1]):
            with pytest.raises(TypeError, match="lazy_update: expected ids as an int64 or int32 tensor; got"):
                one.catch_up(found, ids)
    with pytest.raises(ValueError, match="LazySGD: expected ids with their table; got ids alone"):
        optimizer.catch_up(ids=torch.tensor([1]))


def test_a_model_reads_rows_by_int32_ids():
    models = [MatrixFactorization(10, 12, 4, seed=1, sparse_grad=True) for _ in range(2)]
    for model, dtype in zip(models, (torch.int64, torch.int32), strict=True):
        optimizer = LazySGD(model.tables(), lr=0.5, weight_decay=1.0)
        model.before_reading = optimizer.catch_up
        model.user_vectors(torch.tensor([9])).sum().backward()
        optimizer.step()
        model.user_vectors(torch.tensor([5, 0, 7, 0], dtype=dtype)[:2])
    assert torch.equal(models[0].user_table, models[1].user_table)
    assert (models[0].user_table[7] != models[0].user_table[5]).any()


def test_no_decay_falls_on_weights_that_come_after_catching_up():
    parameter, best = table(), randn(N, D, seed=9)
    optimizer = LazySGD([parameter], 0.1, 0.5)
    run(optimizer, parameter, 5)
    optimizer.catch_up()
    with torch.no_grad():
        parameter.copy_(best)
    optimizer.catch_up()
    assert torch.equal(parameter, best)


@pytest.mark.parametrize("optimizer", [LazyAdam, LazySGD])
def test_what_is_no_table_is_refused(optimizer):
    name = optimizer.__name__
    parameter = table()
    embedding(torch.tensor([1]), parameter).sum().backward()
    with pytest.raises(
        TypeError, match=f"{name}: expected a sparse gradient of touched rows .*; got a torch.strided one"
    ):
        optimizer([parameter]).step()
    with pytest.raises(TypeError, match=f"{name}: expected float32 or float64 tables; got torch.bfloat16"):
        optimizer([table(torch.bfloat16)])
    with pytest.raises(ValueError, match=f"{name}: expected contiguous tables"):
        optimizer([torch.nn.Parameter(randn(4, 6).t())])
    with pytest.raises(ValueError, match=f"{name}: expected lr"):
        optimizer([table()], lr=0.0)
    parameter.grad = torch.eye(N, D).to_sparse()
    with pytest.raises(TypeError, match=f"{name}: expected a sparse gradient .*; got one over 2 dimensions"):
        optimizer([parameter]).step()
    bad = table()
    bad.grad = torch.sparse_coo_tensor(torch.tensor([[N]]), torch.ones(1, D), (N, D), is_coalesced=True, check_invariants=False)  # fmt: skip
    with pytest.raises(IndexError, match=r"ids in \[0, 300\); got 300"):
        optimizer([bad]).step()
    with pytest.raises(ValueError, match="expected betas"):
        LazyAdam([table()], betas=(0.9, 1.0))
    with pytest.raises(ValueError, match="expected lr above 0 and weight_decay"):
        LazySGD([table()], weight_decay=-0.1)
    with pytest.raises(ValueError, match="expected lr x weight_decay below 1; got 1.5"):
        run(LazySGD([parameter], 3.0, 0.5), parameter, 1)


BAD_SETTINGS = [
    (LazyAdam, {"lr": -1.0}),
    (LazyAdam, {"lr": float("nan")}),
    (LazyAdam, {"betas": (2.0, 0.9)}),
    (LazyAdam, {"betas": (0.9, -0.1)}),
    (LazyAdam, {"betas": (0.9,)}),
    (LazyAdam, {"eps": 0.0}),
    (LazySGD, {"lr": 0.0}),
    (LazySGD, {"weight_decay": -0.1}),
    (LazySGD, {"weight_decay": float("nan")}),
]


@pytest.mark.parametrize(("optimizer", "settings"), BAD_SETTINGS)
def test_settings_are_refused_wherever_they_are_given(optimizer, settings):
    expected = f"{optimizer.__name__}: expected"
    with pytest.raises(ValueError, match=expected):
        optimizer([table()], **settings)
    with pytest.raises(ValueError, match=expected):
        optimizer([{"params": [table()], **settings}])
    good = optimizer([table()])
    with pytest.raises(ValueError, match=expected):
        good.add_param_group({"params": [table()], **settings})
    assert len(good.param_groups) == 1


@pytest.mark.parametrize("optimizer", [LazyAdam, LazySGD])
def test_a_refused_group_leaves_nothing_behind(optimizer):
    parameter, more = table(), table(seed=1)
    made = optimizer([parameter], 0.1)
    for bad in (
        table(torch.float16),
        torch.nn.Parameter(randn(4, 6).t()),
        torch.nn.Parameter(torch.tensor(1.0)),
    ):
        group = {"params": [more, bad]}
        with pytest.raises((TypeError, ValueError), match=f"{optimizer.__name__}: expected"):
            made.add_param_group(group)
        assert len(made.param_groups) == 1
        assert set(group) == {"params"}, "another optimiser that takes the group has settings of its own"
    made.add_param_group({"params": more, "lr": 0.2})
    assert [group["lr"] for group in made.param_groups] == [0.1, 0.2]
    run(made, more, 1)
    assert (more != table(seed=1)).any()


def test_a_step_that_is_refused_changes_no_table():
    first, second = table(), table()
    optimizer = LazySGD([{"params": [first]}, {"params": [second], "lr": 3.0}], 0.1, 0.5)
    first.grad, second.grad = sparse_gradient(first, 0), sparse_gradient(second, 0)
    with pytest.raises(ValueError, match="expected lr x weight_decay below 1; got 1.5"):
        optimizer.step()
    assert torch.equal(first, table())


def test_a_state_that_is_refused_leaves_pending_decay():
    right, found = table(), table()
    for parameter in (right, found):
        optimizer = LazySGD([parameter], 0.1, 0.5)
        run(optimizer, parameter, 3)
        if parameter is found:
            with pytest.raises(ValueError, match="parameter groups"):
                optimizer.load_state_dict({"state": {}, "param_groups": []})
        optimizer.catch_up()
    assert torch.equal(found, right)
    assert (found[200] != table()[200]).all()


def test_a_step_without_gradients_or_touched_rows_changes_nothing():
    for optimizer_class in (LazyAdam, LazySGD):
        parameter, other = table(), table()
        optimizer = optimizer_class([{"params": [parameter]}, {"params": [other], "lr": 0.5}])
        parameter.grad = torch.sparse_coo_tensor(
            torch.empty(1, 0), torch.empty(0, D), (N, D), check_invariants=False
        )
        optimizer.step()
        assert torch.equal(parameter, table())
        assert torch.equal(other, table())
        assert optimizer.step(lambda: 3.0) == 3.0


@pytest.fixture(scope="module")
def dataset():
    return generate(200, 150, mean_interactions=20, min_interactions=8, n_groups=6, groups_per_user=2, seed=3)


ADAM = replace(CONFIG, optimizer="lazy_adam", weight_decay=0.0)
SGD = replace(CONFIG, optimizer="lazy_sgd", weight_decay=0.5, learning_rate=0.05)


@pytest.mark.parametrize("config", [ADAM, SGD], ids=["lazy_adam", "lazy_sgd"])
def test_an_epoch_is_the_plain_torch_loops(dataset, config):
    """torch.optim.SparseAdam, or dense torch.optim.SGD with decay, on the same shuffles and negatives."""
    trainer = make(dataset, replace(config, epochs=2, keep_best=False), distil=False)
    users, items = (t.double().requires_grad_() for t in weights(trainer))
    trainer.fit()
    sparse = config is ADAM
    optimizer = (
        torch.optim.SparseAdam([users, items], lr=config.learning_rate)
        if sparse
        else torch.optim.SGD([users, items], lr=config.learning_rate, weight_decay=config.weight_decay)
    )
    train = dataset.train
    positions = within_row_positions(train.users)
    for epoch in range(2):
        negatives = sample_negatives(train.users, positions, train.csr(), seed=0, epoch=epoch)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(config.batch_size):
            u, i, j = (
                embedding(ids, t, sparse=sparse)
                for ids, t in (
                    (train.users[rows], users),
                    (train.items[rows], items),
                    (negatives[rows, 0], items),
                )
            )
            optimizer.zero_grad()
            softplus((u * j).sum(1) - (u * i).sum(1)).sum().backward()
            optimizer.step()
    for ours, theirs in zip(weights(trainer), (users, items)):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("config", [ADAM, SGD], ids=["lazy_adam", "lazy_sgd"])
def test_resume_is_bit_identical(dataset, tmp_path, config):
    whole = make(dataset, config, folder=tmp_path / "whole")
    history = whole.fit()
    make(dataset, replace(config, epochs=4), folder=tmp_path / "parts").fit()
    resumed = make(dataset, config, folder=tmp_path / "parts")
    assert [r["loss"] for r in resumed.fit()] == [r["loss"] for r in history]
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    with pytest.raises(ValueError, match="expected optimizer='lazy_.*', as the checkpoint"):
        make(dataset, replace(config, optimizer="adam"), folder=tmp_path / "parts").fit()


def test_a_methods_own_parameters_get_the_dense_optimiser(dataset, tmp_path):
    def trainer(folder, epochs):
        teacher = MatrixFactorization(dataset.n_users, dataset.n_items, 16, seed=2, init_std=1.0)
        torch.manual_seed(0)
        method = DistillationExperts(
            teacher.user_vectors().detach(), teacher.item_vectors().detach(), student_width=8, n_experts=3
        )
        student = MatrixFactorization(dataset.n_users, dataset.n_items, 8, seed=1)
        return Trainer(student, dataset, replace(ADAM, epochs=epochs), [(1e-2, method)], folder=folder)

    whole = trainer(tmp_path / "whole", 3)
    assert isinstance(whole.optimizers["optimizer"], LazyAdam)
    assert type(whole.optimizers["dense_optimizer"]) is torch.optim.Adam
    start = [p.detach().clone() for p in whole.parameters]
    whole.fit()
    assert all((a != b).any() for a, b in zip(start, whole.parameters, strict=True))
    trainer(tmp_path / "parts", 1).fit()
    resumed = trainer(tmp_path / "parts", 3)
    resumed.fit()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, resumed.parameters, strict=True))


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("name", ["lazy_adam", "lazy_sgd"])
def test_a_lazy_optimiser_leaves_the_models_gradients_as_they_were(dataset, name, interrupted):
    """Or another optimiser would refuse them, and a reading would catch up on a decay that has ended."""

    class Interrupted(MatrixFactorization):
        def loss(self, batch):
            loss = super().loss(batch)
            if interrupted:
                raise KeyboardInterrupt
            return loss

    model = Interrupted(dataset.n_users, dataset.n_items, 8)
    trainer = Trainer(model, dataset, replace(ADAM, epochs=1, optimizer=name))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt) if interrupted else nullcontext():
            trainer.fit()
        assert not model.sparse_grad
        assert model.before_reading is None
    if not interrupted:
        trainer.train_epoch(1)
        assert model.user_table.grad.is_sparse


def test_no_choice_stands_in_for_another(dataset):
    with pytest.raises(
        ValueError, match="training.weight_decay of 0 for lazy_adam, which has none; got 0.001"
    ):
        TrainingConfig(optimizer="lazy_adam")
    with pytest.raises(ValueError, match="training.optimizer of adam, lazy_adam, lazy_sgd; got sgd"):
        TrainingConfig(optimizer="sgd")
    with pytest.raises(ValueError, match="expected adam, lazy_adam or lazy_sgd; got 'sgd'"):
        make_optimizers("sgd", [], [table()], 0.1, 0.0)
    with pytest.raises(ValueError, match="lazy_adam: expected weight_decay of 0"):
        make_optimizers("lazy_adam", [table()], [], 0.1, 0.1)
    plain = torch.nn.Linear(2, 2)
    with pytest.raises(
        TypeError, match=r"expected a model with tables\(\) and sparse_grad for lazy_adam; got Linear"
    ):
        Trainer(plain, dataset, ADAM)
    assert type(make(dataset, CONFIG).optimizers["optimizer"]) is torch.optim.Adam
    assert set(make(dataset, ADAM).optimizers) == {"optimizer"}
    assert (
        type(make_optimizers("lazy_sgd", [table()], [table()], 0.1, 0.1)["dense_optimizer"])
        is torch.optim.SGD
    )


@pytest.mark.parametrize("kind", [LazyAdam, LazySGD])
def test_a_backward_through_what_a_step_has_changed_is_an_error(kind):
    """As with torch's optimisers."""
    table = torch.nn.Parameter(torch.ones(5, 2))
    optimizer = kind([table], lr=0.1)
    torch.nn.functional.embedding(torch.tensor([1]), table, sparse=True).sum().backward()
    later = table.square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        later.backward()


def test_catching_up_is_seen_by_autograd():
    table = torch.nn.Parameter(torch.ones(5, 2))
    optimizer = LazySGD([table], lr=0.1, weight_decay=0.5)
    torch.nn.functional.embedding(torch.tensor([1]), table, sparse=True).sum().backward()
    optimizer.step()
    later = table.square().sum()
    optimizer.catch_up()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        later.backward()


@pytest.mark.parametrize("kind", [LazyAdam, LazySGD])
def test_a_closure_has_gradients(kind):
    table = torch.nn.Parameter(torch.ones(5, 2))
    optimizer = kind([table], lr=0.1)

    def closure():
        loss = torch.nn.functional.embedding(torch.tensor([1]), table, sparse=True).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert table[1].tolist() == pytest.approx([0.9, 0.9])


def test_dense_parameters_decay_beside_lazy_sgd():
    table, other = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2))
    made = make_optimizers("lazy_sgd", [table], [other], 0.1, 0.5)
    other.grad = torch.zeros(2)
    made["dense_optimizer"].step()
    assert other.tolist() == pytest.approx([0.95, 0.95])


@pytest.mark.parametrize("side", ["user", "item"])
def test_vectors_are_read_up_to_date(side):
    model = MatrixFactorization(4, 4, 2, init_std=1.0, sparse_grad=True)
    optimizer = LazySGD(model.tables(), lr=0.1, weight_decay=0.5)
    before = getattr(model, f"{side}_table").detach().clone()
    model.score(torch.tensor([0]), torch.tensor([[0]])).sum().backward()
    model.before_reading = optimizer.catch_up
    optimizer.step()
    found = getattr(model, f"{side}_vectors")(torch.tensor([3]))
    torch.testing.assert_close(found[0], 0.95 * before[3])
