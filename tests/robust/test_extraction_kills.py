"""An extraction that is killed, at any event or moment, goes on to the same bytes."""

from __future__ import annotations

import random

import pytest
import torch
from safetensors.torch import save_file

from rankdistill import extract_rankings
from rankdistill.data import CSR
from tests.case import generator
from tests.process import output
from tests.robust.extraction_tables import SHARD, K, N, U, contents, in_files, least_limit, tables

ROOM = 1_000_000  # bytes above the least limit: some dozens of events, not hundreds

# A child writes shards until it is killed at the n-th event of the kinds that matter, perhaps half way through it.
KILLED = """
import os, random, signal, sys
import torch
torch.set_num_threads(1)
from rankdistill import extract_rankings
from rankdistill.data import CSR
from safetensors.torch import load_file

users, items, out, limit = {users!r}, {items!r}, {out!r}, {limit}
exclude = load_file({exclude!r})
exclude = CSR(exclude["indptr"], exclude["indices"], {n_items})
real = {{name: getattr(os, name) for name in ("pwrite", "replace", "fsync", "open", "truncate", "chmod", "unlink", "write")}}

def kill_at(event):
    left = [event]
    def counted(name):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if name == "pwrite" and event % 2:
                    real["pwrite"](args[0], args[1][: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*args, **kwargs)
        return call
    for name in real:
        setattr(os, name, counted(name))

def in_child(prepare):
    child = os.fork()
    if child == 0:
        try:
            prepare()
            extract_rankings(users, items, {k}, exclude, out=out, memory_limit=limit, shard_size={shard_size})
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
    return child

def ended(child):
    status = os.waitpid(child, 0)[1]
    return "killed" if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
"""


def killed(tmp_path, code: str) -> str:
    users, items = tables()
    files = in_files(tmp_path, users, items)
    exclude = CSR.from_any(torch.rand(U, N, generator=generator(1)) < 0.01)
    save_file({"indptr": exclude.indptr, "indices": exclude.indices}, tmp_path / "exclude")
    options = {"exclude": exclude, "shard_size": SHARD}
    limit = least_limit(files, out=tmp_path / "none", **options) + ROOM
    extract_rankings(*files, K, out=tmp_path / "whole", **options)
    filled = KILLED.format(
        users=str(files[0]), items=str(files[1]), out=str(tmp_path / "out"), limit=limit, k=K, n_items=N, shard_size=SHARD,
        exclude=str(tmp_path / "exclude"),
    )  # fmt: skip
    return output(filled + code)


@pytest.mark.slow
def test_killed_at_any_event_it_goes_on_to_the_same_bytes(tmp_path):
    """Each run dies one event later than the one before it, in a fresh folder each."""
    code = """
import shutil
events = 0
while True:
    events += 1
    shutil.rmtree(out, ignore_errors=True)
    state = ended(in_child(lambda: kill_at(events)))
    if state == 0:
        break
    assert state == "killed", state
    seen = sorted(name for name in os.listdir(out) if not name.startswith(".")) if os.path.isdir(out) else []
    for name in seen:
        if name.endswith(".safetensors"):
            assert open(os.path.join(out, name), "rb").read() == open(os.path.join(WHOLE, name), "rb").read(), name
    assert "rankings.json" not in seen or sum(name.endswith(".safetensors") for name in seen) == 3
    assert ended(in_child(lambda: None)) == 0
    assert sorted(os.listdir(out)) == sorted(os.listdir(WHOLE))
    for name in os.listdir(WHOLE):
        assert open(os.path.join(out, name), "rb").read() == open(os.path.join(WHOLE, name), "rb").read(), name
print(events - 1)
"""
    events = int(killed(tmp_path, f"WHOLE = {str(tmp_path / 'whole')!r}\n" + code).splitlines()[-1])
    assert events >= 30, "an extraction of three shards writes, renames, …"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_killed_again_and_again_it_goes_on_to_the_same_bytes(tmp_path):
    """Each run dies one event later than the one before it, all in one folder."""
    code = """
deaths = 0
while ended(in_child(lambda: kill_at(12 + deaths))) == "killed":
    deaths += 1
print(deaths)
"""
    assert int(killed(tmp_path, code).splitlines()[-1]) >= 1
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(tmp_path):
    seed = random.randrange(1 << 30)
    code = f"""
import time
rng = random.Random({seed})
started = time.perf_counter()
assert ended(in_child(lambda: None)) == 0
whole = time.perf_counter() - started
import shutil
shutil.rmtree(out)
deaths = 0
for attempt in range(40):
    child = in_child(lambda: None)
    time.sleep(rng.random() * whole * 0.8)
    os.kill(child, signal.SIGKILL)
    if ended(child) == "killed":
        deaths += 1
    elif deaths < 6:
        shutil.rmtree(out)  # it had ended: from the beginning again
    else:
        break
assert ended(in_child(lambda: None)) == 0
print(deaths)
"""
    assert int(killed(tmp_path, code).splitlines()[-1]) >= 3, f"seed {seed}"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole"), f"seed {seed}"
