"""Rankings of tables that need not fit the memory, into a folder, on one process or several."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.rankings.distributed import Processes
from rankdistill.rankings.mapping import free_unused_pages
from rankdistill.rankings.plan import DEFAULT_LIMIT, Plan, bytes_of, free_bytes, named_device, plan_extraction
from rankdistill.rankings.progress import logged
from rankdistill.rankings.rankings import Rankings
from rankdistill.rankings.safetensors_files import write_tensors
from rankdistill.rankings.shards import IDS, SHARD_UNIT, Settings, ShardedFolder, default_shard_size
from rankdistill.rankings.stored_ids import ids_as_tensors
from rankdistill.rankings.streaming import Steps, Streaming, expect_tables
from rankdistill.rankings.tables import Table

logger = logging.getLogger("rankdistill")

OP = "extract_rankings"


def extract_rankings(
    users: Tensor | str | os.PathLike,
    items: Tensor | str | os.PathLike,
    k: int,
    exclude: CSR | None = None,
    *,
    out: str | os.PathLike,
    item_bias: Tensor | str | os.PathLike | None = None,
    memory_limit: int | str = DEFAULT_LIMIT,
    shard_size: int | None = None,
    divide: Literal["users", "items"] = "users",
    device: torch.device | str | None = None,
    group: dist.ProcessGroup | None = None,
    resume: bool = True,
    progress: Callable[[Iterable], Iterator] | None = None,
    metadata: dict[str, str] | None = None,
    user_ids: object = None,
    item_ids: object = None,
) -> Rankings:
    """The exact top k of users · items (+ item_bias) within a limit of memory, into a folder of shards.

    rankings.scores[u, j] = <users[u], items[rankings.indices[u, j]]>, descending in j

    Args:
        users: [U, D] float table: a tensor, or a file. Rows of .npy and .safetensors files (float16, float32,
            float64; bfloat16 in the latter) are read as they are used; a .npz file is loaded whole. A file that
            holds several tensors is named as "file#tensor". Replace a file (by a rename) and never rewrite it in
            place: it is mapped, and the system ends a process (SIGBUS) that reads what a file no longer has.
        items: [N, D] float table of the same dtype, as users. Under torch.distributed every process names the
            whole table.
        k: list length, >= 0.
        exclude: the train items of every user, never ranked (U rows, N columns), or None.
        out: the folder; made where there is none.
        item_bias: [N] tensor or file, of the items' dtype, added to every score of an item; None adds nothing.
        memory_limit: bytes beside the inputs, per process, as a number or as text such as "1GiB" or "512MB".
        shard_size: users per shard, a multiple of 1024; None for shards of some 32 MiB.
        divide: what the processes of `group` divide among themselves. "users": each ranks and writes its own shards.
            "items": each ranks all users against its part of the items, and the lists are merged; less memory
            traffic where the table of items is much larger than the memory.
        device: where users are ranked, such as "cuda": items go there once if they fit its free memory, else block by
            block, once per pass of users; None for where the items are. The lists are the same.
        group: a torch.distributed group; None for all processes, or for this one alone where there are no others.
        resume: go on where an extraction into `out` was interrupted, or make the shards that it has lost since; False begins anew and first removes what an
            earlier one wrote there.
        progress: wraps the steps, an iterable of known length (such as tqdm); None logs a line now and then. On
            several processes that of rank 0 is used.
        metadata: strings by name, kept with the rankings.
        user_ids, item_ids: the external ids of the rows [U] and of the items [N], kept with the rankings
            (`Rankings.aligned` reads them); both, or None.

    Returns:
        Rankings.load(out): memory-mapped, on every process.

    Contract:
        The lists are bit for bit those of `Rankings.from_vectors`, for any limit, number of processes and division;
        so are the bytes of the folder, interrupted or not. A shard appears when it is whole, the index when all
        shards are there. A process that fails is an error on all of them.

    Raises:
        TypeError, ValueError: tables that do not fit each other, or damaged files; a device that is not there or has no room; a shard that is damaged; a limit that is too small, with the least
            possible; a folder that another extraction (other tables, other settings) was begun in.
        OSError: a folder that cannot be written or has no room. What is finished stays.
        ConnectionError: another process failed, ended or did not answer within the group's time-out.

    Cost:
        O(U·N·D) time. Memory beside the inputs and their page cache, with c ≤ 4096 users a call, e of a call's
        excluded entries, s = 4 bytes a score (8 for float64 tables): 32 MiB + c·(120·k + 16) + 32·e; for U > c, where
        there is room, N·(D + 48) more, as the items are ordered and packed once (`prepare_items`); and where a file of
        items is larger than what the limit leaves, n·(D·itemsize + D + 48) + b·k·(s + 4), for n items at a time and b
        users who see them go by: the file is read U/b times, b as large as fits, at most 262,144. Users go by
        once per block of items. A device's memory is filled but for a tenth and 1 GiB, at most
        N·(D·itemsize + 2·D + 16). A kill loses the b users at work, or one shard where the items fit. The tables are
        read once more for their SHA-256.

    Source:
        The list that every ranking method starts from; the order is that of `inner_product_topk`.

    Example:
        >>> import tempfile
        >>> users, items = torch.tensor([[1., 2.]]), torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     extract_rankings(users, items, k=2, out=folder).indices
        tensor([[2, 1]], dtype=torch.int32)
    """
    with ExitStack() as stack:
        processes = stack.enter_context(Processes.on_cpu(OP, group))
        r, W = processes.rank, processes.size
        with processes.together():
            if divide not in ("users", "items"):
                raise ValueError(f"{OP}: expected divide as 'users' or 'items'; got {divide!r}")
            limit = bytes_of(OP, memory_limit)
            tables = Table.of(OP, "users", users), Table.of(OP, "items", items)
            bias = (
                None if item_bias is None else Table.of(OP, "item_bias", item_bias, dim=1).rows(0, None)[:, 0]
            )
            _, N = expect_tables(OP, *tables, k, exclude, bias)
            shard_size = default_shard_size(k) if shard_size is None else shard_size
            _expect_shard_size(shard_size)
            settings = _settings(*tables, k, exclude, bias, shard_size, dict(metadata or {}))
            folder = ShardedFolder(OP, out, settings)
            ids = {}
            if user_ids is not None or item_ids is not None:
                ids = ids_as_tensors(OP, len(tables[0]), N, user_ids, item_ids)
            chosen = tables[1].device if device is None else named_device(OP, device)
            room = free_bytes(chosen) if chosen != tables[1].device else None
        # Of several devices what the fullest one has, so that all plan alike.
        room = min((theirs for theirs in processes.share(room) if theirs is not None), default=None)
        with processes.together():
            plan = plan_extraction(OP, limit, *tables, k, exclude, shard_size, room)
        # Otherwise processes would wait for each other, or mix rankings.
        processes.same(**asdict(settings), divide=divide, memory_limit=limit, resume=resume, **asdict(plan))
        missing = None
        with processes.together():
            if r == 0:
                stack.enter_context(folder.locked())
                missing = folder.begin(resume)
                if ids:
                    write_tensors(OP, folder.folder / IDS, ids, {})
                there = settings.n_shards - len(missing or ())
                if there:
                    logger.info("%s: %d of %d shards are in %s already", OP, there, settings.n_shards, out)
                if missing:
                    folder.expect_room(missing)
        missing = processes.share(missing)[0]
        if missing is None:
            return _loaded(processes, out)

        stack.callback(folder.close)
        by_items = divide == "items" and W > 1
        shares = [
            missing if by_items else missing[len(missing) * i // W : len(missing) * (i + 1) // W]
            for i in range(W)
        ]
        passes = [list(_passes(settings, plan, share)) for share in shares]
        steps = Steps(passes[r], range(N * r // W, N * (r + 1) // W) if by_items else range(N), plan)
        with processes.together():
            ranked = Streaming(*tables, k, exclude, bias, steps, chosen)
            show = iter if r else progress or logged("rankings")
            for step in show(steps):
                lists = ranked.rank(step)
                if lists is not None:
                    if by_items:
                        processes.agree()
                        lists = processes.merge(lists, k)
                    if not by_items or r == 0:
                        folder.put(step.users.start, *lists)
                lists = None
                free_unused_pages()
                if step.ends_pass:
                    processes.agree()
            for _ in range(max(map(len, passes)) - len(passes[r])):
                processes.agree()  # others have more passes
        with processes.together():
            if r == 0:
                folder.finish()
        return _loaded(processes, out)


def _loaded(processes: Processes, out: str | os.PathLike) -> Rankings:
    """All processes leave together: afterwards one may move the folder or remove it, which maps outlive."""
    with processes.together():
        return Rankings.load(out)


def _expect_shard_size(shard_size: int) -> None:
    whole = isinstance(shard_size, int) and shard_size > 0 and shard_size % SHARD_UNIT == 0
    if not whole:
        hint = (
            f". {-(-shard_size // SHARD_UNIT) * SHARD_UNIT} is one"
            if isinstance(shard_size, int) and shard_size > 0
            else ""
        )
        raise ValueError(
            f"{OP}: expected shard_size as a multiple of {SHARD_UNIT}, whose lists fill whole pages; got {shard_size!r}{hint}"
        )


def _settings(
    users: Table,
    items: Table,
    k: int,
    exclude: CSR | None,
    bias: Tensor | None,
    shard_size: int,
    metadata: dict[str, str],
) -> Settings:
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise TypeError(f"{OP}: expected metadata of strings by name; got {metadata!r}")

    def described(table: Table) -> str:
        return f"{str(table.dtype).removeprefix('torch.')} {list(table.shape)} sha256 {table.fingerprint()}"

    def column(values: Tensor) -> Table:
        return Table(OP, "column", values.reshape(-1, 1))

    excluded = (
        ""
        if exclude is None
        else f"{column(exclude.indptr).fingerprint()} {column(exclude.indices).fingerprint()}"
    )
    return Settings(
        n_users=len(users), n_items=len(items), k=k, shard_size=shard_size, users=described(users),
        items=described(items), exclude=excluded, item_bias="" if bias is None else described(column(bias)),
        metadata=metadata,
    )  # fmt: skip


def _passes(settings: Settings, plan: Plan, shards: list[int]) -> Iterator[range]:
    """Users in the order that they are ranked in: stretches of the shards' users, at most a pass long each."""
    start = stop = -1
    for shard in shards:
        users = settings.shard_users(shard)
        if users.start != stop:
            yield from _cut(start, stop, plan.users_per_pass)
            start = users.start
        stop = users.stop
    yield from _cut(start, stop, plan.users_per_pass)


def _cut(start: int, stop: int, size: int) -> Iterator[range]:
    for first in range(start, stop, size):
        yield range(first, min(first + size, stop))
