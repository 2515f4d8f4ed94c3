"""The plan of an extraction: what it takes of memory, windows of exclusions, limits as text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rankdistill.data import CSR
from rankdistill.rankings.plan import (
    DEVICE_RESERVE,
    bytes_of,
    device_item_bytes,
    most_entries,
    named_device,
    plan_extraction,
)
from rankdistill.rankings.tables import Table
from tests.case import generator
from tests.process import output


def test_the_plan_reads_items_as_few_times_as_the_limit_allows(tmp_path):
    """And keeps to the limit by its own formula, down to the least that it names."""
    users, items = Table.of("op", "users", torch.zeros(300_000, 1)), _items_file(tmp_path, 2_000_000, 8)
    passes = []
    for limit in (40 << 20, 64 << 20, 128 << 20, 256 << 20, 1 << 30):
        plan = plan_extraction("op", limit, users, items, 100, None, 16384)
        assert plan.bytes <= limit
        if plan.items_per_block < len(items):
            row = items.row_bytes + (8 + 48) * plan.prepares
            lists, block = plan.users_per_pass * 100 * 8, plan.items_per_block * row
            assert plan.bytes == (32 << 20) + plan.users_per_call * (120 * 100 + 16) + lists + block
            assert plan.users_per_pass % 16384 == 0 or plan.users_per_pass < 16384
            wider = (plan.users_per_pass * 100 * 8 + min(65536, plan.items_per_block) * row) * 2
            assert plan.users_per_pass == 1 << 18 or plan.bytes + wider > limit, "memory is used"
        passes.append(-(-len(users) // plan.users_per_pass) if plan.items_per_block < len(items) else 1)
    assert passes == sorted(passes, reverse=True)
    assert passes[-1] == 1
    with pytest.raises(
        ValueError, match="expected a memory_limit of ([0-9,]+) bytes or more for lists of 100"
    ) as caught:
        plan_extraction("op", 32 << 20, users, items, 100, None, 16384)
    least = int(str(caught.value).split("memory_limit of ")[1].split(" ")[0].replace(",", ""))
    assert plan_extraction("op", least, users, items, 100, None, 16384).bytes <= least
    with pytest.raises(ValueError):
        plan_extraction("op", least - 1, users, items, 100, None, 16384)


def test_blocks_fit_the_room_of_a_device(tmp_path):
    users, items = Table.of("op", "users", torch.zeros(300_000, 1)), _items_file(tmp_path, 2_000_000, 8)
    size = device_item_bytes(items)
    assert size == 32 + 2 * 64 + 16 + 5

    def planned(room, limit=1 << 30):
        return plan_extraction("op", limit, users, items, 100, None, 16384, room)

    whole = planned(DEVICE_RESERVE + 2_000_000 * size * 10 // 9 + 10)
    assert whole.items_per_block == 2_000_000
    assert whole.users_per_pass == 16384
    parts = planned(DEVICE_RESERVE + 1_000_000 * size)
    assert parts.items_per_block == 900_000
    assert parts.users_per_pass == 10 * 16384, "a second pass is needed anyway: two of equal size"
    assert parts.bytes == (32 << 20) + 4096 * (120 * 100 + 16) + parts.users_per_pass * 800 <= 1 << 30
    assert planned(DEVICE_RESERVE + 1_000_000 * size, 128 << 20).bytes <= 128 << 20
    with pytest.raises(
        ValueError, match="expected 1,[0-9,]+ bytes or more free on the device; got 1,000,000"
    ):
        planned(1_000_000)
    with pytest.raises(ValueError, match="expected a memory_limit of"):
        planned(DEVICE_RESERVE + 1_000_000 * size, 32 << 20)


@pytest.mark.parametrize("device", ["banana", 3.5, "cuda:1000"])
def test_a_device_that_is_not_there_is_a_clear_error(device):
    with pytest.raises(ValueError, match="op: expected a device .*; got"):
        named_device("op", device)


def _items_file(folder, rows, width) -> Table:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    with open(folder / "items.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * width * 4)
    return Table.of("op", "items", folder / "items.npy")


def test_the_most_excluded_entries_of_a_call():
    counts = torch.randint(0, 9, (1000,), generator=generator(3))
    rows = torch.arange(1000).repeat_interleave(counts)
    columns = torch.cat([torch.arange(int(c)) for c in counts])
    exclude = CSR.from_pairs(rows, columns, 1000, 10)
    for size in (1, 7, 100, 1000, 2000):
        windows = [int(exclude.indptr[min(u + size, 1000)] - exclude.indptr[u]) for u in range(1000)]
        assert max(windows) <= most_entries(exclude, size) <= 2 * max(windows)
    assert most_entries(None, 5) == most_entries(CSR.empty(0, 3), 5) == most_entries(CSR.empty(4, 3), 5) == 0


def test_windows_of_exclusions():
    dense = torch.rand(30, 50, generator=generator(4)) < 0.3
    dense[3], dense[4] = False, True
    exclude = CSR.from_any(dense)
    for rows in (range(30), range(0), range(3, 4), range(2, 17), range(30, 30)):
        for columns in (range(50), range(0), range(50, 50), range(7, 31), range(49, 50)):
            window = exclude.window(rows, columns)
            assert torch.equal(window.to_dense(), dense[rows.start : rows.stop, columns.start : columns.stop])
            CSR(window.indptr, window.indices, window.n_columns)
    assert CSR.empty(3, 5).window(range(3), range(1, 4)).to_dense().tolist() == [[False] * 3] * 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [(0, 0), (123, 123), ("123", 123), ("1GiB", 1 << 30), ("1.5 KiB", 1536), ("2MB", 2_000_000)],
)
def test_memory_limits_as_text(text, expected):
    assert bytes_of("op", text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "1 gib", "-1", -1, "1XiB", 1.5, None, True, "1iB"])
def test_what_is_no_memory_limit(text):
    with pytest.raises(
        ValueError, match="^op: expected memory_limit in bytes, or text such as 1GiB or 512MiB; got "
    ):
        bytes_of("op", text)


def test_freed_memory_between_tensors_in_use_goes_back():
    code = """
import torch
from rankdistill.rankings.mapping import free_unused_pages
def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) * 1024
del [torch.ones(1 << 20) for _ in range(3)][:]
made = [torch.ones(50_000) for _ in range(400)]
made = made[::2]
before = anonymous()
free_unused_pages()
print((before - anonymous()) >> 20, sum(float(t.sum()) for t in made))
"""
    freed, total = output(code).split()
    assert int(freed) >= 20, "200 tensors of 0.19 MiB lie between 200 others"
    assert float(total) == 200 * 50_000
