"""Checkpoints and factors are written from the tensors as they are: any kind, no copy of them all, whole or not at all."""

from __future__ import annotations

import errno
import json
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rankdistill.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from rankdistill.models import Factors, export_factors, load_factors
from rankdistill.rankings import safetensors_files
from tests.case import randn
from tests.process import output

BASE = randn(7, 6, seed=1)
KINDS = {
    "a table": BASE,
    "the same memory": BASE,
    "a view": BASE[2:4],
    "columns": BASE.t(),
    "every other": BASE[::2, 1::2],
    "one row for all": BASE[:1].expand(5, 6),
    "three dimensions": randn(4, 3, 2, seed=2).transpose(0, 2),
    "a parameter": torch.nn.Parameter(BASE),
    "double": BASE.double(),
    "half": BASE.half(),
    "bfloat16": BASE.bfloat16(),
    "bfloat16 columns": BASE.bfloat16().t(),
    "bool": BASE > 0,
    "a bool": torch.tensor(True),
    "int64": torch.arange(5),
    "int32": torch.arange(5, dtype=torch.int32),
    "uint8": torch.arange(3, dtype=torch.uint8),
    "a number": torch.tensor(3.5),
    "a count": torch.tensor(7),
    "no rows": torch.empty(0, 4),
    "no columns": torch.empty(4, 0),
    "nothing": torch.empty(0),
    "complex": torch.complex(BASE, -BASE),
    "conjugate": torch.complex(BASE, BASE).conj(),
}


@pytest.mark.parametrize("piece", [16 << 20, 40])
def test_any_tensor_comes_back_to_any_reader(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(safetensors_files, "PIECE", piece)
    facts = {"epoch": 3, "names": ["é", None]}
    save_checkpoint(tmp_path / "state", {"": KINDS, "group": {"x": BASE}}, facts)
    groups, found = load_checkpoint(tmp_path / "state")
    assert found == facts
    theirs = load_file(tmp_path / "state")
    entries, metadata = safetensors_files.read_header("test", tmp_path / "state")
    assert json.loads(metadata["rankdistill.checkpoint"]) == facts
    assert set(groups) == {"", "group"}
    assert set(groups[""]) == set(KINDS)
    for name, value in KINDS.items():
        for read in (groups[""][name], theirs[f"/{name}"], entries[f"/{name}"].tensor()):
            assert (read.dtype, read.shape) == (value.dtype, value.shape), name
            assert torch.equal(read, value), name
    with safe_open(tmp_path / "state", framework="np") as file:
        assert file.get_slice("/columns")[1:3].tolist() == BASE.t()[1:3].tolist(), "numbers lie aligned"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_what_the_format_has_not_is_an_error(tmp_path):
    for value in (torch.zeros(2, dtype=torch.complex128), torch.eye(2).to_sparse()):
        with pytest.raises(TypeError, match="save_checkpoint: expected dense tensors .*; got .* for '/x'"):
            save_checkpoint(tmp_path / "state", {"": {"x": value}}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("facts", ["", "{", "[1]", "null", "nothing", "[" * 100_000])
def test_facts_that_are_none_are_an_error_that_names_the_file(tmp_path, facts):
    path = tmp_path / "model.safetensors"
    save_file({"/user_table": BASE, "/item_table": BASE + 1}, path, {FORMAT: facts})
    for op, read in (("load_checkpoint", load_checkpoint), ("load_factors", load_factors)):
        with pytest.raises(ValueError, match=f"{op}: expected (JSON|named values) in {path}; got "):
            read(path)


WRITTEN = """
import torch
from rankdistill import LazyAdam
from rankdistill.checkpoint import optimizer_tensors, save_checkpoint
from rankdistill.models import Factors, export_factors, load_factors

def anonymous(name="RssAnon"):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024

def most(write):  # of a thread that looks on
    import threading
    ended, found, before = threading.Event(), [0], anonymous()
    def watch():
        while not ended.wait(0.002):
            found[0] = max(found[0], anonymous() - before)
    watcher = threading.Thread(target=watch)
    watcher.start()
    write()
    ended.set()
    watcher.join()
    return found[0]
"""


def test_nothing_is_copied_whole(tmp_path):
    code = f"""
folder = {str(tmp_path)!r}
table = torch.nn.Parameter(torch.ones(1_000_000, 32))
other = torch.ones(32, 500_000).t()
save_checkpoint(folder + "/small", {{"": {{"x": torch.ones(9)}}}}, {{}})
optimizer = LazyAdam([table])
table.grad = torch.sparse_coo_tensor(torch.tensor([[3]]), torch.ones(1, 32), table.shape)
optimizer.step()
print(most(lambda: save_checkpoint(
    folder + "/state", {{"": {{"table": table, "other": other}}, "adam": optimizer_tensors(optimizer)}}, {{}}
)))
export_factors(Factors(table.detach(), other), folder + "/f.safetensors")
mapped = load_factors(folder + "/f.safetensors")
print(most(lambda: export_factors(mapped, folder + "/again.safetensors")))
"""
    checkpoint, factors = map(int, output(WRITTEN + code).splitlines())
    assert (tmp_path / "state").stat().st_size > 3 * 128_000_000
    assert checkpoint < 48e6
    assert factors < 48e6
    assert (tmp_path / "f.safetensors").stat().st_size == (tmp_path / "again.safetensors").stat().st_size


@pytest.mark.parametrize("kind", ["state", "factors.safetensors", "factors.npz"])
def test_no_room_is_an_error_and_leaves_the_old_file(tmp_path, kind):
    path = tmp_path / kind
    op = "save_checkpoint" if kind == "state" else "export_factors"

    def write(rows):
        if kind == "state":
            save_checkpoint(path, {"": {"x": torch.ones(rows, 4)}}, {})
        else:
            export_factors(Factors(torch.ones(rows, 4), torch.ones(rows, 4)), path)

    write(10)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(
            OSError, match=f"{op}: expected room for [0-9,]+ bytes in .*{kind}; got File too large"
        ) as told:
            write(200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [kind]
    if kind != "state":
        assert load_factors(path).users.tolist() == [[1.0] * 4] * 10
