"""What a teacher knows, as an artifact: per user a top-K list of items with scores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.data.dataset import Dataset
from rankdistill.data.vocabulary import Vocabulary
from rankdistill.ops import checks, masked_topk
from rankdistill.rankings.alignment import aligned_rankings
from rankdistill.rankings.at_hand import lists_at_hand
from rankdistill.rankings.plan import Plan
from rankdistill.rankings.safetensors_files import TensorFile, read_header
from rankdistill.rankings.shards import (
    IDS,
    INDEX,
    file_metadata,
    open_folder,
    read_rankings_header,
    tensors_of,
)
from rankdistill.rankings.stored_ids import are_row_numbers, id_tensors, ids_as_tensors, ids_of
from rankdistill.rankings.streaming import LARGEST_ITEM, Steps, Streaming, expect_tables
from rankdistill.rankings.tables import Table

CHECKED = 8192  # users at a time
ALIKE = 0.5  # of users and of items, for a file's lists to be aligned unasked


@dataclass(frozen=True, eq=False)
class Rankings:
    """Per user the best K items of a teacher, best first; equal scores go to the lower item.

    Args:
        indices: [U, K] int32 item ids, -1 past a row's length.
        scores: [U, K] float32, -inf past a row's length.
        lengths: [U] int32, how many of each row count.
        n_items: N, the size of the catalogue.
        metadata: strings by name, kept with the file; "item_vocabulary" and "user_vocabulary" hold the SHA-256
            of the id lists that the rows and items are numbered by.
        ids: the external ids of rows and items as a file keeps them, see `with_ids`; empty where they are unknown.

    Raises:
        TypeError, ValueError: other dtypes or shapes, a length out of range. Items are looked at as they are read (`lists`).

    Source:
        The list that every ranking method starts from; the released code of RRD keeps K = 500.

    Example:
        >>> lists = Rankings.from_lists([[2, 0], [1]], n_items=3)  # `from_vectors` and `from_scores` rank
        >>> lists, lists.lengths
        (Rankings(2 users, 2 of 3 items each), tensor([2, 1], dtype=torch.int32))
    """

    indices: Tensor
    scores: Tensor
    lengths: Tensor
    n_items: int
    metadata: dict[str, str] = field(default_factory=dict)
    ids: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.expect_tensor("Rankings", "indices", self.indices, 2, (torch.int32,))
        checks.expect_tensor("Rankings", "scores", self.scores, 2, (torch.float32,))
        checks.expect_tensor("Rankings", "lengths", self.lengths, 1, (torch.int32,))
        shape = list(self.indices.shape)
        checks.expect(
            list(self.scores.shape) == shape, "Rankings", f"scores of shape {shape}, as indices", self.scores
        )
        checks.expect(
            len(self.lengths) == shape[0], "Rankings", f"{shape[0]} lengths, as indices", self.lengths
        )
        checks.expect(0 <= self.n_items <= LARGEST_ITEM, "Rankings", "n_items in [0, 2^31)", self.n_items)
        bad = (self.lengths < 0) | (self.lengths > shape[1])
        if bool(bad.any()):
            row = int(bad.to(torch.uint8).argmax())
            raise ValueError(
                f"Rankings: expected lengths in [0, {shape[1]}]; got {int(self.lengths[row])} for user {row}"
            )

    @property
    def n_users(self) -> int:
        return self.indices.shape[0]

    @property
    def k(self) -> int:
        return self.indices.shape[1]

    @property
    def user_ids(self) -> np.ndarray | None:
        """[U] the external ids of the rows, or None. O(U) time where they are strings."""
        return self._ids("user_ids", self.n_users)

    @property
    def item_ids(self) -> np.ndarray | None:
        """[N] the external ids of the items, or None. O(N) time where they are strings."""
        return self._ids("item_ids", self.n_items)

    def _ids(self, name: str, count: int) -> np.ndarray | None:
        found = ids_of("Rankings", "damaged ones", name, self.ids)
        if found is not None and len(found) != count:
            raise ValueError(f"Rankings: expected {count} {name}; got {len(found)}, a damaged file")
        return found

    def with_ids(self, user_ids: object, item_ids: object) -> Rankings:
        """The same lists with the external ids of their rows [U] and items [N], which `save` keeps and `aligned` reads."""
        return replace(self, ids=ids_as_tensors("Rankings", self.n_users, self.n_items, user_ids, item_ids))

    def aligned(self, dataset: Dataset) -> Rankings:
        """The lists of a data set's users, in its numbering, found by the ids that the rankings keep.

        A user whom they do not know gets an empty list; an item that the data set does not know is left out of the
        lists, whose order stays. A warning counts both. So lists outlive their teacher when users and items come and go.

        Raises:
            ValueError: rankings without ids; no common user, or no common item.

        Cost:
            O(U·K) time, 8·U·K bytes of result.

        Example:
            >>> from rankdistill import data
            >>> rankings = Rankings.from_lists([[0, 1], [1]], n_items=2).with_ids(["ann", "bob"], ["fig", "plum"])
            >>> rankings.aligned(data.Dataset.from_arrays((["bob", "eve"], ["plum", "pear"]))).indices
            tensor([[ 1, -1],
                    [-1, -1]], dtype=torch.int32)
        """
        return aligned_rankings("Rankings.aligned", self, dataset.users, dataset.items)

    def __repr__(self) -> str:
        return f"Rankings({self.n_users} users, {self.k} of {self.n_items} items each)"

    def lists(self, users: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The rows of `indices` and `lengths` of users; on the CPU a ValueError where a list names what is no item.

        A file is mapped when it is loaded, and looked at as it is read: O(n·K) for n users.
        """
        indices, lengths = self.indices[users], self.lengths[users]
        if indices.device.type == "cpu" and indices.numel():
            least, most = indices.aminmax()
            if least >= 0 and most < self.n_items:
                return indices, lengths  # full lists, in a tenth of the time
            wrong = (indices < 0) | (indices >= self.n_items)
            wrong &= torch.arange(self.k, dtype=torch.int32) < lengths[:, None]
            if bool(wrong.any()):
                row, place = wrong.nonzero()[0].tolist()
                user = int(torch.arange(self.n_users)[users][row])
                raise ValueError(
                    f"Rankings: expected {int(lengths[row])} items in [0, {self.n_items}) for user {user}; got "
                    f"{int(indices[row, place])} at place {place}: a damaged file. Extract them again"
                )
        return indices, lengths

    def expect_lists(self) -> None:
        """`lists` of all users, some at a time."""
        for start in range(0, self.n_users, CHECKED):
            self.lists(slice(start, start + CHECKED))

    @classmethod
    def from_lists(
        cls,
        indices: object,
        scores: object = None,
        lengths: object = None,
        *,
        n_items: int,
        metadata: dict[str, str] | None = None,
    ) -> Rankings:
        """Lists that are at hand, of any recommender.

        Args:
            indices: U lists of items in [0, n_items), the best first: nested lists or arrays of unequal lengths, or a
                matrix [U, K] of integers of any dtype, -1 past a list's end.
            scores: of the same form, not ascending in a list; None for minus the place: 0, -1, ….
            lengths: [U] integers, how many of each row of a matrix count; None for what is before its first -1.
            n_items: N.
            metadata: kept with the rankings.

        Raises:
            TypeError: indices that are no integers, scores that are no numbers.
            ValueError: an item out of range or twice in a list, scores that ascend or are NaN, sizes that differ.

        Cost:
            O(U·K·log K) time, O(U·K) memory.

        Example:
            >>> Rankings.from_lists([[2, 0], [1]], n_items=3).indices
            tensor([[ 2,  0],
                    [ 1, -1]], dtype=torch.int32)
        """
        lists = lists_at_hand(indices, scores, lengths, n_items)
        return cls(*lists, n_items, dict(metadata or {}))

    @classmethod
    def from_vectors(
        cls,
        users: Tensor | np.ndarray,
        items: Tensor | np.ndarray,
        k: int,
        exclude: object = None,
        *,
        item_bias: Tensor | np.ndarray | None = None,
        batch_size: int = 8192,
        progress: Callable[[Iterator], Iterator] = iter,
        metadata: dict[str, str] | None = None,
    ) -> Rankings:
        """The exact top k of users · items (+ item_bias), without a [U, N] matrix.

        Lists that do not fit the memory, tables in files, several processes: `extract_rankings`.

        Args:
            users: [U, D] float, a teacher's embeddings.
            items: [N, D] float, of the same dtype.
            k: list length, >= 0.
            exclude: the train items of every user, never ranked (U rows, N columns), as a CSR or anything that
                `CSR.from_any` takes, or None.
            item_bias: [N], of the items' dtype, added to every score of an item; None adds nothing.
            batch_size: users per call.
            progress: wraps the steps, an iterable of known length (such as tqdm).
            metadata: kept with the rankings.

        Cost:
            O(U·N·D) time; 8·U·k bytes of result besides one batch's O(batch_size·k), and N·(D + 48) where there are
            several batches (`prepare_items`).

        Example:
            >>> Rankings.from_vectors(torch.randn(6, 4), torch.randn(9, 4), k=3)
            Rankings(6 users, 3 of 9 items each)
        """
        op = "Rankings.from_vectors"
        users, items, item_bias = map(_as_tensor, (users, items, item_bias))
        tables = Table.of(op, "users", users), Table.of(op, "items", items)
        exclude = _as_csr(exclude)
        U, N = expect_tables(op, *tables, k, exclude, item_bias)
        checks.expect(batch_size > 0, op, "batch_size above 0", batch_size)
        made = cls._empty(U, N, k, metadata)
        steps = Steps([range(U)], range(N), Plan(batch_size, U, max(1, N), batch_size < U, 0))
        ranked = Streaming(*tables, k, exclude, item_bias, steps)
        for step in progress(steps):
            made._put(step.users, *ranked.rank(step))
        return made

    @classmethod
    def from_score_function(
        cls,
        score: Callable[[Tensor], Tensor | np.ndarray],
        n_users: int,
        n_items: int,
        k: int,
        exclude: object = None,
        *,
        batch_size: int = 256,
        progress: Callable[[Iterator], Iterator] = iter,
        metadata: dict[str, str] | None = None,
    ) -> Rankings:
        """The top k of any teacher that scores whole rows.

        Args:
            score: users [B] int64 → scores [B, N] float, a tensor or an array; called on consecutive users.
            n_users, n_items: U and N.
            k, exclude, batch_size, progress, metadata: as in `from_vectors`.

        Cost:
            U/batch_size calls of `score`; O(batch_size·N) memory.

        Example:
            >>> table = torch.tensor([[0.0, 2.0, 1.0]])  # or a network's scores of a batch of users
            >>> Rankings.from_score_function(lambda users: table[users], *table.shape, k=2).indices.tolist()
            [[1, 2]]
        """

        def rank(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with torch.no_grad():
                scores = _as_tensor(score(ids))
            checks.expect_tensor("Rankings.from_score_function", "scores", scores, 2)
            expected = [len(ids), n_items]
            checks.expect(
                list(scores.shape) == expected, "Rankings.from_score_function", f"scores {expected}", scores
            )
            return masked_topk(scores, k, None if exclude is None else exclude.rows(ids).to(scores.device))

        exclude = _check_exclude(exclude, n_users, n_items)
        return cls._extracted(rank, n_users, n_items, k, batch_size, progress, metadata)

    @classmethod
    def from_scores(cls, scores: Tensor | np.ndarray, k: int, exclude: object = None, **options) -> Rankings:
        """The top k of a given score matrix [U, N]; `exclude` and options as in `from_score_function`."""
        scores = _as_tensor(scores)
        checks.expect_tensor("Rankings.from_scores", "scores", scores, 2)
        rows = lambda ids: scores[int(ids[0]) : int(ids[-1]) + 1]  # consecutive, so a view
        return cls.from_score_function(rows, *scores.shape, k, exclude, **options)

    @classmethod
    def _extracted(cls, rank, n_users, n_items, k, batch_size, progress, metadata) -> Rankings:
        checks.expect(k >= 0, "Rankings", "k of 0 or more", k)
        checks.expect(batch_size > 0, "Rankings", "batch_size above 0", batch_size)
        made = cls._empty(n_users, n_items, k, metadata)
        for ids in progress(torch.arange(n_users).split(batch_size) if n_users else ()):
            scores, indices, _ = rank(ids)
            made._put(range(int(ids[0]), int(ids[-1]) + 1), scores, indices)
        return made

    @classmethod
    def _empty(cls, n_users: int, n_items: int, k: int, metadata: dict[str, str] | None) -> Rankings:
        """Lists without items, to be filled in."""
        indices = torch.full((n_users, k), -1, dtype=torch.int32)
        scores = torch.full((n_users, k), -torch.inf)
        return cls(indices, scores, torch.zeros(n_users, dtype=torch.int32), n_items, dict(metadata or {}))

    def _put(self, users: range, scores: Tensor, indices: Tensor) -> None:
        rows = slice(users.start, users.stop)
        self.scores[rows], self.indices[rows] = scores, indices
        torch.sum(self.indices[rows] >= 0, 1, dtype=torch.int32, out=self.lengths[rows])

    def save(self, path: str | os.PathLike) -> None:
        """Writes a safetensors file: indices, scores, lengths, the ids and the metadata as JSON. All of it, or nothing."""
        shapes = tensors_of(self.n_users, self.k) | {n: (t.dtype, t.shape) for n, t in self.ids.items()}
        shapes = dict(
            sorted(shapes.items(), key=lambda entry: -entry[1][0].itemsize)
        )  # each where its size divides
        file = TensorFile(path, shapes, file_metadata(self.n_items, self.metadata))
        try:
            file.put(0, indices=self.indices, lengths=self.lengths, scores=self.scores, **self.ids)
        except BaseException as error:
            file.abandon(error)
            raise
        file.finish()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        n_users: int | None = None,
        n_items: int | None = None,
        user_vocabulary: Vocabulary | None = None,
        item_vocabulary: Vocabulary | None = None,
    ) -> Rankings:
        """Reads a file that `save` wrote or a folder of `extract_rankings`, memory-mapped.

        Rows are read from disk as they are used. The shards of a folder are mapped behind each other, so that each
        of `indices`, `scores` and `lengths` is one tensor, without a copy. So a file is to be replaced (by a rename,
        as `save` and `extract_rankings` do) and never rewritten in place: the system ends a process (SIGBUS) that
        reads what a file no longer has.

        Args:
            path: the file, or the folder.
            n_users, n_items: checked against the file, where given.
            user_vocabulary, item_vocabulary: the ids that rows and items should be numbered by; checked by hash. Given
                both, a file that keeps its ids is `aligned` to them where half of the users and items are the same, unless
                the ids that differ are but row numbers, 0 … n-1, in both.

        Raises:
            FileNotFoundError: no such file; a folder that lacks a shard.
            ValueError: not such a file, a truncated one, an unfinished folder, or rankings of another catalogue.
        """
        op, path = "Rankings.load", os.fspath(path)
        if os.path.basename(path) == INDEX:
            path = os.path.dirname(path) or "."
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"{op}: expected the file or folder of an extraction; got {path}, which does not exist"
            )
        if os.path.isdir(path):
            tensors, header = open_folder(op, path)
            kept = os.path.join(path, IDS)
            entries = read_header(op, kept)[0] if os.path.exists(kept) else {}
        else:
            entries, header = read_rankings_header(op, path)
            tensors = {name: entries[name].tensor() for name in tensors_of(0, 0)}
        ids = id_tensors(op, path, entries)
        rankings = cls(**tensors, n_items=header["n_items"], metadata=header["metadata"], ids=ids)
        if ids and user_vocabulary is not None and item_vocabulary is not None:
            changed = [
                (getattr(rankings, f"{side}_ids"), vocabulary.ids)
                for side, vocabulary in (("user", user_vocabulary), ("item", item_vocabulary))
                if rankings.metadata.get(f"{side}_vocabulary") != vocabulary.sha256
            ]
            if changed and not any(are_row_numbers(known) and are_row_numbers(ids) for known, ids in changed):
                return aligned_rankings(f"{op}({path})", rankings, user_vocabulary, item_vocabulary, ALIKE)
        for side, count, wanted, vocabulary in (
            ("user", rankings.n_users, n_users, user_vocabulary),
            ("item", rankings.n_items, n_items, item_vocabulary),
        ):
            _check_catalogue(
                path, side, count, wanted, vocabulary, rankings.metadata.get(f"{side}_vocabulary")
            )
        return rankings


def _as_tensor(values: object) -> object:
    return torch.as_tensor(values) if isinstance(values, np.ndarray) else values


def _as_csr(exclude: object) -> CSR | None:
    return None if exclude is None else CSR.from_any(exclude)


def _check_exclude(exclude: object, n_users: int, n_items: int) -> CSR | None:
    exclude = _as_csr(exclude)
    if exclude is not None and (exclude.n_rows, exclude.n_columns) != (n_users, n_items):
        raise ValueError(
            f"Rankings: expected exclude of {n_users} users × {n_items} items; "
            f"got {exclude.n_rows} × {exclude.n_columns}"
        )
    return exclude


def _check_catalogue(
    path, side: str, count: int, wanted: int | None, vocabulary, recorded: str | None
) -> None:
    if wanted is None and vocabulary is not None:
        wanted = len(vocabulary)
    if wanted is not None and count != wanted:
        raise ValueError(
            f"Rankings.load: expected rankings of {wanted} {side}s; got {count} in {path}. "
            "Extract them again from a teacher of this data set, or name theirs (--data.source)"
        )
    if vocabulary is not None and recorded is not None and recorded != vocabulary.sha256:
        raise ValueError(
            f"Rankings.load: expected the {side} ids with SHA-256 {vocabulary.sha256[:12]}…; got {recorded[:12]}… in "
            f"{path}, another catalogue. Extract them again from a teacher of this data set, or name theirs (--data.source)"
        )
