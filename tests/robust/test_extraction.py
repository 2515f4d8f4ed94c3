"""Extraction into a folder: the same lists and bytes whatever the memory, the files and the interruptions."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rankdistill import Rankings, extract_rankings
from rankdistill.data import CSR
from rankdistill.files import alone_in
from rankdistill.models import load_factors
from rankdistill.rankings import extraction
from rankdistill.rankings.plan import DEVICE_RESERVE, device_item_bytes, plan_extraction
from rankdistill.rankings.progress import duration, logged
from rankdistill.rankings.streaming import Steps, Streaming
from rankdistill.rankings.tables import Table
from tests.case import DTYPES, generator, randn
from tests.process import output
from tests.robust.extraction_tables import (
    ROOM,
    SHARD,
    D,
    K,
    N,
    U,
    assert_same,
    contents,
    in_files,
    least_limit,
    tables,
)


@pytest.fixture(scope="module")
def exclude() -> CSR:
    return CSR.from_any(torch.rand(U, N, generator=generator(1)) < 0.01)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0, K])
def test_lists_and_bytes_depend_on_the_tables_alone(tmp_path, exclude, dtype, k):
    users, items = tables(dtype)
    bias = randn(N, seed=4).to(dtype)
    options = {"exclude": exclude, "item_bias": bias, "metadata": {"teacher": "wide"}}
    expected = Rankings.from_vectors(users, items, k, **options)
    files, options = in_files(tmp_path, users, items), options | {"shard_size": SHARD}
    whole = extract_rankings(users, items, k, out=tmp_path / "whole", **options)
    assert_same(whole, expected)
    assert sorted(contents(tmp_path / "whole")) == [
        f"rankings-0000{i}-of-00003.safetensors" for i in range(3)
    ] + ["rankings.json"]
    for memory_limit in ("1GiB", least_limit(files, k, out=tmp_path / "none", **options) + ROOM):
        out = tmp_path / str(memory_limit)
        assert_same(extract_rankings(*files, k, out=out, memory_limit=memory_limit, **options), expected)
        assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, K, 95])
def test_blocks_of_any_size_give_the_same_lists(tmp_path, exclude, dtype, k):
    """With scores that are not exact, so that equality is of every bit; down to blocks of one item."""
    users, items = randn(40, 16, seed=5).to(dtype), randn(90, 16, seed=6).to(dtype)
    some = exclude.window(range(40), range(90))
    expected = Rankings.from_vectors(users, items, k, some)
    files = [Table.of("op", path.stem, path) for path in in_files(tmp_path, users, items)]
    for block, call, passes in (
        (1, 40, [range(40)]),
        (7, 3, [range(17), range(17, 40)]),
        (89, 16, [range(40)]),
    ):
        plan = plan_extraction("op", 1 << 30, *files, k, some, SHARD)
        plan = type(plan)(call, 40, block, block > 1, 0)
        steps = Steps(passes, range(90), plan)
        ranked = Streaming(*files, k, some, None, steps)
        assert len(list(steps)) == len(steps)
        found = {step.users: lists for step in steps if (lists := ranked.rank(step)) is not None}
        assert [u for users in found for u in users] == list(range(40))
        scores = torch.cat([lists.scores for lists in found.values()])
        assert torch.equal(scores.float(), expected.scores)
        assert torch.equal(torch.cat([lists.indices for lists in found.values()]).int(), expected.indices)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("room", "expected"), [(None, [90]), (90, [90]), (40, [40, 40, 10])])
def test_items_go_to_a_device_in_blocks_that_fit_it(
    tmp_path, exclude, monkeypatch, in_memory, room, expected
):
    """The processor under another name stands for it, with room for so many items."""
    users, items = randn(40, 16, seed=5), randn(90, 16, seed=6)
    options = {"exclude": exclude.window(range(40), range(90)), "item_bias": randn(90, seed=7)}
    here = extract_rankings(users, items, K, out=tmp_path / "here", **options)
    of_an_item = device_item_bytes(Table.of("op", "items", items))
    free = room and DEVICE_RESERVE + -(-room * of_an_item * 10 // 9)
    monkeypatch.setattr(extraction, "free_bytes", lambda device: free)
    load, blocks = Streaming._load, []

    def counted(self, step):
        load(self, step)
        blocks.append(len(step.items))
        assert self._buffer is not None, "copied to the device"

    monkeypatch.setattr(Streaming, "_load", counted)
    given = (users, items) if in_memory else in_files(tmp_path, users, items)
    there = extract_rankings(*given, K, out=tmp_path / "there", device="cpu:0", **options)
    assert_same(there, here)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert blocks == expected


def test_memory_beside_the_inputs_keeps_to_the_limit(tmp_path):
    """Anonymous memory (RssAnon), as pages of the mapped files are the kernel's to take away."""
    save_file({"t": randn(6_000, 32, seed=1)}, tmp_path / "users.safetensors")
    save_file({"t": randn(500_000, 32, seed=2)}, tmp_path / "items.safetensors")
    counted = output(
        f"""
import threading, torch
from rankdistill import extract_rankings
def anonymous():
    line = next(l for l in open("/proc/self/status") if l.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
extract_rankings(torch.randn(5000, 32), torch.randn(5000, 32), 50, out={str(tmp_path / "warm")!r})
before, most, done = anonymous(), 0, threading.Event()
def watch():
    global most
    while not done.wait(0.002):
        most = max(most, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
extract_rankings({str(tmp_path / "users.safetensors")!r}, {str(tmp_path / "items.safetensors")!r}, 50,
                 out={str(tmp_path / "out")!r}, memory_limit="48MiB", shard_size=1024)
done.set()
watcher.join()
print(most - before)
"""
    )
    assert 8 << 20 < int(counted) <= 48 << 20, (
        "64 MB of items pass through 48 MiB, blocks and lists in memory"
    )
    assert Rankings.load(tmp_path / "out").lengths.tolist() == [50] * 6_000


def test_a_finished_extraction_is_not_done_again(tmp_path, monkeypatch):
    users, items = tables()
    extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(Streaming, "rank", lambda *_: pytest.fail("ranked again"))
    again = extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD)
    assert again.n_users == U
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_only_what_is_missing_is_done_again(tmp_path, monkeypatch, caplog):
    users, items = tables()
    extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "rankings.json").unlink()
    (tmp_path / "out" / "rankings-00001-of-00003.safetensors").unlink()
    ranked, real = [], Streaming.rank
    monkeypatch.setattr(Streaming, "rank", lambda self, step: ranked.append(step.users) or real(self, step))
    with caplog.at_level(logging.INFO, "rankdistill"):
        extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD)
    assert caplog.messages == [f"extract_rankings: 2 of 3 shards are in {tmp_path / 'out'} already"]
    assert ranked == [range(1024, 2048)]
    assert contents(tmp_path / "out") == before


def test_a_finished_folder_gets_a_shard_that_it_lost(tmp_path, monkeypatch):
    users, items = tables()
    out = tmp_path / "out"
    extract_rankings(users, items, K, out=out, shard_size=SHARD)
    before, shard = contents(out), out / "rankings-00001-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    for call in (
        lambda: extract_rankings(users, items, K, out=out, shard_size=SHARD),
        lambda: Rankings.load(out),
    ):
        with pytest.raises(
            ValueError,
            match="expected a whole safetensors file; got .*00001.*: .*. Delete that file and run the same",
        ):
            call()
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="got none at .*00001.*. Run the same extraction again"):
        Rankings.load(out)
    ranked, real = [], Streaming.rank
    monkeypatch.setattr(Streaming, "rank", lambda self, step: ranked.append(step.users) or real(self, step))
    again = extract_rankings(users, items, K, out=out, shard_size=SHARD)
    assert ranked == [range(1024, 2048)]
    assert contents(out) == before
    assert again.n_users == U


def test_files_that_shrink_are_noticed_at_every_step(tmp_path):
    """Items that are ranked where they are mapped, and the file cut meanwhile: no end by a signal."""
    users, items = tables()
    np.save(tmp_path / "items.npy", items.numpy())

    def cut(steps):
        for n, step in enumerate(steps):
            if n == 1:
                os.truncate(tmp_path / "items.npy", 1000)
            yield step

    out, settings = tmp_path / "out", {"memory_limit": "36MiB", "shard_size": SHARD}
    with pytest.raises(ValueError, match="expected .*items.npy to keep its size; got a shorter file"):
        extract_rankings(users, str(tmp_path / "items.npy"), K, out=out, progress=cut, **settings)


@pytest.mark.parametrize("damage", ["truncated", "no archive", "a .npy"])
def test_damaged_npz_files_are_clear_errors(tmp_path, damage):
    path = tmp_path / "teacher.npz"
    np.savez(path, users=np.ones((40, 4), np.float32), items=np.ones((30, 4), np.float32))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    elif damage == "no archive":
        path.write_bytes(b"nothing of that")
    else:
        with open(path, "wb") as file:
            np.save(file, np.ones((40, 4), np.float32))
    with pytest.raises(
        ValueError, match="expected users in a whole .npz file of plain arrays; got .*teacher.npz: "
    ):
        extract_rankings(f"{path}#users", f"{path}#items", 3, out=tmp_path / "out")
    with pytest.raises(
        ValueError, match="load_factors: expected a .npz file of plain arrays; got .*teacher.npz: "
    ):
        load_factors(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"k": "13"}, "got k='13'"), ({"shard_size": 0}, "got shard_size=0"), ({"n_items": None}, "got n_items=None"),
        ({"metadata": [1]}, r"got metadata=\[1\]"), ({"more": 1}, "got more=1"), ({"n_users": -1}, "got n_users=-1"),
        ({"k": 14}, "the shards of its settings"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_a_clear_error(tmp_path, change, told):
    users, items = tables()
    extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD)
    index = tmp_path / "out" / "rankings.json"
    found = json.loads(index.read_text())
    index.write_text(json.dumps(found | {"settings": found["settings"] | change}))
    with pytest.raises(ValueError, match=f"Rankings.load: expected .*{told}"):
        Rankings.load(tmp_path / "out")
    for damaged in (
        found | {"shards": [1]},
        found | {"settings": [1]},
        found | {"settings_sha256": 7},
        [1],
        1,
    ):
        index.write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match=r"Rankings.load: expected .*rankings.json; got"):
            Rankings.load(tmp_path / "out")


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_extraction_is_refused(tmp_path, exclude, finished):
    users, items = tables()
    out = tmp_path / "out"

    def extract(users=users, items=items, k=K, shard_size=SHARD, **options):
        return extract_rankings(users, items, k, out=out, shard_size=shard_size, **options)

    extract(exclude=exclude)
    if not finished:
        index = json.loads((out / "rankings.json").read_text())
        (out / "rankings.begun.json").write_text(
            json.dumps({k: index[k] for k in ("format", "version", "settings")})
        )
        (out / "rankings.json").unlink()
        (out / "rankings-00002-of-00003.safetensors").unlink()
    before = contents(out)
    other = items.clone()
    other[5, 0] += 1
    fewer = CSR(exclude.indptr, exclude.indices.clone(), N)
    fewer.indices[fewer.indptr[1] - 1] = N - 1
    name = "rankings.json" if finished else "rankings.begun.json"
    for change, key in (
        ({"items": other}, "items"), ({"users": users.roll(1, 0)}, "users"), ({"k": K + 1}, "k"),
        ({"shard_size": 2 * SHARD}, "shard_size"), ({"exclude": None}, "exclude"), ({"exclude": fewer}, "exclude"),
        ({"item_bias": torch.zeros(N)}, "item_bias"), ({"metadata": {"a": "b"}}, "metadata"),
        ({"users": users.double(), "items": items.double()}, "users"),
    ):  # fmt: skip
        with pytest.raises(
            ValueError,
            match=f"extract_rankings: expected {key} as .*{name} has it, .*; got .*. "
            r"Choose another folder, or begin anew with resume=False \(--resume false\)",
        ):
            extract(**{"exclude": exclude, **change})
        assert contents(out) == before
    (out / name).unlink()
    with pytest.raises(
        ValueError, match="expected shards of this extraction; got .*rankings-00000.* of another. Choose"
    ):
        extract(items=other, exclude=exclude)
    expected = Rankings.from_vectors(users, other, K, exclude)
    (out / "mine.txt").write_text("kept")
    assert_same(extract(items=other, exclude=exclude, resume=False), expected)
    assert (out / "mine.txt").read_text() == "kept"


def test_begin_anew_leaves_no_mixture(tmp_path):
    users, items = tables()
    extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD)
    extract_rankings(users, items, K, out=tmp_path / "out", resume=False)
    assert sorted(contents(tmp_path / "out")) == ["rankings-00000-of-00001.safetensors", "rankings.json"]


def test_two_extractions_do_not_share_a_folder(tmp_path):
    users, items = tables()
    (tmp_path / "out").mkdir()
    with (
        alone_in(tmp_path / "out", "test", "extraction"),
        pytest.raises(
            ValueError, match="expected .*out for this extraction alone; got another one at work in it"
        ),
    ):
        extract_rankings(users, items, K, out=tmp_path / "out")
    extract_rankings(users, items, K, out=tmp_path / "out")


def test_a_full_disk_is_a_clear_error_and_loses_nothing_finished(tmp_path, monkeypatch):
    users, items = tables()
    extract_rankings(users, items, K, out=tmp_path / "whole", shard_size=SHARD)
    real, calls = os.pwrite, []

    def full(handle, data, at):
        calls.append(len(data))
        if len(calls) < 7:
            return real(handle, data, at)
        if len(data) > 1:
            return real(handle, data[: len(data) // 2], at)  # a disk fills up within a write
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rankdistill.rankings.safetensors_files.os.pwrite", full)
    with pytest.raises(
        OSError, match="expected to write into .*out; got No space left on device. Finished shards stay"
    ):
        extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD)
    monkeypatch.undo()
    assert sorted(contents(tmp_path / "out")) == [
        "rankings-00000-of-00003.safetensors",
        "rankings.begun.json",
    ]
    extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_too_little_room_is_known_before_the_work(tmp_path, monkeypatch):
    users, items = tables()
    real = os.statvfs(tmp_path)
    small = os.statvfs_result([real[0], 4096, real[2], real[3], 10, *real[5:]])
    monkeypatch.setattr("rankdistill.rankings.shards.os.statvfs", lambda _: small)
    monkeypatch.setattr(Streaming, "rank", lambda *_: pytest.fail("worked first"))
    with pytest.raises(
        OSError, match="extract_rankings: expected 270,000 bytes of room in .*out; got 40,960"
    ):
        extract_rankings(users, items, K, out=tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    users, items = tables()
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        with pytest.raises(
            OSError, match=f"expected to write into {out}; got .*. Choose a folder that can be written"
        ):
            extract_rankings(users, items, K, out=out)


def test_a_folder_loads_as_mapped_tensors(tmp_path):
    """A few rows of many are read, and nothing is copied but the last shard's lengths and scores."""
    users, items = randn(100_000, 2, seed=1), randn(300, 2, seed=2)
    expected = extract_rankings(users, items, 100, out=tmp_path / "out", shard_size=16 * SHARD)
    code = f"""
import torch
from rankdistill import Rankings
def of(name):
    return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) * 1024
torch.zeros(9).sum()
Rankings.load({str(tmp_path / "out")!r})
anonymous, resident = of("RssAnon"), of("VmRSS")
rankings = Rankings.load({str(tmp_path / "out")!r})
print(rankings.indices[54321, :3].tolist(), of("RssAnon") - anonymous < 1e6, of("VmRSS") - resident < 1e7)
"""
    assert output(code) == f"{expected.indices[54321, :3].tolist()} True True"
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) > 8e7
    assert_same(Rankings.load(tmp_path / "out" / "rankings.json"), expected)
    expected.save(tmp_path / "file")
    assert_same(Rankings.load(tmp_path / "file"), expected)
    shard = Rankings.load(tmp_path / "out" / "rankings-00003-of-00007.safetensors")
    assert torch.equal(shard.indices, expected.indices[3 * 16 * SHARD : 4 * 16 * SHARD])
    theirs = load_file(tmp_path / "out" / "rankings-00003-of-00007.safetensors")
    assert torch.equal(theirs["scores"], shard.scores), "any reader of safetensors reads a shard"


def test_loading_a_folder_that_is_not_whole(tmp_path):
    users, items = tables()
    out = tmp_path / "out"
    extract_rankings(users, items, K, out=out, shard_size=SHARD)
    index = json.loads((out / "rankings.json").read_text())
    shard = out / "rankings-00001-of-00003.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="Rankings.load: expected a whole safetensors file; got .*00001"):
        Rankings.load(out)
    shard.unlink()
    with pytest.raises(
        FileNotFoundError, match="expected all shards of .*rankings.json; got none at .*00001"
    ):
        Rankings.load(out)
    shutil.copy(out / "rankings-00000-of-00003.safetensors", shard)
    with pytest.raises(
        ValueError, match="expected the shards that .*rankings.json names; got another at .*00001"
    ):
        Rankings.load(out)
    shard.unlink()
    (out / "rankings.json").rename(out / "rankings.begun.json")
    with pytest.raises(
        ValueError, match="expected a finished extraction in .*out; got 2 of its 3 shards. Run the same"
    ):
        Rankings.load(out)
    for text, message in (
        ("{", "expected what an extraction writes in .*rankings.json; got other contents"),
        (
            json.dumps(index | {"version": 9}),
            "expected rankdistill.rankings of version 1 in .*; got rankdistill.rankings, 9",
        ),
    ):
        (out / "rankings.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            Rankings.load(out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match="expected rankings in .*empty; got a folder without rankings.json"
    ):
        Rankings.load(tmp_path / "empty")


def test_no_users_no_items_no_lists(tmp_path):
    for i, (users, items, k) in enumerate([(0, 4, 3), (4, 0, 3), (4, 4, 0), (0, 0, 0)]):
        rankings = extract_rankings(torch.zeros(users, 2), torch.zeros(items, 2), k, out=tmp_path / str(i))
        assert list(rankings.indices.shape) == [users, k]
        assert rankings.lengths.tolist() == [min(k, items)] * users
        assert_same(Rankings.load(tmp_path / str(i)), rankings)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"items": torch.zeros(N, D + 1)}, ValueError, f"expected items of width {D}, as users; got float32"),
        (
            {"items": torch.zeros(N, D).double()},
            TypeError,
            "expected items with the dtype of users .torch.float32.; got",
        ),
        ({"k": -1}, ValueError, "expected k of 0 or more; got int -1"),
        ({"k": 2.0}, TypeError, "expected k as an int; got float 2.0"),
        ({"exclude": CSR.empty(U, 3)}, ValueError, f"expected exclude of {U} users × {N} items; got {U} × 3"),
        ({"exclude": 3}, TypeError, "expected exclude as a CSR; got int 3"),
        (
            {"item_bias": torch.zeros(3)},
            ValueError,
            f"expected item_bias of {N} entries, as items; got float32 .3.",
        ),
        ({"item_bias": torch.zeros(N).half()}, TypeError, "expected item_bias with the dtype of items"),
        (
            {"shard_size": 1000},
            ValueError,
            "expected shard_size as a multiple of 1024, .*; got 1000. 1024 is one",
        ),
        ({"shard_size": 0}, ValueError, "expected shard_size as a multiple of 1024, .*; got 0$"),
        ({"divide": "rows"}, ValueError, "expected divide as 'users' or 'items'; got 'rows'"),
        (
            {"memory_limit": "much"},
            ValueError,
            "expected memory_limit in bytes, or text such as 1GiB or 512MiB; got 'much'",
        ),
        (
            {"memory_limit": "1MiB"},
            ValueError,
            "expected a memory_limit of .* bytes or more for lists of 13 items; got 1,04",
        ),
        ({"metadata": {"a": 1}}, TypeError, "expected metadata of strings by name; got {'a': 1}"),
    ],
)
def test_bad_calls_write_nothing(tmp_path, change, error, message):
    users, items = tables()
    arguments = {"users": users, "items": items, "k": K, "out": tmp_path / "out"} | change
    with pytest.raises(error, match=f"^extract_rankings: {message}"):
        extract_rankings(**arguments)
    assert not (tmp_path / "out").exists()


def test_progress_tells_all_steps_and_the_time_left(tmp_path, caplog):
    users, items = tables()
    seen = []

    def bar(steps):
        seen.append(len(steps))
        for step in steps:
            seen.append(step)
            yield step

    extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD, progress=bar)
    assert seen[0] == len(seen) - 1 == 3
    with caplog.at_level(logging.INFO, "rankdistill"):
        assert list(logged("rankings", every=0)(range(4))) == [0, 1, 2, 3]
        assert list(logged("rankings", every=9)(range(4))) == [0, 1, 2, 3]
    assert caplog.messages == [f"rankings: {done} %, 0 s left" for done in (25, 50, 75)]
    assert [duration(s) for s in (0.4, 59, 61, 3600, 7265)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 0 min",
        "2 h 1 min",
    ]


def test_ids_are_kept_beside_the_shards(tmp_path):
    users, items = tables(torch.float32)
    ids = {"user_ids": [f"u{i}" for i in range(U)], "item_ids": range(7, 7 + N)}
    plain = extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD)
    assert plain.user_ids is None
    named = extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD, **ids)
    assert named.user_ids.tolist() == ids["user_ids"]
    assert named.item_ids.tolist() == list(ids["item_ids"])
    named.save(tmp_path / "lists.safetensors")
    assert Rankings.load(tmp_path / "lists.safetensors").user_ids.tolist() == ids["user_ids"]
    extract_rankings(users, items, K, out=tmp_path / "out", shard_size=SHARD, resume=False)
    assert Rankings.load(tmp_path / "out").user_ids is None, "those of an earlier extraction are gone"
    with pytest.raises(ValueError, match=f"extract_rankings: expected {N} item_ids; got 0"):
        extract_rankings(users, items, K, out=tmp_path / "other", user_ids=ids["user_ids"])
