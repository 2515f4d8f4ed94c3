"""A data set: train, valid and test over one numbering of users and items."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from rankdistill.data.csr import CSR
from rankdistill.data.frames import is_frame
from rankdistill.data.interactions import Interactions, RawInteractions
from rankdistill.data.readers import read_interactions
from rankdistill.data.splits import split_interactions
from rankdistill.data.vocabulary import Vocabulary

log = logging.getLogger("rankdistill")

PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint parts over one numbering of users and items, which all parts together define.

    The builders (`from_files`, `from_interactions`, `from_arrays`, `from_csr`) number the ids, drop repeated pairs,
    and drop from valid what is in train and from test what is in train or valid, with a warning that counts them:
    such pairs are masked in a ranking and could never be found.

    Args:
        train: [n] interactions, n > 0.
        valid, test: the held-out interactions; may be empty.
        users, items: the external id of every user and item; some may occur in no part, or only in a held-out one.
        name: for logs and results.

    Raises:
        ValueError: an empty train; parts that differ in size from the vocabularies or share a pair.

    Example:
        >>> data = Dataset.from_arrays((["ann", "bob", "bob"], [7, 7, 9]), test=(["ann"], [9]))
        >>> data.train.csr().to_dense().int()
        tensor([[1, 0],
                [1, 1]], dtype=torch.int32)
    """

    train: Interactions
    valid: Interactions
    test: Interactions
    users: Vocabulary
    items: Vocabulary
    name: str = "unnamed"

    @cached_property
    def train_sha256(self) -> str:
        """Tells train parts apart: another split of the same ids has another one."""
        csr = self.train.csr()
        return hashlib.sha256(csr.indptr.numpy().tobytes() + csr.indices.numpy().tobytes()).hexdigest()

    def __post_init__(self) -> None:
        if not len(self.train):
            raise ValueError("Dataset: expected a train part with interactions; got an empty one")
        sizes = (len(self.users), len(self.items))
        for part in PARTS:
            found = (getattr(self, part).n_users, getattr(self, part).n_items)
            if found != sizes:
                raise ValueError(
                    f"Dataset: expected {part} of {sizes[0]} users and {sizes[1]} items; got {found}"
                )
        for part, earlier in (("valid", "train"), ("test", "train"), ("test", "valid")):
            held_out = getattr(self, part)
            shared = getattr(self, earlier).csr().contains(held_out.users, held_out.items)
            if bool(shared.any()):
                raise ValueError(
                    f"Dataset: expected {part} without pairs of {earlier}; got {int(shared.sum())}"
                )

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        parts = ", ".join(f"{part} {len(getattr(self, part))}" for part in PARTS)
        return f"Dataset({self.name}: {self.n_users} users, {self.n_items} items, {parts})"

    def held_out_exclude(self, part: str) -> CSR:
        """What a full ranking leaves out when `part` ("valid" or "test") is sought: all other parts of the user.

        [n_users, n_items]: train and valid for "test", train and test for "valid". Made once for each part and kept, in 8
        bytes an interaction: every evaluation asks for it.
        """
        if part not in ("valid", "test"):
            raise ValueError(f"Dataset: expected part as 'valid' or 'test'; got {part!r}")
        if part not in self._excludes:
            other = self.valid if part == "test" else self.test
            self._excludes[part] = self.train.csr().union(other.csr())
        return self._excludes[part]

    @cached_property
    def _excludes(self) -> dict[str, CSR]:
        return {}

    @classmethod
    def from_files(
        cls,
        train: str | os.PathLike,
        valid: str | os.PathLike | None = None,
        test: str | os.PathLike | None = None,
        *,
        name: str | None = None,
        **reader_options,
    ) -> Dataset:
        """Parts that are already files. `reader_options` as for `read_interactions`; they hold for every file."""
        parts = [
            None if path is None else read_interactions(path, **reader_options)
            for path in (train, valid, test)
        ]
        return cls.from_arrays(*parts, name=os.fspath(train) if name is None else name)

    @classmethod
    def from_interactions(
        cls,
        interactions: RawInteractions | tuple | object,
        *,
        split: str = "random",
        ratios: Sequence[float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        name: str = "unnamed",
    ) -> Dataset:
        """One table, split here.

        Args:
            interactions: `RawInteractions`; a pair (users [n], items [n]) of integers or strings; or a data frame whose
                columns have the usual names (`read_interactions` takes any other).
            split, ratios, seed: as for `split_interactions`.
            name: of the data set.
        """
        raw = _as_raw(interactions)
        users, items = Vocabulary.from_ids(raw.user_ids), Vocabulary.from_ids(raw.item_ids)
        whole = _numbered(raw, users, items)
        return cls(*split_interactions(whole, split, ratios, seed), users, items, name)

    @classmethod
    def from_arrays(
        cls,
        train: RawInteractions | tuple,
        valid: RawInteractions | tuple | None = None,
        test: RawInteractions | tuple | None = None,
        *,
        name: str = "unnamed",
    ) -> Dataset:
        """Parts as `RawInteractions`, pairs (users [n], items [n]) of integers or strings, or data frames; None is an
        empty part."""
        raws = [RawInteractions([], []) if part is None else _as_raw(part) for part in (train, valid, test)]
        users = Vocabulary.from_ids(*(raw.user_ids for raw in raws))
        items = Vocabulary.from_ids(*(raw.item_ids for raw in raws))
        return cls._disjoint([_numbered(raw, users, items) for raw in raws], users, items, name)

    @classmethod
    def from_csr(
        cls,
        train: object,
        valid: object = None,
        test: object = None,
        *,
        n_items: int | None = None,
        name: str = "unnamed",
    ) -> Dataset:
        """Parts as anything `CSR.from_any` takes, all of one shape; row and column numbers are the ids.

        Args:
            train, valid, test: [n_users, n_items] each; None is an empty part.
            n_items: needed for pairs (indptr, indices).
            name: of the data set.
        """
        given = [
            None if part is None else CSR.from_any(part, n_items).to("cpu") for part in (train, valid, test)
        ]
        shape = (given[0].n_rows, given[0].n_columns)
        parts = []
        for part, matrix in zip(PARTS, given, strict=True):
            matrix = CSR.empty(*shape) if matrix is None else matrix
            if (matrix.n_rows, matrix.n_columns) != shape:
                raise ValueError(
                    f"Dataset: expected {part} of {shape[0]} × {shape[1]}, as train; got {matrix!r}"
                )
            parts.append(Interactions(*matrix.pairs(), *shape))
        users, items = (Vocabulary(np.arange(size)) for size in shape)
        return cls._disjoint(parts, users, items, name)

    @classmethod
    def _disjoint(cls, parts: list[Interactions], users: Vocabulary, items: Vocabulary, name: str) -> Dataset:
        train, valid, test = (part.unique() for part in parts)
        valid = _without(valid, "valid", train.csr(), name)
        test = _without(test, "test", train.csr().union(valid.csr()), name)
        return cls(train, valid, test, users, items, name)


def _as_raw(part: object) -> RawInteractions:
    if isinstance(part, RawInteractions):
        return part
    if isinstance(part, (tuple, list)) and len(part) == 2:
        return RawInteractions(*part)
    if is_frame(part):
        return read_interactions(part)
    expected = "RawInteractions, a pair (users, items) or a data frame"
    raise TypeError(f"Dataset: expected {expected}; got {type(part).__name__}")


def _numbered(raw: RawInteractions, users: Vocabulary, items: Vocabulary) -> Interactions:
    columns = (None if c is None else torch.from_numpy(c) for c in (raw.timestamps, raw.ratings))
    encoded = users.encode(raw.user_ids), items.encode(raw.item_ids)
    return Interactions(*encoded, len(users), len(items), *columns)


def _without(part: Interactions, name: str, seen: CSR, dataset: str) -> Interactions:
    shared = seen.contains(part.users, part.items)
    if bool(shared.any()):
        log.warning(
            "Dataset %s: dropped %d of %d %s pairs: in an earlier part too",
            dataset,
            int(shared.sum()),
            len(part),
            name,
        )
    return part.select(~shared)
