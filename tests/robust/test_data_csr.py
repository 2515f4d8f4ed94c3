"""CSR against dense matrices, and every broken one refused by name and position."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.data import CSR


@st.composite
def dense_matrices(draw, rows: int | None = None, columns: int | None = None):
    rows = draw(st.integers(0, 6)) if rows is None else rows
    columns = draw(st.integers(0, 6)) if columns is None else columns
    cells = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(cells, dtype=torch.bool).reshape(rows, columns)


def same(matrix: CSR, dense: torch.Tensor) -> bool:
    CSR(matrix.indptr, matrix.indices, matrix.n_columns)  # the checks that trusted construction leaves out
    return torch.equal(matrix.to_dense(), dense)


@given(dense_matrices(), st.randoms())
def test_pairs_in_any_order_and_repeated(dense, random):
    pairs = dense.nonzero().tolist() * 2
    random.shuffle(pairs)
    rows, columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    matrix = CSR.from_pairs(rows, columns, *dense.shape)
    assert same(matrix, dense)
    assert torch.equal(matrix.counts, dense.sum(1))
    assert torch.equal(torch.stack(matrix.pairs(), 1), dense.nonzero())


@given(dense_matrices())
def test_every_container_gives_the_same_matrix(dense):
    integers = dense.numpy().astype(np.int8)
    given_as = [dense, scipy.sparse.csr_matrix(integers), scipy.sparse.csc_matrix(integers)]
    given_as += [scipy.sparse.coo_array(integers), dense.to_sparse_coo()]
    if dense.numel():
        given_as += [dense.to_sparse_csr(), dense.to_sparse_csc()]
    for matrix in given_as:
        assert same(CSR.from_any(matrix, dense.shape[1]), dense)


def test_stored_zeros_are_no_entries_and_rows_may_be_unsorted():
    stored = scipy.sparse.csr_matrix(
        (np.array([1, 0, 5]), np.array([2, 1, 0]), np.array([0, 3, 3])), shape=(2, 3)
    )
    expected = torch.tensor([[True, False, True], [False, False, False]])
    assert same(CSR.from_any(stored), expected)
    assert same(CSR.from_any(([0, 2, 2], np.array([2, 0])), n_columns=3), expected)
    zeros = torch.sparse_coo_tensor(torch.tensor([[0, 0], [2, 1]]), torch.tensor([1.0, 0.0]), (2, 3))
    assert CSR.from_any(zeros).indices.tolist() == [2]


@given(st.data(), dense_matrices(columns=5))
def test_rows_and_contains(data, dense):
    matrix = CSR.from_any(dense)
    ids = data.draw(st.lists(st.integers(0, len(dense) - 1), max_size=8) if len(dense) else st.just([]))
    ids = torch.tensor(ids, dtype=torch.int64)
    assert same(matrix.rows(ids), dense[ids])
    rows, columns = torch.ones_like(dense).nonzero().T
    assert torch.equal(matrix.contains(rows, columns), dense[rows, columns])
    for beside in (
        (rows, columns - 5),
        (rows, columns + 5),
        (rows - len(dense), columns),
        (rows + len(dense), columns),
    ):
        assert not matrix.contains(*beside).any()


@given(dense_matrices(4, 5), dense_matrices(4, 5))
def test_union(first, second):
    assert same(CSR.from_any(first).union(CSR.from_any(second)), first | second)


def test_empty():
    assert same(CSR.empty(3, 2), torch.zeros(3, 2, dtype=torch.bool))
    assert same(CSR.empty(0, 0), torch.zeros(0, 0, dtype=torch.bool))


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([], [], r"indptr to start with 0; got \[\]"),
        ([1, 2], [0, 1], r"indptr to start with 0; got \[1\]"),
        ([0, 2, 1], [0], "not descending; got 2 before 1 at position 2"),
        ([0, 1], [0, 1], r"number of indices \(2\); got 1"),
        ([0, 2], [0, 3], r"indices in \[0, 3\); got 3 at position 1"),
        ([0, 2], [-1, 1], r"indices in \[0, 3\); got -1 at position 0"),
        ([0, 1, 3], [2, 1, 0], "got 1 before 0 at position 2"),
        ([0, 2, 2], [1, 1], "got 1 before 1 at position 1"),
        ([0, 0, 2], [1, 0], "got 1 before 0 at position 1"),
    ],
)
def test_broken_matrices_are_refused(indptr, indices, message):
    with pytest.raises(ValueError, match=f"^CSR: expected .*{message}"):
        CSR(torch.tensor(indptr, dtype=torch.int64), torch.tensor(indices, dtype=torch.int64), 3)


def test_descending_across_rows_is_fine_also_beside_empty_rows():
    matrix = CSR(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([2, 0]), 3)
    assert matrix.counts.tolist() == [0, 1, 0, 1, 0]


def test_wrong_arguments():
    matrix = CSR.empty(2, 3)
    with pytest.raises(TypeError, match="expected indptr as an int64 tensor; got int32"):
        CSR(matrix.indptr.int(), matrix.indices, 3)
    with pytest.raises(IndexError, match=r"expected ids in \[0, 2\); got 2 at position 1"):
        matrix.rows(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"expected rows in \[0, 2\); got -1 at position 0"):
        CSR.from_pairs(torch.tensor([-1]), torch.tensor([0]), 2, 3)
    with pytest.raises(TypeError, match="expected columns as integers"):
        CSR.from_pairs(torch.tensor([0]), torch.tensor([0.5]), 2, 3)
    with pytest.raises(ValueError, match=r"below 2\^63"):
        CSR.from_pairs(torch.tensor([0]), torch.tensor([0]), 2**32, 2**32)
    with pytest.raises(ValueError, match="expected n_columns beside a pair"):
        CSR.from_any((matrix.indptr, matrix.indices))
    with pytest.raises(ValueError, match="expected 4 columns; got 3"):
        CSR.from_any(matrix, 4)
    with pytest.raises(TypeError, match="dense matrix of dtype bool"):
        CSR.from_any(torch.ones(2, 3))
    with pytest.raises(TypeError, match="got str 'x'"):
        CSR.from_any("x")
    with pytest.raises(ValueError, match="expected a matrix of 2 × 3"):
        matrix.union(CSR.empty(3, 3))


def test_padded_rows():
    rows = CSR(torch.tensor([0, 2, 2, 3]), torch.tensor([1, 4, 0]), 5)
    assert rows.padded().tolist() == [[1, 4], [-1, -1], [0, -1]]
    assert CSR.empty(2, 5).padded().shape == (2, 0)
    assert CSR.empty(0, 5).padded().shape == (0, 0)
