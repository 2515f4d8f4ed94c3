"""Factors as files that need no rankdistill to be read: named arrays in .npz or .safetensors, and .npy files.

| name | what |
| --- | --- |
| `users`, `items` | [U, D], [N, D] float: a score is their inner product |
| `item_bias`, `user_bias` | [N], [U] of the same dtype, added to it; absent where there are none |
| `user_ids`, `item_ids` | [U], [N] the external ids of the rows, int64 or (.npz) strings; absent where they are unknown |
| `user_ids_lines`, `item_ids_lines` | .safetensors, which has no strings: uint8, string ids as ASCII text, a JSON string a line |
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rankdistill.checkpoint import FORMAT
from rankdistill.data.csr import CSR
from rankdistill.files import json_in, named_lack_of_room, replacing
from rankdistill.models.factors import Factors
from rankdistill.models.kinds import MODELS, make_model
from rankdistill.rankings.safetensors_files import Entry, read_header, write_tensors
from rankdistill.rankings.stored_ids import SIDES, id_tensors, ids_as_tensor, ids_of
from rankdistill.rankings.tables import PICKLED, UNREADABLE, Table, file_and_name, pickled_tensors

TABLES = ("users", "items", "item_bias", "user_bias")
FACTORS = "rankdistill.factors"  # the key of the metadata of a .safetensors file
OF_TABLES = (
    "mf",
    "MatrixFactorization",
)  # models whose tables are their vectors, in files of models and of checkpoints
OP = "load_factors"


def export_factors(factors: Factors, path: str | os.PathLike) -> None:
    """Writes the tables, biases and ids as named arrays; the file appears when it is whole, or never.

    Args:
        factors: what to write; `as_teacher(model)` makes them of a model.
        path: a .npz or .safetensors file.

    Raises:
        ValueError: another suffix; bfloat16 tables for .npz, which has no such dtype.
        OSError: no room; what was there before is still there.

    Cost:
        Some 16 MiB of memory, or a row, beside the tables.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_factors(Factors(torch.ones(2, 3), torch.ones(4, 3)), f"{folder}/student.npz")
        ...     load_factors(f"{folder}/student.npz")
        Factors(2 users, 4 items, float32 of width 3)
    """
    op, path = "export_factors", os.fspath(path)
    if not path.endswith((".npz", ".safetensors")):
        raise ValueError(f"{op}: expected a .npz or .safetensors file; got {path}")
    factors = factors.detached()
    tables = {name: t for name in TABLES if (t := getattr(factors, name)) is not None}
    ids = {name: i for name in ("user_ids", "item_ids") if (i := getattr(factors, name)) is not None}
    if path.endswith(".safetensors"):
        tensors = dict(tables)
        for name, values in ids.items():
            tensors |= ids_as_tensor(name, values)
        write_tensors(op, path, tensors, {FACTORS: json.dumps({"version": 1, "source": factors.source})})
        return
    if factors.users.dtype == torch.bfloat16:
        raise ValueError(f"{op}: expected a .safetensors file for bfloat16 tables; got {path}")
    size = sum(values.nbytes for values in (*tables.values(), *ids.values()))
    with named_lack_of_room(op, path, size), replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{name: table.numpy() for name, table in tables.items()}, **ids)


def load_factors(path: str | os.PathLike) -> Factors:
    """Reads factors, whoever wrote them; tables of .npy, .pt and .safetensors files are memory-mapped.

    Args:
        path: a .npz or .safetensors file of arrays named as the tables and ids of `Factors`, or a .pt or .pth file of such a
            dict of tensors; a run's folder (its model, or else its checkpoint) or one of these files; or several files by
            commas, "users.npy,items.npy[,item_bias.npy]", each "file#name" where it holds several arrays.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of something else; arrays that do not fit each other.

    Example:
        >>> import numpy, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> numpy.savez(f"{folder}/teacher.npz", users=numpy.ones((2, 3)), items=numpy.ones((4, 3)))
        >>> load_factors(f"{folder}/teacher.npz")
        Factors(2 users, 4 items, float64 of width 3)
    """
    text = os.fspath(path)
    if "," in text and not os.path.exists(text):
        return _of_parts(text)
    if os.path.isdir(text):
        text = _in_folder(text)
    if not os.path.isfile(text):
        raise FileNotFoundError(
            f"{OP}: expected a model's folder or file, or a file of factors; got {text}, which does not exist"
        )
    suffix = Path(text).suffix
    readers = {".safetensors": _of_safetensors, ".npz": _of_npz} | dict.fromkeys(PICKLED, _of_pickled)
    if suffix not in readers:
        raise ValueError(
            f"{OP}: expected a .safetensors, .npz or .pt file, or users.npy,items.npy; got {text}"
        )
    return readers[suffix](text)


def is_model_file(path: str | os.PathLike) -> bool:
    """Whether a file is a model that `save_model` wrote."""
    if Path(path).suffix != ".safetensors" or not os.path.isfile(path):
        return False
    return "model" in json_in(OP, path, read_header(OP, path)[1].get(FORMAT, "{}"))


def _in_folder(folder: str) -> str:
    for name in ("model.safetensors", "checkpoint.safetensors"):
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise FileNotFoundError(
        f"{OP}: expected a folder with model.safetensors or checkpoint.safetensors; got {folder}, which has neither"
    )


def _of_parts(text: str) -> Factors:
    parts = _split(text)
    if not 2 <= len(parts) <= 3:
        raise ValueError(f"{OP}: expected users,items or users,items,item_bias as files; got {text}")
    rows = [
        Table.of(OP, name, part, dim=1 + (name != "item_bias")).rows(0, None)
        for name, part in zip(TABLES, parts)
    ]
    return Factors(*rows[:2], *(bias[:, 0] for bias in rows[2:]), source=text)


def _split(text: str) -> list[str]:
    """Two or three files by commas, which may be in the names of files, folders and tensors too: as many as there are."""
    words = text.split(",")
    for cuts in (cuts for n in (2, 1) for cuts in itertools.combinations(range(1, len(words)), n)):
        parts = [",".join(words[begin:end]) for begin, end in zip((0, *cuts), (*cuts, len(words)))]
        if all(os.path.isfile(file_and_name(part)[0]) for part in parts):
            return parts
    return words


def _of_npz(path: str) -> Factors:
    names = (*TABLES, "user_ids", "item_ids")
    try:
        with np.load(path, allow_pickle=False) as file:
            _expect_tables(path, file.files)
            found = {name: file[name] for name in names if name in file.files}
    except UNREADABLE as error:
        text = str(error)
        if text.startswith(OP):
            raise
        hint = (
            ". Ids of an object array: store them as integers, or as ids.astype(str)"
            if "pickle" in text
            else ""
        )
        raise ValueError(f"{OP}: expected a .npz file of plain arrays; got {path}: {text}{hint}") from error
    for name in TABLES:
        if name in found:
            if found[name].dtype.kind != "f" or found[name].dtype.itemsize > 8:
                raise ValueError(
                    f"{OP}: expected {name} as float16, float32 or float64; got {found[name].dtype} in {path}"
                )
            found[name] = torch.from_numpy(
                found[name].astype(found[name].dtype.newbyteorder("="), copy=False)
            )
    return Factors(**found, source=path)


def _of_pickled(path: str) -> Factors:
    tensors = pickled_tensors(OP, path)
    _expect_tables(path, tensors)
    ids = {name: tensors[name].numpy() for name in SIDES if name in tensors}
    return Factors(**{name: tensors[name] for name in TABLES if name in tensors}, **ids, source=path)


def _of_safetensors(path: str) -> Factors:
    entries, metadata = read_header(OP, path)
    if FORMAT in metadata:
        tables, entries = _of_a_model(path, entries, json_in(OP, path, metadata[FORMAT]))
    elif "rankdistill.rankings" in metadata:
        raise ValueError(
            f"{OP}: expected factors, or a model; got {path}, a file of rankings: it is given as rankings, not as a teacher"
        )
    else:
        _expect_tables(path, entries)
        tables = {name: entries[name].tensor() for name in TABLES if name in entries}
    stored = id_tensors(OP, path, entries)
    ids = {name: found for name in SIDES if (found := ids_of(OP, path, name, stored)) is not None}
    return Factors(**tables, **ids, source=path)


def _of_a_model(
    path: str, entries: dict[str, Entry], facts: dict
) -> tuple[dict[str, Tensor], dict[str, Entry]]:
    """A model's vectors and the entries of its ids; of a checkpoint the weights that training would end with."""
    best = facts.get("config", {}).get("keep_best") and any(name.startswith("best/") for name in entries)
    group = "best/" if best else "model/"
    weights = {n.removeprefix(group): e.tensor() for n, e in entries.items() if n.startswith(group)}
    ids = {name.removeprefix("ids/"): entry for name, entry in entries.items() if name.startswith("ids/")}
    kind = facts.get("model", facts.get("trained", OF_TABLES[0]))
    if kind in OF_TABLES and set(weights) == {"user_table", "item_table"}:
        return {"users": weights["user_table"], "items": weights["item_table"]}, ids
    if kind not in MODELS:
        raise ValueError(
            f"{OP}: expected a model, or a checkpoint of user_table and item_table; got "
            f"{', '.join(sorted(weights)) or 'none'} of {kind} in {path}"
        )
    model = model_of(weights, facts)
    if not hasattr(model, "item_vectors"):
        raise ValueError(
            f"{OP}: expected a model with vectors; got {kind}, which only scores, in {path}: it is read with its data set"
        )
    with torch.no_grad():
        biases = {name: getattr(model, name, None) for name in ("item_bias", "user_bias")}
        return {"users": model.user_vectors(), "items": model.item_vectors()} | {
            name: bias.detach() for name, bias in biases.items() if bias is not None
        }, ids


def model_of(weights: dict[str, Tensor], facts: dict) -> nn.Module:
    """The model that `save_model` wrote, of its weights and facts."""
    given = {
        "n_users": lambda: facts["n_users"],
        "n_items": lambda: facts["n_items"],
        "train": lambda: CSR(
            weights["train_matrix.indptr"], weights["train_matrix.indices"], facts["n_items"]
        ),
        "histories": lambda: weights["histories"],
    }
    model = make_model(OP, facts["model"], facts["width"], given, facts["options"])
    model.load_state_dict(weights)
    return model


def _expect_tables(path: str, names) -> None:
    if not {"users", "items"} <= set(names):
        raise ValueError(
            f"{OP}: expected arrays named users and items; got {', '.join(sorted(names)) or 'none'} in {path}. "
            f"Others are named as {path}#NAME,{path}#NAME"
        )
