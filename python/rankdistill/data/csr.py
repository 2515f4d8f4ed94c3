"""Lists of columns, one per row: the shape of "the items of every user"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CSR:
    """A boolean matrix by rows: row r holds the columns `indices[indptr[r]:indptr[r + 1]]`.

    Args:
        indptr: [R + 1] int64, from 0 to nnz, not descending.
        indices: [nnz] int64 in [0, n_columns), ascending and without repeats within each row.
        n_columns: the width of the matrix, >= 0.

    Raises:
        TypeError, ValueError: anything else; the error names the first bad position. `from_pairs` and `from_any`
            take rows in any order and with repeats.

    Cost:
        O(R + nnz) time and memory for every method, but O(nnz log nnz) where pairs are sorted.

    Example:
        >>> likes = CSR.from_pairs(torch.tensor([0, 2, 0]), torch.tensor([3, 1, 0]), n_rows=3, n_columns=4)
        >>> likes.indptr, likes.indices
        (tensor([0, 2, 2, 3]), tensor([0, 3, 1]))
    """

    indptr: Tensor
    indices: Tensor
    n_columns: int

    def __post_init__(self) -> None:
        for name in ("indptr", "indices"):
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.dtype != torch.int64:
                raise TypeError(f"CSR: expected {name} as an int64 tensor; got {_described(value)}")
            if value.dim() != 1:
                raise ValueError(f"CSR: expected {name} with 1 dimension; got {_described(value)}")
        if self.indptr.device != self.indices.device:
            raise ValueError(
                f"CSR: expected indices on {self.indptr.device}, as indptr; got {_described(self.indices)}"
            )
        _expect_size("n_columns", self.n_columns)
        _check_indptr(self.indptr, len(self.indices))
        _check_range("indices", self.indices, self.n_columns)
        if len(self.indices) > 1:
            descending = self.indices[1:] <= self.indices[:-1]
            starts = self.indptr[1:-1]
            descending[starts[(starts > 0) & (starts < len(self.indices))] - 1] = False
            if bool(descending.any()):
                at = int(descending.to(torch.uint8).argmax()) + 1
                raise ValueError(
                    "CSR: expected indices ascending and without repeats within each row; got "
                    f"{int(self.indices[at - 1])} before {int(self.indices[at])} at position {at}"
                )

    @classmethod
    def _trusted(cls, indptr: Tensor, indices: Tensor, n_columns: int) -> CSR:
        # Valid by construction: the checks would make a device wait for the host in every batch.
        made = object.__new__(cls)
        for name, value in (("indptr", indptr), ("indices", indices), ("n_columns", n_columns)):
            object.__setattr__(made, name, value)
        return made

    @classmethod
    def from_pairs(cls, rows: Tensor, columns: Tensor, n_rows: int, n_columns: int) -> CSR:
        """The matrix that is true at (rows[i], columns[i]), in any order; repeats count once.

        Args:
            rows: [n] int64 in [0, n_rows).
            columns: [n] int64 in [0, n_columns).
            n_rows, n_columns: the shape; their product must fit int64.
        """
        rows, columns = torch.as_tensor(rows), torch.as_tensor(columns)
        _expect_size("n_rows", n_rows)
        _expect_size("n_columns", n_columns)
        if rows.dim() != 1 or rows.shape != columns.shape:
            raise ValueError(
                f"CSR: expected rows and columns of one length; got {_described(rows)}, {_described(columns)}"
            )
        if n_rows * n_columns >= 2**63:
            raise ValueError(f"CSR: expected n_rows · n_columns below 2^63; got {n_rows} · {n_columns}")
        rows, columns = _as_int64("rows", rows), _as_int64("columns", columns)
        _check_range("rows", rows, n_rows)
        _check_range("columns", columns, n_columns)
        keys = torch.unique(rows * n_columns + columns)
        width = max(n_columns, 1)
        counts = torch.bincount(keys // width, minlength=n_rows)
        return cls._trusted(_indptr(counts), keys % width, n_columns)

    @classmethod
    def from_any(cls, matrix: object, n_columns: int | None = None) -> CSR:
        """The pattern of whatever holds a sparse or boolean matrix.

        Args:
            matrix: a `CSR`; a scipy sparse matrix; a torch sparse tensor (CSR, CSC or COO); a [R, n_columns] bool
                tensor; or a pair (indptr [R + 1], indices [nnz]) of tensors or arrays, which needs `n_columns`.
                Stored zeros are not entries; rows may be unsorted.
            n_columns: checked against the matrix, where it knows its own.
        """
        if isinstance(matrix, CSR):
            found = matrix
        elif isinstance(matrix, Tensor):
            found = _from_tensor(matrix)
        elif hasattr(matrix, "tocsr") and hasattr(matrix, "shape"):
            found = _from_scipy(matrix.tocsr())
        elif isinstance(matrix, (tuple, list)) and len(matrix) == 2:
            if n_columns is None:
                raise ValueError("CSR: expected n_columns beside a pair (indptr, indices); got None")
            indptr, indices = (torch.as_tensor(part) for part in matrix)
            found = _from_rows(indptr, indices, None, n_columns)
        else:
            raise TypeError(
                "CSR: expected a CSR, a scipy or torch sparse matrix, a bool tensor or a pair (indptr, indices); "
                f"got {_described(matrix)}"
            )
        if n_columns is not None and found.n_columns != n_columns:
            raise ValueError(f"CSR: expected {n_columns} columns; got {found.n_columns}")
        return found

    @classmethod
    def empty(cls, n_rows: int, n_columns: int) -> CSR:
        """A matrix of this shape without entries."""
        _expect_size("n_rows", n_rows)
        return cls(torch.zeros(n_rows + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64), n_columns)

    @property
    def n_rows(self) -> int:
        return len(self.indptr) - 1

    @property
    def counts(self) -> Tensor:
        """[R] entries per row."""
        return self.indptr.diff()

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"CSR({self.n_rows} × {self.n_columns}, {len(self)} entries, {self.indices.device})"

    def padded(self) -> Tensor:
        """[R, K] the columns of each row from the left, -1 past them; K is the longest row's."""
        return padded_rows(self.indptr, self.indices)[0]

    def pairs(self) -> tuple[Tensor, Tensor]:
        """(rows [nnz], columns [nnz]) of the entries, in order."""
        rows = torch.arange(self.n_rows, device=self.indptr.device)
        return rows.repeat_interleave(self.counts, output_size=len(self)), self.indices

    def rows(self, ids: Tensor) -> CSR:
        """The rows `ids` [B], int64 in [0, R), in that order; ids may repeat. IndexError out of range (CPU)."""
        ids = _as_int64("ids", torch.as_tensor(ids, device=self.indptr.device))
        if ids.dim() != 1:
            raise ValueError(f"CSR: expected ids with 1 dimension; got {_described(ids)}")
        if ids.device.type == "cpu":
            _check_range("ids", ids, self.n_rows, IndexError)
        starts = self.indptr[ids]
        counts = self.indptr[ids + 1] - starts
        indptr = _indptr(counts)
        total = int(indptr[-1])
        shift = (starts - indptr[:-1]).repeat_interleave(counts, output_size=total)
        positions = torch.arange(total, device=ids.device) + shift
        return CSR._trusted(indptr, self.indices[positions], self.n_columns)

    def window(self, rows: range, columns: range) -> CSR:
        """The stretch `rows` × `columns`, both counted from 0 anew; all columns of few rows cost no copy.

        O(B·log nnz of a row) time besides the copied entries, for B rows.
        """
        indptr = self.indptr[rows.start : rows.stop + 1]
        if columns == range(self.n_columns):
            first, last = int(indptr[0]), int(indptr[-1])
            return CSR._trusted(indptr - first, self.indices[first:last], self.n_columns)
        begin = self._first_at_least(indptr[:-1], indptr[1:], columns.start)
        end = self._first_at_least(begin, indptr[1:], columns.stop)
        counts = end - begin
        within = _indptr(counts)
        total = int(within[-1])
        shift = (begin - within[:-1]).repeat_interleave(counts, output_size=total)
        positions = shift.add_(torch.arange(total, device=shift.device))
        return CSR._trusted(within, self.indices[positions].sub_(columns.start), len(columns))

    def _first_at_least(self, low: Tensor, high: Tensor, column: int | Tensor) -> Tensor:
        """Per row, the first position in [low, high) whose column is `column` (or that row's) or more, or high."""
        low, high = low.clone(), high.clone()
        longest = int((high - low).max()) if len(low) else 0
        for _ in range(longest.bit_length()):
            middle = (low + high) // 2
            less = (low < high) & (self.indices[middle.clamp(max=len(self) - 1)] < column)
            low = torch.where(less, middle + 1, low)
            high = torch.where(less, high, torch.minimum(high, middle))
        return low

    def contains(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[n] bool: whether (rows[i], columns[i]) is an entry; false out of range. O(n log nnz)."""
        if not len(self):
            return torch.zeros_like(columns, dtype=torch.bool)
        inside = (rows >= 0) & (rows < self.n_rows)
        here = rows.where(inside, 0)
        end = self.indptr[here + 1]
        at = self._first_at_least(self.indptr[here], end, columns)
        return inside & (at < end) & (self.indices[at.clamp(max=len(self) - 1)] == columns)

    def union(self, other: CSR) -> CSR:
        """The entries of both, row by row; `other` has the same shape."""
        if (self.n_rows, self.n_columns) != (other.n_rows, other.n_columns):
            raise ValueError(f"CSR: expected a matrix of {self.n_rows} × {self.n_columns}; got {other!r}")
        if not len(other):
            return self
        rows, columns = (torch.cat(both) for both in zip(self.pairs(), other.pairs(), strict=True))
        return CSR.from_pairs(rows, columns, self.n_rows, self.n_columns)

    def transposed(self) -> CSR:
        """The same entries with rows and columns swapped. O(nnz log nnz) time."""
        rows, columns = self.pairs()
        return CSR.from_pairs(columns, rows, self.n_columns, self.n_rows)

    def to(self, device: torch.device | str) -> CSR:
        """The same matrix on `device`."""
        return CSR._trusted(self.indptr.to(device), self.indices.to(device), self.n_columns)

    def to_dense(self) -> Tensor:
        """[R, n_columns] bool: for small matrices."""
        dense = torch.zeros(self.n_rows, self.n_columns, dtype=torch.bool, device=self.indptr.device)
        dense[self.pairs()] = True
        return dense


def _described(value: object) -> str:
    from rankdistill.ops.checks import describe  # data need no op but for the words of an error

    return describe(value)


def _expect_size(name: str, value: object) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
        raise ValueError(f"CSR: expected {name} as an integer >= 0; got {_described(value)}")


def _as_int64(name: str, value: Tensor) -> Tensor:
    # An empty list becomes a float tensor; it holds nothing that could be wrong.
    if (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool) and value.numel():
        raise TypeError(f"CSR: expected {name} as integers; got {_described(value)}")
    return value.to(torch.int64)


def _check_range(name: str, values: Tensor, high: int, error: type[Exception] = ValueError) -> None:
    bad = (values < 0) | (values >= high)
    if bool(bad.any()):
        at = int(bad.to(torch.uint8).argmax())
        raise error(f"CSR: expected {name} in [0, {high}); got {int(values[at])} at position {at}")


def _check_indptr(indptr: Tensor, nnz: int) -> None:
    if not len(indptr) or int(indptr[0]) != 0:
        raise ValueError(f"CSR: expected indptr to start with 0; got {indptr[:1].tolist()}")
    falls = indptr.diff() < 0
    if bool(falls.any()):
        at = int(falls.to(torch.uint8).argmax())
        raise ValueError(
            f"CSR: expected indptr not descending; got {int(indptr[at])} before {int(indptr[at + 1])} at position {at + 1}"
        )
    if int(indptr[-1]) != nnz:
        raise ValueError(
            f"CSR: expected indptr to end with the number of indices ({nnz}); got {int(indptr[-1])}"
        )


def padded_rows(indptr: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """[R, K] values [n] row by row from the left, -1 past them, and which are values; K is the longest row's."""
    counts = indptr.diff()
    listed = torch.arange(int(counts.max()) if len(counts) else 0, device=counts.device) < counts[:, None]
    padded = values.new_full(listed.shape, -1)
    padded[listed] = values
    return padded, listed


def _indptr(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _from_rows(indptr: Tensor, indices: Tensor, values: Tensor | None, n_columns: int) -> CSR:
    """Rows in any order within themselves, perhaps with stored zeros."""
    indptr, indices = _as_int64("indptr", indptr), _as_int64("indices", indices)
    if indptr.dim() != 1 or indices.dim() != 1:
        raise ValueError(
            f"CSR: expected indptr and indices with 1 dimension; got {_described(indptr)}, {_described(indices)}"
        )
    _check_indptr(indptr, len(indices))
    rows = torch.arange(len(indptr) - 1, device=indptr.device).repeat_interleave(indptr.diff())
    if values is not None:
        rows, indices = rows[values != 0], indices[values != 0]
    return CSR.from_pairs(rows, indices, len(indptr) - 1, n_columns)


def _from_scipy(matrix) -> CSR:
    return _from_rows(
        *(torch.as_tensor(part) for part in (matrix.indptr, matrix.indices, matrix.data)), matrix.shape[1]
    )


def _from_tensor(matrix: Tensor) -> CSR:
    if matrix.dim() != 2:
        raise ValueError(f"CSR: expected a matrix with 2 dimensions; got {_described(matrix)}")
    if matrix.layout == torch.strided and matrix.dtype != torch.bool:
        raise TypeError(f"CSR: expected a dense matrix of dtype bool; got {_described(matrix)}")
    if matrix.layout == torch.sparse_csr:
        return _from_rows(matrix.crow_indices(), matrix.col_indices(), matrix.values(), matrix.shape[1])
    if matrix.layout == torch.strided:
        rows, columns = matrix.nonzero(as_tuple=True)
    else:
        coo = matrix.to_sparse_coo().coalesce()
        rows, columns = coo.indices()[:, coo.values() != 0]
    return CSR.from_pairs(rows, columns, *matrix.shape)
