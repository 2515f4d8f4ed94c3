"""Tables of vectors in files: the same rows whatever holds them, read as they are used; files that are not right."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rankdistill.rankings.mapping import PAGE, Stretch, mapped
from rankdistill.rankings.tables import Table
from tests.case import DTYPES, randn
from tests.process import output

ROWS, WIDTH = 257, 7


def opened(path, **options) -> Table:
    return Table.of("extract_rankings", "items", path, **options)


def misaligned(path, values: torch.Tensor) -> None:
    """A safetensors file whose data begins at an odd byte, as the format allows."""
    data = values.contiguous().view(torch.uint8).numpy().tobytes()
    name = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}[
        values.dtype
    ]
    text = json.dumps(
        {"t": {"dtype": name, "shape": list(values.shape), "data_offsets": [0, len(data)]}}
    ).encode()
    text = text.ljust(len(text) | 1)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def stored(folder, values: torch.Tensor):
    """(file, whether its rows are views) in every way that a table of this dtype can be stored."""
    save_file({"t": values}, folder / "t.safetensors")
    yield folder / "t.safetensors", True
    save_file({"t": values, "vector": values[0].clone(), "other": values + 1}, folder / "several.safetensors")
    yield f"{folder}/several.safetensors#t", True
    misaligned(folder / "odd.safetensors", values)
    yield folder / "odd.safetensors", False
    if values.dtype != torch.bfloat16:
        np.save(folder / "t.npy", values.numpy())
        yield folder / "t.npy", True
        np.save(folder / "columns.npy", np.asfortranarray(values.numpy()))
        yield folder / "columns.npy", False
        np.savez(folder / "t.npz", values.numpy())
        yield folder / "t.npz", True
        np.savez_compressed(folder / "several.npz", a=values.numpy()[0], b=values.numpy())
        yield folder / "several.npz", True


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_the_same_whatever_holds_them(tmp_path, dtype):
    values = randn(ROWS, WIDTH, seed=1).to(dtype)
    wanted = Table.of("op", "items", values)
    for file, is_in_place in stored(tmp_path, values):
        table = opened(file)
        assert (table.shape, table.dtype, len(table)) == ((ROWS, WIDTH), dtype, ROWS)
        assert table.is_in_place == is_in_place
        for start, stop in ((0, ROWS), (3, 4), (100, 200), (ROWS, ROWS)):
            rows = table.rows(start, stop)
            assert torch.equal(rows, values[start:stop])
            assert rows.dtype == dtype
            assert rows.is_contiguous()
            assert rows.data_ptr() % dtype.itemsize == 0
        target = torch.empty(50, WIDTH, dtype=dtype)
        table.copy_rows(range(9, 59), target)
        assert torch.equal(target, values[9:59])
        table.drop(0, ROWS)
        assert torch.equal(table.rows(0, ROWS), values), "dropped pages are read again"
        assert table.fingerprint() == wanted.fingerprint()


def test_a_fingerprint_tells_tables_apart():
    values = randn(ROWS, WIDTH, seed=1)
    other = values.clone()
    other[-1, -1] += 1e-6
    tables = (
        values,
        other,
        values.double(),
        values.half(),
        values[:-1],
        values.reshape(WIDTH, ROWS),
        values[:0],
    )
    assert len({Table.of("op", "items", table).fingerprint() for table in tables}) == len(tables)


def test_a_tensor_of_any_strides_is_a_table():
    values = randn(WIDTH, ROWS, seed=1).t()
    table = Table.of("op", "items", values.requires_grad_())
    assert table.is_in_place
    assert torch.equal(table.rows(5, 9), values[5:9])
    assert not table.rows(5, 9).requires_grad


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_opening_a_large_file_reads_none_of_it(tmp_path, suffix):
    """40 GB: more than most machines would grant at once; the file has holes and takes no room."""
    path, width = tmp_path / f"large.{suffix}", 1000
    rows = 10_000_000
    if suffix == "npy":
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            begin = file.tell()
    else:
        entry = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, rows * width * 4]}
        text = json.dumps({"t": entry}).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        begin = 8 + len(text)
    with open(path, "r+b") as file:
        file.truncate(begin + rows * width * 4)
        file.seek(begin + 7_654_321 * width * 4)
        file.write(struct.pack("<f", 2.5))
    code = f"""
import torch
from rankdistill.rankings.tables import Table
def anonymous():
    line = next(l for l in open("/proc/self/status") if l.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
Table.of("op", "items", torch.zeros(2, 2)).fingerprint()
before = anonymous()
table = Table.of("op", "items", {str(path)!r})
print(table.shape, table.rows(7654321, 7654322)[0, :2].tolist(), anonymous() - before < 5e6)
"""
    assert output(code) == f"({rows}, {width}) [2.5, 0.0] True"


def test_stretches_of_files_are_joined_wherever_they_lie(tmp_path):
    rng = np.random.default_rng(0)
    parts, stretches = [], []
    for i, (begin, size) in enumerate(
        [(3 * PAGE, 2 * PAGE), (PAGE, PAGE), (0, PAGE + 17), (17, 3 * PAGE), (PAGE, 5), (7, 0), (9, PAGE)]
    ):
        data = rng.integers(0, 256, begin + size + 100, dtype=np.uint8)
        data.tofile(tmp_path / f"{i}")
        parts.append(data[begin : begin + size])
        stretches.append(Stretch(str(tmp_path / f"{i}"), begin, size))
    for count in range(len(parts) + 1):
        joined = mapped(stretches[:count])
        assert joined.tolist() == np.concatenate([np.empty(0, np.uint8), *parts[:count]]).tolist()
    before = [(tmp_path / f"{i}").read_bytes() for i in range(len(parts))]
    joined.fill_(7)
    assert [(tmp_path / f"{i}").read_bytes() for i in range(len(parts))] == before, "files are not written to"


def test_a_file_that_shrinks_is_an_error_not_a_crash(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((10_000, 16), np.float32))
    table = opened(tmp_path / "t.npy")
    with open(tmp_path / "t.npy", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(
        ValueError, match=r"expected .*t.npy to keep its size; got a shorter file while it was read"
    ):
        table.rows(5000, 5001)


def broken_files(folder):
    whole = np.zeros((4, 3), np.float32)
    np.save(folder / "int.npy", whole.astype(np.int32))
    yield (
        "int.npy",
        ValueError,
        "expected items as little-endian float16, float32 or float64 .* got <i4 in .*int.npy",
    )
    np.save(folder / "big.npy", whole.astype(">f4"))
    yield "big.npy", ValueError, "expected items as little-endian .* got >f4"
    np.save(folder / "cube.npy", whole[None])
    yield "cube.npy", ValueError, r"expected items with 2 dimensions; got \[1, 4, 3\] in .*cube.npy"
    (folder / "text.npy").write_text("not an array")
    yield "text.npy", ValueError, "expected items as a .npy file; got .*text.npy"
    np.save(folder / "short.npy", whole)
    (folder / "short.npy").write_bytes((folder / "short.npy").read_bytes()[:-1])
    yield "short.npy", ValueError, "expected 48 bytes of items in .*short.npy; got 47, a truncated file"
    np.savez(folder / "two.npz", a=whole, b=whole)
    yield (
        "two.npz",
        ValueError,
        "expected one tensor of 2 dimensions for items in .*two.npz; got a, b. Name one as",
    )
    np.savez(folder / "int.npz", a=whole.astype(np.int64))
    yield "int.npz", ValueError, "expected items as little-endian .* got <i8 'a' in .*int.npz"
    save_file({"a": torch.zeros(3)}, folder / "vector.safetensors")
    yield "vector.safetensors", ValueError, "expected one tensor of 2 dimensions for items .* got a"
    yield "vector.safetensors#b", ValueError, "expected a tensor named 'b' for items"
    yield "vector.safetensors#a", ValueError, "expected items with 2 dimensions; got 1 of 'a'"
    save_file({"a": torch.zeros((3, 2), dtype=torch.int32)}, folder / "int.safetensors")
    yield "int.safetensors", ValueError, "expected items of a float dtype; got torch.int32 'a'"
    data = (folder / "int.safetensors").read_bytes()
    for name, content in {"empty": b"", "cut": data[:-3], "longer": data + b"?", "header": data[:20]}.items():
        (folder / f"{name}.safetensors").write_bytes(content)
        yield (
            f"{name}.safetensors",
            ValueError,
            f"expected a whole safetensors file; got .*{name}.safetensors: ",
        )
    for text in (
        b"[]",
        b"{}}",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 8]}}',
    ):
        (folder / "bad.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
        yield "bad.safetensors", ValueError, "expected a whole safetensors file; got .*bad.safetensors: "
    yield "absent.npy", FileNotFoundError, "expected items in a file; got .*absent.npy, which is none"
    yield "table.txt", ValueError, "expected items as .npy, .npz, .pt or .safetensors; got .*table.txt"


def test_files_that_are_not_right_are_clear_errors(tmp_path):
    for name, error, message in broken_files(tmp_path):
        with pytest.raises(error, match=f"^extract_rankings: {message}"):
            opened(f"{tmp_path}/{name}")
    with pytest.raises(TypeError, match="^extract_rankings: expected items as a tensor or a file; got int 3"):
        opened(3)
    with pytest.raises(
        TypeError, match="^extract_rankings: expected items as a float32, .* tensor; got int64"
    ):
        opened(torch.zeros((2, 2), dtype=torch.int64))


def test_a_column_is_a_table_of_width_one(tmp_path):
    values = randn(ROWS, seed=1)
    np.save(tmp_path / "bias.npy", values.numpy())
    save_file({"bias": values, "table": randn(3, 2)}, tmp_path / "bias.safetensors")
    for source in (values, tmp_path / "bias.npy", tmp_path / "bias.safetensors"):
        assert torch.equal(opened(source, dim=1).rows(0, ROWS)[:, 0], values)


def test_tables_without_rows_or_width(tmp_path):
    for i, shape in enumerate([(0, 4), (4, 0), (0, 0)]):
        np.save(tmp_path / f"{i}.npy", np.zeros(shape, np.float32))
        save_file({"t": torch.zeros(shape)}, tmp_path / f"{i}.safetensors")
        for table in (opened(tmp_path / f"{i}.npy"), opened(tmp_path / f"{i}.safetensors")):
            assert table.shape == shape
            assert list(table.rows(0, shape[0]).shape) == list(shape)
            table.fingerprint()
