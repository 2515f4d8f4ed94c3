"""Whether all processes are about to do the same: facts as plain values and hashes, compared before the work."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator

import torch
from torch import Tensor, nn

from rankdistill.data.csr import CSR
from rankdistill.data.dataset import PARTS, Dataset
from rankdistill.losses.distillation import Distillation
from rankdistill.rankings import Rankings

WHOLE = 1 << 24  # numbers up to which a tensor is hashed whole; of more, so many rows that this share is
Fact = int | float | str | bool | None


def facts_of(
    thing: Dataset | Distillation | nn.Module, name: str, left_out: Container[str] = ()
) -> dict[str, Fact]:
    """What a data set's interactions, a method's settings and teacher, or a model's state are told apart by.

    Args:
        thing: what is told apart.
        name: of the thing, with which the names of facts begin, but those of a data set.
        left_out: names of facts that do not count.

    Returns:
        Numbers and names as they are, tensors as hashes, by name: equal on two processes where the things are.

    Cost:
        O(numbers), and for a tensor of more than 2^24 numbers that many of them, so that tables in files stay there.

    Example:
        >>> facts = facts_of(MatrixFactorization(2, 3, width=4), "student")
        >>> facts["kind of student"], facts["student.init_std"]
        ('MatrixFactorization', 0.01)
    """
    if isinstance(thing, Dataset):
        parts = {part: getattr(thing, part) for part in PARTS}
        columns = {part: (p.users, p.items, p.timestamps) for part, p in parts.items()}
        return {
            f"{part} interactions": hashed(*(c for c in of if c is not None)) for part, of in columns.items()
        }
    facts = plain_facts_of(thing, name)
    for at, value in attributes(thing, name):
        if at in left_out:
            continue
        if isinstance(value, Tensor):
            facts[at] = hashed(value)
        elif isinstance(value, Rankings):
            facts[at] = hashed(value.indices, value.lengths, value.scores)
        elif isinstance(value, CSR):
            facts[at] = hashed(value.indptr, value.indices)
        elif hasattr(value, "score"):
            facts[at] = hashed(*teacher_tensors(value))
    return facts


def teacher_tensors(teacher: object) -> list[Tensor]:
    """What a teacher is told apart by: a module's state, tables of vectors and biases; nothing of a function of scores."""
    if isinstance(teacher, nn.Module):
        return [t for t in teacher.state_dict().values() if t.layout == torch.strided]
    tables = (getattr(teacher, name, None) for name in ("users", "items", "item_bias", "user_bias"))
    return [table for table in tables if isinstance(table, Tensor)]


def plain_facts_of(thing: nn.Module, name: str) -> dict[str, Fact]:
    """Its kind, and the numbers and names among its settings."""
    facts: dict[str, Fact] = {f"kind of {name}": type(thing).__name__}
    for at, value in attributes(thing, name):
        if isinstance(value, tuple) and all(isinstance(part, Fact) for part in value):
            value = str(value)
        if isinstance(value, Fact):
            facts[at] = value
    return facts


def lasting_facts_of(thing: nn.Module, name: str) -> dict[str, Fact]:
    """What it is made with and training leaves alone: plain facts, and hashes of what its state does not hold."""
    parameters = (key for key, _ in thing.named_parameters())
    return facts_of(thing, name, {f"{name}.{key}" for key in (*thing.state_dict(), *parameters)})


def attributes(thing: nn.Module, name: str) -> Iterator[tuple[str, object]]:
    """All that it and its parts hold, by path, but for what is their own business or differs between processes."""
    for path, module in thing.named_modules():
        for key, value in (vars(module) | module._buffers | module._parameters).items():
            if not key.startswith("_") and key not in getattr(module, "differ", ()):
                yield f"{name}.{path}.{key}" if path else f"{name}.{key}", value


def hashed(*tensors: Tensor) -> str:
    """Of shapes, dtypes and numbers: those of evenly spread rows where there are very many."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        rows = tensor.detach()
        if rows.numel() > WHOLE:
            step = -(-rows.numel() // WHOLE)
            rows = rows[::step]
        flat = rows.cpu().contiguous().flatten()
        found.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return found.hexdigest()[:16]


def checksum(parameters: Iterable[Tensor]) -> int:
    """Of all parameters' bits; O(parameters), no copy."""
    total = 0
    for at, parameter in enumerate(parameters):
        words = (
            parameter.detach()
            .contiguous()
            .flatten()
            .view(torch.uint8 if parameter.itemsize % 4 else torch.int32)
        )
        total += (at + 1) * int(words.sum(dtype=torch.int64))
    return total
