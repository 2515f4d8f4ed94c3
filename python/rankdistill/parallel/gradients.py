"""Gradients of all processes added up: dense ones by all-reduce, rows of sparse ones by gathering them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from rankdistill.ops.touched_rows import as_sparse, coalesce_rows
from rankdistill.rankings.distributed import Processes

OP = "reduce_gradients"
NONE, DENSE = -1, -2  # in place of a sparse gradient's number of rows
BUCKET = 1 << 25  # bytes of small dense gradients that go together


def reduce_gradients(parameters: Iterable[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replaces every parameter's gradient by the sum of all processes': a sum, where DistributedDataParallel averages.

    A gradient is sparse afterwards where it is on every process that has one. Its rows are gathered, or added up in a
    dense table where that is less to send. One that no process has stays None; elsewhere a missing one counts as zero.

    Args:
        parameters: the same ones in the same order on every process.
        group: a torch.distributed group whose backend carries their devices; None for all processes.

    Contract:
        Rows are added in the order of ranks, and every process gets the same bits.

    Raises:
        ConnectionError: another process failed, ended or did not answer within the group's time-out.

    Cost:
        Sent and received per process: about 2 × the dense gradients; of a sparse one with at most n rows on each of W
        processes W·n·(8 + D·itemsize), or 2·N·(D + 1)·itemsize where that is less.

    Example:
        >>> table = torch.nn.Parameter(torch.ones(3))
        >>> (2 * table).sum().backward()
        >>> reduce_gradients([table])  # of one process
        >>> table.grad
        tensor([2., 2., 2.])
    """
    processes = Processes(OP, group)
    parameters = list(parameters)
    if processes.size == 1 or not parameters:
        return
    sparse = {
        i: coalesce_rows(p.grad)
        for i, p in enumerate(parameters)
        if p.grad is not None and p.grad.is_sparse and p.grad.sparse_dim() == 1
    }
    mine = [
        len(sparse[i][0]) if i in sparse else NONE if p.grad is None else DENSE
        for i, p in enumerate(parameters)
    ]
    told = torch.tensor(mine, device=parameters[0].device)
    gathered = told.new_empty(processes.size * len(mine))
    processes.gather(gathered, told)
    dense = []
    for i, rows in enumerate(gathered.view(processes.size, -1).T.tolist()):
        p, most = parameters[i], max(rows)
        if most == NONE and DENSE not in rows:
            continue
        if DENSE in rows:
            dense.append(p)
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            elif p.grad.is_sparse:
                p.grad = p.grad.to_dense()
            continue
        ids, values = sparse.get(i, (told.new_empty(0), p.new_empty((0, *p.shape[1:]))))
        p.grad = as_sparse(*summed_rows(processes, ids, values, most, p), p.shape)
    reduce_dense(processes, dense)


def summed_rows(
    processes: Processes, ids: Tensor, values: Tensor, most: int, table: Tensor
) -> tuple[Tensor, Tensor]:
    """Ids [M] that some process has, ascending, and their rows added up; each process has `most` rows at most."""
    W, width = processes.size, table[:1].numel()
    if gathering_is_less(W, most, len(table), width, table.itemsize):
        padded = ids.new_full((most,), -1)
        padded[: len(ids)] = ids
        rows = values.new_zeros((most, *values.shape[1:]))
        rows[: len(ids)] = values
        all_ids, all_rows = ids.new_empty(W * most), rows.new_empty((W * most, *rows.shape[1:]))
        processes.gather(all_ids, padded)
        processes.gather(all_rows, rows)
        real = all_ids >= 0
        return torch.ops.rankdistill.coalesce_rows(all_ids[real], all_rows[real], len(table))
    # A last column counts who has a row: one that is touched may sum to zero.
    whole = values.new_zeros((len(table), width + 1))
    whole[ids] = torch.cat([values.flatten(1), values.new_ones((len(ids), 1))], 1)
    processes.add_up(whole)
    touched = whole[:, -1].nonzero().flatten()
    return touched, whole[touched, :-1].view(len(touched), *table.shape[1:])


def gather_ids(processes: Processes, mine: Sequence[Tensor]) -> list[Tensor]:
    """Of each of several lists of ids [n] those of all processes, -1 between them."""
    told = torch.tensor([len(ids) for ids in mine], device=mine[0].device)
    counts = told.new_empty(processes.size * len(mine))
    processes.gather(counts, told)
    found = []
    for ids, most in zip(mine, counts.view(processes.size, -1).amax(0).tolist()):
        padded = ids.new_full((most,), -1)
        padded[: len(ids)] = ids
        found.append(ids.new_empty(processes.size * most))
        processes.gather(found[-1], padded)
    return found


def gathering_is_less(size: int, most: int, n_rows: int, width: int, itemsize: int) -> bool:
    """Whether rows of all processes are fewer bytes than a table that goes around twice."""
    return size * most * (8 + width * itemsize) <= 2 * n_rows * (width + 1) * itemsize


def reduce_dense(processes: Processes, parameters: Sequence[Tensor]) -> None:
    """Adds dense gradients up, small ones of a dtype together."""
    waiting: dict[torch.dtype, list[Tensor]] = {}

    def send(together: list[Tensor]) -> None:
        flat = torch.cat([p.grad.flatten() for p in together])
        processes.add_up(flat)
        for p, part in zip(together, flat.split([p.numel() for p in together])):
            p.grad = part.view_as(p)

    for p in parameters:
        if p.numel() * p.itemsize >= BUCKET:
            p.grad = p.grad.contiguous()
            processes.add_up(p.grad)
            continue
        together = waiting.setdefault(p.grad.dtype, [])
        together.append(p)
        if sum(q.numel() * q.itemsize for q in together) >= BUCKET:
            send(waiting.pop(p.grad.dtype))
    for together in waiting.values():
        send(together)
