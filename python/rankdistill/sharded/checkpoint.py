"""Checkpoints of tables divided by rows, by torch.distributed.checkpoint: saved by some ranks, loaded by any number."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import Shard, ShardMetadata, init_from_local_shards
from torch.distributed.checkpoint.api import CheckpointException

from rankdistill.checkpoint import load_optimizer_tensors, optimizer_tensors
from rankdistill.files import json_in, sync_folder, write_text
from rankdistill.sharded.exchange import Ranks
from rankdistill.sharded.table import ShardedTable

FACTS = "facts.json"
States = Mapping[str, Mapping[str, Tensor]]


def save_sharded(
    folder: str | os.PathLike,
    model: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
    facts: dict | None = None,
    group: dist.ProcessGroup | None = None,
    *,
    states: States | None = None,
) -> None:
    """Writes a model, its optimisers' state and JSON-able facts; every rank writes its own rows, rank 0 what all have.

    Args:
        folder: on storage that all ranks see; replaced once the new one is complete.
        model: with a `ShardedTable` or more among its modules; all else in its `state_dict` is the same on all ranks.
        optimizers: by name; what they keep of a table's rows is divided as the rows are.
        facts: whatever else a resume needs, the same on all ranks: rank 0's are written.
        group: the tables' group.
        states: more tensors, by a name that no optimiser has; those named as in the model's `state_dict`, such as its
            best weights, are divided as there.

    Raises:
        OSError: no room on any rank's disk, on all ranks; what was there before is still there.
        ConnectionError: another rank failed otherwise, ended or did not answer.

    Cost:
        Every rank writes its rows and their state once; nothing of them travels.
    """
    folder, ranks, device = Path(folder), Ranks("save_sharded", group), next(model.parameters()).device
    made, former = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".former")
    optimizers = optimizers or {}
    try:
        with ranks.together(device):
            if ranks.rank == 0:
                shutil.rmtree(made, ignore_errors=True)
                made.mkdir(parents=True)
                write_text(made / FACTS, json.dumps(facts or {}))
        for optimizer in optimizers.values():
            if hasattr(optimizer, "catch_up"):
                optimizer.catch_up()
        named = [
            (key, value, table)
            for key, value, table in named_tensors(model, optimizers, states or {})
            if table is None or table.n_rows
        ]
        tensors = {key: divided(value, table, ranks) for key, value, table in named}
        with quietly_alone(ranks), told_as_os_error(ranks, f"{bytes_of(named):,} bytes of room", folder):
            dcp.save(
                tensors,
                storage_writer=dcp.FileSystemWriter(made),
                process_group=group,
                no_dist=ranks.size == 1,
            )
        with ranks.together(device):
            if ranks.rank == 0:
                shutil.rmtree(former, ignore_errors=True)
                sync_folder(made)
                if folder.exists():
                    folder.rename(former)
                made.rename(folder)
                sync_folder(folder.parent)  # before the former one goes
                shutil.rmtree(former, ignore_errors=True)
    except BaseException:
        if ranks.rank == 0:
            shutil.rmtree(made, ignore_errors=True)
        raise


def load_sharded(
    folder: str | os.PathLike,
    model: nn.Module,
    optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
    group: dist.ProcessGroup | None = None,
    *,
    states: dict[str, dict[str, Tensor]] | None = None,
) -> dict:
    """Puts back what `save_sharded` wrote, on any number of ranks and in any layout, and returns the facts.

    Args:
        folder: written by `save_sharded`. torch's index of it is a pickle: load folders that you trust.
        model, optimizers, group: made as for the save, for tables of the same sizes; values are replaced.
        states: filled with what was saved as such, of tables this rank's rows; None expects that there are none.

    Raises:
        FileNotFoundError: no whole checkpoint there.
        ValueError: tensors of other names or sizes.
        OSError: files that are damaged or cannot be read, on all ranks.
        ConnectionError: on all other ranks, where one failed.

    Cost:
        Every rank reads its rows and their state.

    Example:
        >>> import tempfile
        >>> folder, model = tempfile.mkdtemp() + "/checkpoint", ShardedFactorization(3, 5, width=2)
        >>> save_sharded(folder, model, facts={"epoch": 3})
        >>> load_sharded(folder, model)
        {'epoch': 3}
    """
    folder, ranks, device = Path(folder), Ranks("load_sharded", group), next(model.parameters()).device
    optimizers = optimizers or {}
    with ranks.together(device):
        folder = whole_one(folder)
        facts = facts_in(folder)
        if facts is None:
            raise FileNotFoundError(f"load_sharded: expected a checkpoint; got none in {folder}")
        kept = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        parts = dict(rooms(model, optimizers, kept, states is not None))
    tensors = {
        key: divided(room, table, ranks)
        for key, (room, table) in parts.items()
        if table is None or table.n_rows
    }
    with quietly_alone(ranks), told_as_os_error(ranks, "whole files", folder):
        dcp.load(
            tensors, storage_reader=dcp.FileSystemReader(folder), process_group=group, no_dist=ranks.size == 1
        )
    with ranks.together(device):
        for name, optimizer in optimizers.items():
            prefix = f"{name}/"
            own = {
                key.removeprefix(prefix): room for key, (room, _) in parts.items() if key.startswith(prefix)
            }
            load_optimizer_tensors(optimizer, own)
    if states is not None:
        for key, (room, _) in parts.items():
            name, _, rest = key.partition("/")
            if name and name not in optimizers:
                states.setdefault(name, {})[rest] = room
    return facts


def whole_one(folder: Path) -> Path:
    """A checkpoint's folder, or the former one where a save ended between two renames."""
    former = folder.with_name(folder.name + ".former")
    return former if not folder.exists() and former.exists() else folder


def facts_in(folder: Path) -> dict | None:
    """The facts of the checkpoint in a folder; None where there is none."""
    path = whole_one(folder) / FACTS
    return json_in("load_sharded", path) if path.exists() else None


@contextmanager
def quietly_alone(ranks: Ranks) -> Iterator[None]:
    """Without torch's warning that there are no other processes, where that is so on purpose."""
    with warnings.catch_warnings():
        if ranks.size == 1:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@contextmanager
def told_as_os_error(ranks: Ranks, expected: str, folder: Path) -> Iterator[None]:
    """torch's CheckpointException, raised on all ranks where one failed, is no Exception: an OSError in its place."""
    try:
        yield
    except CheckpointException as error:
        failures = {rank: failure for rank, (failure, _) in error.failures.items()}
        own = failures.get(ranks.rank)
        if own is not None and not isinstance(own, Exception):
            raise own from error  # an interrupt
        rank, failure = min(failures.items())
        text = f"{ranks.op}: expected {expected} in {folder}; got {type(failure).__name__}: {failure} on rank {rank}"
        code = getattr(failure, "errno", None)
        raise (OSError(text) if code is None else OSError(code, text)) from error


def bytes_of(named: Iterable[tuple[str, Tensor, ShardedTable | None]]) -> int:
    """Of the tensors of all ranks."""
    return sum(
        t.itemsize * (t.numel() if table is None else table.n_rows * prod(t.shape[1:]))
        for _, t, table in named
    )


def tables_of(model: nn.Module) -> dict[str, ShardedTable]:
    """The sharded tables of a model, by the names of their rows."""
    return {
        f"{name}.rows".lstrip("."): module
        for name, module in model.named_modules()
        if isinstance(module, ShardedTable)
    }


def tables_by_index(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[tuple[Tensor, ShardedTable | None]]:
    """The parameters in an optimiser's order, with the tables whose rows they are."""
    of = {id(table.rows): table for table in tables_of(model).values()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [(parameter, of.get(id(parameter))) for parameter in parameters]


def named_tensors(
    model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], states: States
) -> Iterator[tuple[str, Tensor, ShardedTable | None]]:
    """(key, tensor, the table whose rows it has one row for each)."""
    tables = tables_of(model)
    for group, named in {"": model.state_dict(), **states}.items():
        for name, value in named.items():
            yield f"{group}/{name}", value, tables.get(name)
    for name, optimizer in optimizers.items():
        by_index = tables_by_index(model, optimizer)
        for key, value in optimizer_tensors(optimizer).items():
            table = by_index[int(key.split(".")[0])][1]
            yield f"{name}/{key}", value, table if value.dim() else None


def rooms(
    model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer], kept: Mapping, has_states: bool
) -> Iterator[tuple[str, tuple[Tensor, ShardedTable | None]]]:
    """Where to read each tensor of a checkpoint to: the model's own tensors, and new ones for optimisers and states."""
    op, tables, sizes = "load_sharded", tables_of(model), {}
    for name, value in model.state_dict().items():
        table = tables.get(name)
        sizes[f"/{name}"] = value.shape if table is None else (table.n_rows, *value.shape[1:])
        yield f"/{name}", (value, table)
    for key in sorted(set(kept) | set(sizes)):
        group, _, name = key.partition("/")
        unknown = group not in optimizers and not has_states if group else key not in sizes
        if key not in kept or unknown:
            known = "the checkpoint" if key in sizes else "the model and its optimisers"
            raise ValueError(f"{op}: expected every tensor on both sides; got {key!r}, which {known} has not")
        size = tuple(kept[key].size)
        if not group:
            if size != tuple(sizes[key]):
                raise ValueError(f"{op}: expected {key!r} of {tuple(sizes[key])}; got {size}")
            continue
        device = "cpu"
        if group in optimizers:
            parameter, table = tables_by_index(model, optimizers[group])[int(name.split(".")[0])]
            table, device = (table, parameter.device) if size else (None, "cpu")
        else:
            table = tables.get(name)
        shape = size if table is None else (len(table.rows), *size[1:])
        yield key, (torch.empty(shape, dtype=kept[key].properties.dtype, device=device), table)


def divided(value: Tensor, table: ShardedTable | None, ranks: Ranks) -> object:
    """A tensor as torch.distributed.checkpoint takes it: that of all ranks, of which this rank has its own rows."""
    value = value.detach()
    if table is None or ranks.size == 1:
        return value
    shards = []
    if len(value):
        rank = dist.get_rank()
        device = (
            value.device if value.device.type == "cpu" else f"{value.device.type}:{value.device.index or 0}"
        )
        offsets = [table.own.start, *[0] * (value.dim() - 1)]
        shards.append(Shard(value, ShardMetadata(offsets, list(value.shape), f"rank:{rank}/{device}")))
    return init_from_local_shards(shards, table.n_rows, *value.shape[1:], process_group=ranks.group)
