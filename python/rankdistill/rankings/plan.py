"""How many users and items at a time fit a limit of memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from rankdistill.data.csr import CSR
from rankdistill.ops.native import accumulator_dtype
from rankdistill.rankings.tables import Table

UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("iB", 1024), ("B", 1000))
}
DEFAULT_LIMIT = "1GiB"

FIXED_BYTES = 32 << 20  # the op's working memory (16 MiB at most), and what allocators keep
ENTRY_BYTES = (
    120  # of a call's list entry: the op's result and its working memory, the merge with an earlier list
)
EXCLUDED_BYTES = 32  # of an excluded entry of a call: its copy, and the positions to copy from
PREPARED_BYTES = (
    48  # of a prepared item, beside one for each of its values: order, bounds, and norms while it is sorted
)
USERS_PER_CALL = 4096  # more are no faster
LEAST_BLOCK = 65536  # items of a block, where memory allows: with fewer, selection costs as much as scores
DEVICE_RESERVE = (
    1 << 30
)  # of a device's memory: the op's working memory there (512 MiB at most), and what allocators keep
# Users between two readings of an item table that does not fit. With so many, a reading at 100 MB/s costs 2 % of the
# time of the scores; with more it would save that, and a kill would lose more.
USERS_PER_PASS = 1 << 18


@dataclass(frozen=True)
class Plan:
    """Sizes of an extraction: users of a call, users for whom the item table passes by once, items of a block.

    `prepares` says whether a block is ordered and packed once for all calls that it serves (`prepare_items`); `bytes` is
    the peak of memory beside the inputs that all this needs.
    """

    users_per_call: int
    users_per_pass: int
    items_per_block: int
    prepares: bool
    bytes: int


def bytes_of(op: str, text: int | str) -> int:
    """A number of bytes, as it is or with a unit: 1073741824, "1GiB", "512 MiB", "2GB"."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)\s*", text) if isinstance(text, str) else None
    if not found or found[2] not in UNITS:
        raise ValueError(
            f"{op}: expected memory_limit in bytes, or text such as 1GiB or 512MiB; got {text!r}"
        )
    return int(float(found[1]) * UNITS[found[2]])


def plan_extraction(
    op: str,
    limit: int,
    users: Table,
    items: Table,
    k: int,
    exclude: CSR | None,
    shard_size: int,
    room: int | None = None,
) -> Plan:
    """The sizes that read a table of items as few times as possible within `limit` bytes.

    `room`: free bytes of the device that items go to from here, in blocks that fit it; None where they stay.

    With c users a call, b users a pass and blocks of n items the peak beside the inputs is

        32 MiB + c·(120·k + 16) + 32·E + [c·r_users, where a call's rows are copied]
        + [n·(D + 48), where a block is prepared] + [n·r_items + b·(k·(s + 4)), where the items do not fit]

    bytes, with E the excluded entries of a call, r the bytes of a row, and s = 4 (8 for float64 tables) those of a
    score. A table in memory, or a file that fits beside the rest, is one block that is used in place. Blocks that serve
    more than one call are prepared, where that leaves half of the memory to lists.
    """
    U, N = len(users), len(items)
    score = accumulator_dtype(items.dtype).itemsize

    def call_bytes(c: int) -> int:
        copied = 0 if users.is_in_place else users.row_bytes
        return c * (ENTRY_BYTES * k + 16 + copied) + EXCLUDED_BYTES * most_entries(exclude, c)

    c = min(USERS_PER_CALL, max(1, U))
    while c > 1 and call_bytes(c) > (limit - FIXED_BYTES) // 4:
        c //= 2
    used = FIXED_BYTES + call_bytes(c)
    user = k * (score + 4)  # bytes of the lists that wait for the next block

    def expect_room(more: int) -> None:
        if used + more > limit:
            least = FIXED_BYTES + call_bytes(1) + more
            raise ValueError(
                f"{op}: expected a memory_limit of {least:,} bytes or more for lists of {k} items; got {limit:,}"
            )

    if room is not None:
        block = min(N, max(0, room - DEVICE_RESERVE) * 9 // 10 // device_item_bytes(items))
        if N and not block:
            least = DEVICE_RESERVE + 2 * device_item_bytes(items)
            raise ValueError(f"{op}: expected {least:,} bytes or more free on the device; got {room:,}")
        expect_room(0 if block == N else user)
        if block == N:
            return Plan(c, max(1, min(shard_size, U)), max(1, N), c < U, used)
        b = users_per_pass((limit - used) // max(1, user), U, (shard_size, c))
        return Plan(min(c, b), b, block, True, used + b * user)
    whole = 0 if items.file is None else N * items.row_bytes
    prepared = items.shape[1] + PREPARED_BYTES  # bytes of an item
    if used + whole <= limit:
        prepares = c < U and used + whole + N * prepared <= limit
        used += (0 if items.is_in_place else whole) + N * prepared * prepares
        return Plan(c, max(1, min(shard_size, U)), max(1, N), prepares, used)

    row = max(1, items.row_bytes)
    rest = limit - used
    expect_room(row + user if whole else 0)
    prepares = c < U and min(N, LEAST_BLOCK) * (row + prepared) <= rest // 2
    row += prepared * prepares
    block = min(N, LEAST_BLOCK, max(1, rest // 2 // row))
    b = users_per_pass((rest - block * row) // max(1, user), U, (shard_size, c))
    block = min(N, (rest - b * user) // row)
    return Plan(min(c, b), b, block, prepares, used + b * user + block * row)


def users_per_pass(most: int, n_users: int, units: tuple[int, ...]) -> int:
    """Passes of equal size, of whole units of the first kind that is smaller, of `most` users at the most."""
    size = max(1, min(most, n_users, USERS_PER_PASS))
    size = -(-n_users // -(-n_users // size)) if n_users else 1
    unit = next((unit for unit in units if size > unit), None)
    return size if unit is None else min(-(-size // unit) * unit, most // unit * unit, n_users)


def device_item_bytes(items: Table) -> int:
    """Of an item on a device: its row, and what `prepare_items` makes of it."""
    image = 2 * (-(-items.shape[1] // 64) * 64) + 16
    return items.row_bytes + image + -(-image // 32)


def named_device(op: str, device: torch.device | str) -> torch.device:
    """A device that is there, a GPU with its number."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{op}: expected a device such as cuda; got {device!r}") from error
    if found.type != "cuda":
        return found
    there = torch.cuda.device_count()
    index = found.index if found.index is not None or not there else torch.cuda.current_device()
    if not 0 <= (index or 0) < there:
        raise ValueError(f"{op}: expected a device that is there; got {found}, and {there} GPUs")
    return torch.device("cuda", index)


def free_bytes(device: torch.device) -> int | None:
    """Of a device's memory, with what torch keeps there unused; None of the processor's."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def most_entries(exclude: CSR | None, rows: int) -> int:
    """At least as many as any `rows` consecutive rows hold, at most twice that."""
    if exclude is None or not exclude.n_rows:
        return 0
    edges = torch.cat([exclude.indptr[::rows], exclude.indptr[-1:]]).diff()
    pairs = edges[1:] + edges[:-1]
    return int(max(edges.max(), pairs.max() if len(pairs) else 0))
