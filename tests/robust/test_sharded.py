"""Tables divided by rows among two and three ranks: values, gradients and errors of one rank with the whole table."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rankdistill import ops
from tests.robust.sharded_ranks import CUTS, OPS, K, batch

SCRIPT = Path(__file__).with_name("sharded_ranks.py")
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Ranks:
    """What the processes answered, by rank."""

    world: int
    answers: list[dict]

    def every(self, name: str) -> list:
        found = [answers[name] for answers in self.answers]
        wrong = [one for one in found if isinstance(one, str)]
        assert not wrong, wrong
        return found


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory) -> Ranks:
    world, folder = request.param, tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(SCRIPT)]
    processes = [
        subprocess.Popen([*command, str(rank), str(world), str(folder)], cwd="/", stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]  # fmt: skip
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert not any(status for _, status in ended), [text for text, _ in ended]
    return Ranks(world, [torch.load(folder / f"answers-{rank}") for rank in range(world)])


class Whole:
    """The whole batch on one rank with the whole table."""

    def __init__(self, dtype: torch.dtype) -> None:
        for name, value in batch(dtype).items():
            setattr(self, name, value)
        for table in (self.users, self.items, self.bias):
            table.requires_grad_()

    def expected(self, name: str) -> dict[str, Tensor]:
        scores = lambda ids, bias=None: ops.gathered_inner_product(
            self.users, self.items, ids, item_bias=bias
        )
        tables = self.users, self.items
        if name == "lookup":
            rows = self.items[self.ids]
            (rows * self.weights[:, :3, None]).sum().backward()
            return {"values": rows.detach(), "rows": self.items.grad}
        if name == "lists":
            found = ops.inner_product_topk(
                *(t.detach() for t in tables), 13, self.exclude, self.bias.detach()
            )
            return dict(zip(("values", "indices", "lengths"), found))
        values = {
            "few scores": lambda: scores(self.few),
            "scores with biases": lambda: scores(self.listed, self.bias),
            "embedding": lambda: ops.embedding_plackett_luce(*tables, self.listed, K, self.lengths),
            "log-mass": lambda: ops.catalogue_log_mass(*tables, self.exclude, self.bias),
            "catalogue": lambda: ops.catalogue_plackett_luce(*tables, self.ended),
            "catalogue but some": lambda: ops.catalogue_plackett_luce(
                *tables, self.listed[:, :K], self.lengths, self.exclude, self.bias
            ),
        }.get(name, lambda: scores(self.listed))()
        weights = self.weights[:, : values.shape[1]] if values.dim() == 2 else self.weights[:, 0]
        (torch.where(values > -torch.inf, values, 0) * weights).sum().backward()
        grads = {"rows": self.items.grad, "users": self.users.grad, "bias": self.bias.grad}
        return {"values": values.detach()} | grads


SAME_BITS = ("lookup", "scores", "few scores", "lists")  # of the values: none is a sum over ranks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("name", OPS)
def test_values_and_gradients_are_those_of_one_rank(ranks, name, cuts, dtype):
    found = ranks.every(f"{name}, {cuts}, {dtype}")
    expected = Whole(getattr(torch, dtype)).expected(name)
    tight = 1e-12 if dtype == "float64" else 2e-6
    for part, wanted in expected.items():
        parts = [one.get(part) for one in found]
        if wanted is None:
            assert all(one is None for one in parts), part
            continue
        joined = torch.cat([one for one in parts if one is not None])
        assert (joined.dtype, joined.shape) == (wanted.dtype, wanted.shape), part
        if part in ("indices", "lengths") or (part == "values" and name.startswith(SAME_BITS)):
            assert torch.equal(joined, wanted), part
        else:
            bound = tight * (1 + wanted.abs())
            assert bool(((joined - wanted).abs() <= bound).all()), (part, (joined - wanted).abs().max())


SLIPS = {
    "an id too large": "IndexError: ShardedTable.lookup: expected ids in [0, 90); got ",
    "ids of no kind": "TypeError: ShardedTable.lookup: expected ids as an int64 tensor; got int32 ",
    "a listed id too large": "IndexError: catalogue_plackett_luce: expected listed item_ids in [-1, 90); got ",
    "users of another width": "ValueError: catalogue_log_mass: expected users of width 16, as the table; got float32 [3, 17]",
}
UNLIKE = {
    "lists of another length": "ValueError: gathered_inner_product of 7 items a row: expected every rank to call it; "
    "got gathered_inner_product of 6 items a row on rank {last}",
    "another op": "ValueError: catalogue_log_mass: expected every rank to call it; got ShardedTable.lookup on rank {last}",
    "another k": "ValueError: inner_product_topk of 5: expected every rank to call it; got inner_product_topk of 6 on "
    "rank {last}",
    "tables of another width": "ValueError: ShardedTable: expected the same width on all ranks; got 16 on rank 0, 17 on "
    "rank {last}",
    "tables of another size": "ValueError: ShardedTable: expected the same n_rows on all ranks; got 90 on rank 0, 91 on "
    "rank {last}",
    "another seed": "ValueError: ShardedTable: expected the same generator on all ranks; got ",
}


def test_a_slip_of_one_rank_is_an_error_on_all_and_the_group_goes_on(ranks):
    last = ranks.world - 1
    *others, own = (answers["failures"] for answers in ranks.answers)
    for name, text in SLIPS.items():
        assert own[name].startswith(text), own[name]
        told = f"ConnectionError: ShardedTable: expected every process to go on; got a failure of rank {last}: {own[name]}"
        assert [one[name] for one in others] == [told] * last
    for name, text in UNLIKE.items():
        for one in others:
            assert one[name].startswith(text.format(last=last)), one[name]
        assert own[name].startswith("ValueError: "), own[name]
    rows = torch.cat([one["a good call after all these"] for one in (*others, own)])
    assert torch.equal(rows, batch()["items"][batch()["ids"]])
