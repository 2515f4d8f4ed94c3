"""Tables divided by rows as one ordinary file, which no rank needs the memory of."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from rankdistill.rankings.distributed import Processes
from rankdistill.rankings.safetensors_files import TensorFile
from rankdistill.sharded.table import ReplicatedTable, ShardedTable

BYTES = 32 << 20  # of rows that travel at a time


def write_tables(
    path: str | os.PathLike,
    tables: Mapping[str, ShardedTable | ReplicatedTable],
    tensors: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Writes tables, each whole, to one .safetensors file: rank 0 does, and gets the others' rows some at a time.

    Named users and items, they are factors that `load_factors` reads.

    Args:
        path: on a disk of rank 0; the file appears when it is whole, or never.
        tables: by name, the same on all ranks.
        tensors: more to write, small ones; rank 0's.
        metadata: strings by name; rank 0's.
        group: the tables' group.

    Raises:
        OSError: rank 0's; ConnectionError on the others.

    Cost:
        Every row travels once; 32 MiB of rows at a time, on two ranks.

    Example:
        >>> import tempfile
        >>> model, path = ShardedFactorization(3, 5, width=2), tempfile.mkdtemp() + "/factors.safetensors"
        >>> write_tables(path, {"users": model.user_table, "items": model.item_table})
        >>> load_factors(path)
        Factors(3 users, 5 items, float32 of width 2)
    """
    with Processes.on_cpu("write_tables", group) as processes:
        shapes = {name: (t.rows.dtype, (t.n_rows, t.width)) for name, t in tables.items()}
        file = None
        try:
            with processes.together():
                if processes.rank == 0:
                    small = {name: (t.dtype, tuple(t.shape)) for name, t in (tensors or {}).items()}
                    file = TensorFile(path, shapes | small, dict(metadata or {}))
                    for name, tensor in (tensors or {}).items():
                        file.put(0, **{name: tensor})
            for name, table in tables.items():
                for owner, rows in parts_of(table):
                    piece = moved_to_first(processes, table, owner, rows)
                    with processes.together():
                        if file is not None:
                            file.put(rows.start, **{name: piece})
            with processes.together():
                if file is not None:
                    file.finish()
        except BaseException as error:
            if file is not None:
                file.abandon(error)
            raise


def parts_of(table: ShardedTable | ReplicatedTable) -> list[tuple[int, range]]:
    """(owner, rows), in order and not too many at a time; what all have is rank 0's."""
    sharded = isinstance(table, ShardedTable)
    blocks = [table.layout.rows(r) for r in range(table.layout.ranks)] if sharded else [range(table.n_rows)]
    step = max(1, BYTES // (table.width * table.rows.itemsize))
    return [
        (owner, block[at : at + step])
        for owner, block in enumerate(blocks)
        for at in range(0, len(block), step)
    ]


def moved_to_first(
    processes: Processes, table: ShardedTable | ReplicatedTable, owner: int, rows: range
) -> Tensor | None:
    """The rows on rank 0; None on others."""
    piece = None
    if processes.rank == owner:
        first = table.own.start if isinstance(table, ShardedTable) else 0
        piece = table.rows.detach()[rows.start - first : rows.stop - first].cpu().contiguous()
    if owner == 0:
        return piece
    with processes.connected():
        if processes.rank == owner:
            dist.send(piece, group=processes.group, group_dst=0)
        elif processes.rank == 0:
            piece = torch.empty((len(rows), table.width), dtype=table.rows.dtype)
            dist.recv(piece, group=processes.group, group_src=owner)
    return piece if processes.rank == 0 else None
