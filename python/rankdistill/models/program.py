"""A recommender as a program of torch.export: the top k of a batch of users, in one file."""

from __future__ import annotations

import io
import json
import os

import torch
from torch import Tensor, nn

from rankdistill.files import replacing
from rankdistill.models.factors import Factors
from rankdistill.ops import checks, inner_product_topk

OP = "export_program"


class TopK(nn.Module):
    """The k best items of users by their row: what `export_program` stores."""

    def __init__(self, factors: Factors, k: int) -> None:
        super().__init__()
        self.k = k
        for name in ("users", "items", "item_bias", "user_bias"):
            table = getattr(factors, name)
            self.register_buffer(name, None if table is None else table.detach().contiguous().clone())

    def forward(
        self, users: Tensor, exclude_indptr: Tensor | None = None, exclude_indices: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        exclude = None if exclude_indptr is None else (exclude_indptr, exclude_indices)
        vectors = self.users.index_select(0, users)
        scores, indices, lengths = inner_product_topk(vectors, self.items, self.k, exclude, self.item_bias)
        if self.user_bias is not None:
            scores = scores + self.user_bias.index_select(0, users)[:, None]
        return scores, indices, lengths


def export_program(factors: Factors, path: str | os.PathLike, k: int, *, exclude: bool = False) -> None:
    """Writes the exact top k of a batch of users as a `torch.export` program; the file is whole, or not there.

    A server loads it with `torch.export.load(path).module()`, after `import rankdistill.ops`, which registers the
    operator that it calls; no model code and no data set are needed.

    Args:
        factors: the recommender; `as_teacher(model)` makes them of a model.
        path: a .pt2 file.
        k: list length, >= 1.
        exclude: whether the program takes the items that a row must not list: program(users, indptr, indices),
            as CSR (`inner_product_topk`); else program(users).

    Returns:
        None; the file is read back and compared with the factors before it takes its name. The program takes users
        [B] int64 (rows, 0-based), for any B >= 1, and gives scores [B, k], items [B, k] int64 (rows; -1 past a row's
        length) and lengths [B] int64: the bits of `factors.topk`. Ids that the factors know lie beside it as extra
        files `user_ids` and `item_ids`, JSON a line.

    Raises:
        ValueError: another suffix, or k below 1.

    Cost:
        The tables in the file once; in memory three times while it is written and read back.

    Example:
        >>> import os, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> export_program(Factors(torch.eye(3), torch.eye(3)), f"{folder}/student.pt2", k=2)
        >>> torch.export.load(f"{folder}/student.pt2").module()(torch.tensor([2, 0]))[1]
        tensor([[2, 0],
                [0, 1]])
    """
    path = os.fspath(path)
    if not path.endswith(".pt2"):
        raise ValueError(f"{OP}: expected a .pt2 file; got {path}")
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"{OP}: expected k as an int; got {checks.describe(k)}")
    checks.expect(k >= 1, OP, "k of 1 or more", k)
    checks.expect(factors.n_users > 0, OP, "users", "none")
    batch = torch.export.Dim("batch", min=1)
    # An example of 1 row, or of 0 or 1 entries, would be taken for a constant.
    example: tuple[Tensor, ...] = (torch.zeros(3, dtype=torch.int64),)
    shapes: tuple[dict, ...] = ({0: batch},)
    if exclude:
        example += (torch.tensor([0, 1, 2, 3]), torch.zeros(3, dtype=torch.int64))
        shapes += ({0: batch + 1}, {0: torch.export.Dim("entries", min=0)})
    factors = factors.detached()
    program = torch.export.export(TopK(factors, k).eval(), example, dynamic_shapes=shapes)
    ids = {
        name: "".join(f"{json.dumps(value)}\n" for value in found.tolist())
        for name in ("user_ids", "item_ids")
        if (found := getattr(factors, name)) is not None
    }
    written = io.BytesIO()  # torch's writer aborts the process where a disk is full
    torch.export.save(program, written, extra_files=ids)
    with replacing(path) as temporary:
        temporary.write_bytes(written.getbuffer())
        _expect_equal(temporary, factors, k, exclude)


def _expect_equal(path: os.PathLike, factors: Factors, k: int, exclude: bool) -> None:
    users = torch.arange(min(factors.n_users, 8))
    lists = (torch.zeros(len(users) + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)) * exclude
    with open(path, "rb") as file:
        found = torch.export.load(file).module()(users, *lists)
    if not all(map(torch.equal, found, factors.topk(users, k))):
        raise RuntimeError(f"{OP}: expected a program with the lists of the factors; got other lists")
