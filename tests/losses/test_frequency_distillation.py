"""FreqD and its graphs: the released code's numbers, the filter, dropout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankdistill import Batch, FrequencyDistillation, functional, routed_experts
from rankdistill.data import CSR
from rankdistill.data.graphs import co_occurrence_graph
from rankdistill.experts import Experts, filtered_mean
from rankdistill.losses import frequency_distillation as module
from rankdistill.ops.dropout_mask import dropout_mask, in_sixteen_bits
from tests.case import randint, randn
from tests.losses.vectors import (
    D_S,
    D_T,
    N,
    U,
    assert_golden,
    golden_tensors,
    make_batch,
    make_student,
    teacher_tables,
)
from tests.process import output


@pytest.mark.parametrize("name", ["freqd_small_cos", "freqd_small_mse"])
def test_released_numbers(name, golden):
    numbers = golden(name)
    t = golden_tensors(numbers)
    leaves = {f"grad_{k}": t[k].requires_grad_() for k in ("student", "W1", "b1", "W2", "b2")}
    parts = t["W1"], t["b1"], t["W2"], t["b2"]
    shares = torch.full((len(t["student"]), 3), 1 / 3, dtype=torch.float64)
    rows = t["filter_dense"][t["batch"]]
    loss = functional.frequency_distillation(
        rows @ t["teacher"],
        rows @ routed_experts(t["student"], shares, *parts),
        normalized=bool(numbers["norm"]),
    )
    assert_golden(loss, numbers["loss"], leaves, numbers)


def test_released_graphs(golden):
    numbers = golden("freqd_graph_a")
    R, K = torch.from_numpy(numbers["R"]), int(numbers["K"])
    for matrix, wanted in ((R, numbers["adj_user"]), (R.t().contiguous(), numbers["adj_item"])):
        pattern = CSR.from_any(matrix != 0)
        graph = co_occurrence_graph(pattern, K, values=matrix[matrix != 0])
        np.testing.assert_allclose(graph.to_dense().numpy(), wanted, rtol=1e-6, atol=1e-7)


def test_no_warning_of_sparse_tensors():
    """In a new process, since torch warns once."""
    code = """
import warnings, torch
from rankdistill import FrequencyDistillation, MatrixFactorization
from rankdistill.data import CSR
from rankdistill.losses import Batch
train, student = CSR.from_any(torch.rand(20, 15) < 0.3), MatrixFactorization(20, 15, 4)
warnings.simplefilter("error")
method = FrequencyDistillation(torch.randn(20, 8), torch.randn(15, 8), train, 4)
method.begin_epoch(0, student)
method(student, Batch(*train.pairs(), torch.zeros_like(train.indices))).backward()
"""
    assert not output(code)


def random_train():
    rows = torch.arange(U).repeat_interleave(6)
    return CSR.from_pairs(rows, randint(0, N, rows.shape, seed=9), U, N)


@pytest.mark.parametrize("leave_out", ["first", "self"])
def test_graph_is_its_definition(leave_out, monkeypatch):
    train, k = random_train(), 3
    dense = train.to_dense().double()
    shared = dense @ dense.t()
    edges = torch.zeros(U, U, dtype=torch.float64)
    for row in range(U):
        order = sorted(range(U), key=lambda other: (-shared[row, other].item(), other))
        order = [other for other in order if shared[row, other] > 0]
        order = order[1:] if leave_out == "first" else [other for other in order if other != row]
        edges[row, order[:k]] = 1
    graph = (edges + edges.t()) / 2
    degrees = graph.sum(1)
    wanted = (graph / (degrees[:, None] * degrees).sqrt()).nan_to_num(0.0)
    torch.testing.assert_close(co_occurrence_graph(train, k, leave_out=leave_out).to_dense().double(), wanted)
    monkeypatch.setattr("rankdistill.data.graphs.PAIRS_PER_BLOCK", 40)
    torch.testing.assert_close(co_occurrence_graph(train, k, leave_out=leave_out).to_dense().double(), wanted)


def test_an_empty_graph():
    assert co_occurrence_graph(CSR.empty(3, 4)).to_dense().tolist() == [[0.0] * 3] * 3
    with pytest.raises(ValueError, match="expected leave_out first or self; got 'none'"):
        co_occurrence_graph(CSR.empty(3, 4), leave_out="none")


@pytest.mark.parametrize("normalized", [True, False])
def test_module_is_its_definition_over_the_whole_tables(normalized):
    tables, student, batch, train = teacher_tables(), make_student(), make_batch(), random_train()
    method = FrequencyDistillation(
        *tables, train, D_S, normalized=normalized, graph_dropout=0, dropout=0, alpha=0.3
    )
    method.begin_epoch(0)
    loss = method(student, batch)
    items = CSR.from_pairs(*reversed(train.pairs()), N, U)
    expected = 0.0
    for rows, experts, table, vectors, parts in (
        (train, method.user, tables[0], student.user_table, [(batch.users, 1.0)]),
        (items, method.item, tables[1], student.item_table, [(batch.positives, 0.5), (batch.negatives, 0.5)]),
    ):
        H = 0.3 * co_occurrence_graph(rows, 5).to_dense() + 0.7 * torch.eye(rows.n_rows)
        projected = experts(vectors, torch.full((rows.n_rows, 5), 0.2))
        for ids, weight in parts:
            ids = torch.unique(ids[ids >= 0])
            left, right = (H @ table)[ids], (H @ projected)[ids]
            cosine = 1 - torch.nn.functional.cosine_similarity(left, right)
            terms = cosine if normalized else (left - right).square().sum(1)
            expected = expected + weight * terms.sum()
    assert loss.item() == pytest.approx(expected.item(), rel=5e-6)
    loss.backward()
    reached = torch.autograd.grad(expected, (student.user_table, student.item_table))
    for table, wanted in zip((student.user_table, student.item_table), reached, strict=True):
        torch.testing.assert_close(table.grad, wanted, rtol=1e-4, atol=1e-5)


def test_dropout_is_drawn_anew_and_alike_in_an_epoch():
    tables, student, batch = teacher_tables(), make_student(), make_batch()
    method = FrequencyDistillation(*tables, random_train(), D_S)
    losses = []
    for epoch in (1, 2, 1):
        method.begin_epoch(epoch)
        losses.append([method(student, batch).item() for _ in range(2)])
    assert losses[0] == losses[2]
    assert len({*losses[0], *losses[1]}) == 4
    method.eval()
    assert method(student, batch).item() == method(student, batch).item()
    kept = method._dropout.factors((100_000,), 0.2)
    assert kept.mean().item() == pytest.approx(1, abs=0.01)
    assert sorted(set(kept.tolist())) == [0.0, 1.25]
    drawn = []
    for seed, epoch in ((0, 3), (0, 4), (1, 3), (1 << 40, 3)):
        method = FrequencyDistillation(*tables, random_train(), D_S, seed=seed)
        method.begin_epoch(epoch)
        drawn.append(tuple(method._dropout.factors((30,), 0.5).tolist()))
    assert len(set(drawn)) == 4, "seeds and epochs draw differently"


def test_parts_are_stored_and_bad_input_is_refused():
    method = FrequencyDistillation(*teacher_tables(), random_train(), D_S)
    assert sorted({name.split(".")[0] for name in method.state_dict()}) == ["item", "user"]
    assert method.user.weight_in.shape == (5, D_T, D_S)
    method.begin_epoch(0)
    assert method(make_student(), Batch(torch.tensor([1]))).item() > 0
    with pytest.raises(ValueError, match=r"expected alpha in \[0, 1\]; got 2"):
        FrequencyDistillation(*teacher_tables(), random_train(), D_S, alpha=2)


@pytest.mark.parametrize("dropped", [0.0, 0.3])
def test_a_filtered_projection_is_the_mean_of_networks(dropped):
    """Value and gradients of networks written out, with a row of the matrix that is empty."""
    M, n, m = 4, 6, 8
    experts, x = Experts(M, D_S, D_T, 5, seed=2).double(), randn(m, D_S, seed=3, dtype=torch.float64)
    dense = randn(n, m, seed=6, dtype=torch.float64) * (randn(n, m, seed=7) > 0.5)
    dense[2] = 0
    matrix = dense.to_sparse_csr()
    kept, share = None, in_sixteen_bits(dropped)
    if dropped:
        kept = tuple(dropout_mask(torch.arange(m), M, width, dropped, seed=4) for width in (D_S, 5))

    def written_out(x):
        before, after = (part.double() / (1 - share) for part in kept) if kept else (1.0, 1.0)
        hidden = torch.einsum("mnd,mhd->mnh", x * before + torch.zeros(M, 1, 1), experts.weight_in)
        hidden = (hidden + experts.bias_in[:, None]).relu() * after
        made = torch.einsum("mnh,moh->mno", hidden, experts.weight_out) + experts.bias_out[:, None]
        return dense @ made.mean(0)

    results = []
    mine = kept and (kept[0], kept[1].clone())
    for way in (lambda x: filtered_mean(experts, x, matrix, mine, share), written_out):
        rows = x.clone().requires_grad_()
        experts.zero_grad()
        out = way(rows)
        (out * randn(n, D_T, seed=5, dtype=torch.float64)).sum().backward()
        results.append([out.detach(), rows.grad, *(p.grad.clone() for p in experts.parts())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_edges_that_dropout_leaves_out_are_not_touched():
    method = FrequencyDistillation(*teacher_tables(), random_train(), D_S, graph_dropout=1.0)
    method.begin_epoch(0)
    (rows, *_) = method.sides(make_student(), make_batch())
    matrix, touched = method.filter_rows(rows, slice(0, len(rows.ids)))
    assert torch.equal(touched, rows.ids)
    assert torch.equal(matrix.to_dense(), 0.5 * torch.eye(len(touched)))


def test_kept_is_the_share_that_is_asked_for():
    ids = torch.arange(1000)
    found = [dropout_mask(ids, 5, 20, 0.2, seed=9, epoch=epoch) for epoch in (0, 1, 0)]
    assert found[0].shape == (5, 1000, 20)
    assert found[0].float().mean().item() == pytest.approx(0.8, abs=0.005)
    assert torch.equal(found[0], found[2])
    drawn = {
        "epoch": found[1],
        "mask": found[0].roll(1, 0),
        "id": found[0].roll(1, 1),
        "element": found[0].roll(1, 2),
    }
    for key in ("seed", "step", "stream"):
        drawn[key] = dropout_mask(ids, 5, 20, 0.2, **{"seed": 9} | {key: 10})
    for name, other in drawn.items():  # of independent draws 2 · 0.2 · 0.8 differ
        assert (found[0] != other).float().mean().item() == pytest.approx(0.32, abs=0.01), name
    assert dropout_mask(ids, 2, 3, 0.0, seed=0).all()
    assert not dropout_mask(ids, 2, 3, 1.0, seed=0).any()
    least = dropout_mask(ids, 10, 105, 2**-16, seed=0)  # one draw of 2^16
    assert 2 <= (~least).sum() <= 40
    assert in_sixteen_bits(0.2) == pytest.approx(0.2, abs=2**-17)


def test_the_graph_has_as_many_neighbours_as_asked_for():
    train = random_train()
    method = FrequencyDistillation(*teacher_tables(), train, D_S, n_neighbours=2)
    for side, rows in (("user", train), ("item", train.transposed())):
        assert torch.equal(getattr(method, f"{side}_indices"), co_occurrence_graph(rows, 2).col_indices())


def test_dropout_has_its_seed_and_share(monkeypatch):
    losses, shares, state, real = [], [], None, module.dropout_mask
    monkeypatch.setattr(module, "dropout_mask", lambda *a, **o: shares.append(a[3]) or real(*a, **o))
    for seed in (0, 1):
        method = FrequencyDistillation(
            *teacher_tables(), random_train(), D_S, graph_dropout=0.0, dropout=0.7, seed=seed
        )
        state = state or method.state_dict()
        method.load_state_dict(state)
        method.begin_epoch(0)
        losses.append(method(make_student(), make_batch()).item())
    assert losses[0] != losses[1]
    assert set(shares) == {0.7}
