"""What a teacher knows, as an artifact: per user a top-K list of items with scores."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.data.vocabulary import Vocabulary
from rankdistill.files import replacing
from rankdistill.ops import checks, inner_product_topk, masked_topk

FORMAT = "rankdistill.rankings"
FORMAT_VERSION = 1
LARGEST_ITEM = 2**31 - 1


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

    Source:
        The list that every ranking method starts from; the released code of RRD keeps K = 500.
    """

    indices: Tensor
    scores: Tensor
    lengths: Tensor
    n_items: int
    metadata: dict[str, str] = field(default_factory=dict)

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

    @classmethod
    def from_vectors(
        cls,
        users: Tensor,
        items: Tensor,
        k: int,
        exclude: CSR | None = None,
        *,
        batch_size: int = 8192,
        progress: Callable[[Iterator], Iterator] = iter,
        metadata: dict[str, str] | None = None,
    ) -> Rankings:
        """The exact top k of users · items, without a [U, N] matrix.

        Args:
            users: [U, D] float, items: [N, D] float: a teacher's embeddings.
            k: list length.
            exclude: the train items of every user, never ranked (U rows, N columns), or None.
            batch_size: users per call.
            progress: wraps the iterator over batches (such as tqdm).
            metadata: kept with the rankings.

        Cost:
            O(U·N·D) time; 8·U·k bytes of result besides one batch's O(batch_size·k).

        Example:
            >>> rankings = Rankings.from_vectors(teacher_users, teacher_items, k=500, exclude=train)
        """

        def rank(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            rows = None if exclude is None else exclude.rows(ids)
            return inner_product_topk(users[ids[0] : ids[-1] + 1].detach(), items.detach(), k, rows)

        _check_exclude(exclude, len(users), len(items))
        return cls._extracted(rank, len(users), len(items), k, batch_size, progress, metadata)

    @classmethod
    def from_score_function(
        cls,
        score: Callable[[Tensor], Tensor],
        n_users: int,
        n_items: int,
        k: int,
        exclude: CSR | None = None,
        *,
        batch_size: int = 256,
        progress: Callable[[Iterator], Iterator] = iter,
        metadata: dict[str, str] | None = None,
    ) -> Rankings:
        """The top k of any teacher that scores whole rows.

        Args:
            score: users [B] int64 → scores [B, N] float; called on consecutive users.
            n_users, n_items: U and N.
            k, exclude, batch_size, progress, metadata: as in `from_vectors`.

        Cost:
            U/batch_size calls of `score`; O(batch_size·N) memory.

        Example:
            >>> rankings = Rankings.from_score_function(lambda users: table[users], *table.shape, k=100)
        """

        def rank(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            with torch.no_grad():
                scores = score(ids)
            checks.expect_tensor("Rankings.from_score_function", "scores", scores, 2)
            expected = [len(ids), n_items]
            checks.expect(
                list(scores.shape) == expected, "Rankings.from_score_function", f"scores {expected}", scores
            )
            return masked_topk(scores, k, None if exclude is None else exclude.rows(ids))

        _check_exclude(exclude, n_users, n_items)
        return cls._extracted(rank, n_users, n_items, k, batch_size, progress, metadata)

    @classmethod
    def from_scores(cls, scores: Tensor, k: int, exclude: CSR | None = None, **options) -> Rankings:
        """The top k of a given score matrix [U, N]; options as in `from_score_function`."""
        checks.expect_tensor("Rankings.from_scores", "scores", scores, 2)
        rows = lambda ids: scores[int(ids[0]) : int(ids[-1]) + 1]  # consecutive, so a view
        return cls.from_score_function(rows, *scores.shape, k, exclude, **options)

    @classmethod
    def _extracted(cls, rank, n_users, n_items, k, batch_size, progress, metadata) -> Rankings:
        checks.expect(k >= 0, "Rankings", "k of 0 or more", k)
        checks.expect(batch_size > 0, "Rankings", "batch_size above 0", batch_size)
        indices = torch.empty((n_users, k), dtype=torch.int32)
        scores = torch.empty((n_users, k), dtype=torch.float32)
        lengths = torch.empty(n_users, dtype=torch.int32)
        for ids in progress(torch.arange(n_users).split(batch_size) if n_users else ()):
            rows = slice(int(ids[0]), int(ids[-1]) + 1)
            scores[rows], indices[rows], lengths[rows] = rank(ids)
        return cls(indices, scores, lengths, n_items, dict(metadata or {}))

    def save(self, path: str | os.PathLike) -> None:
        """Writes a safetensors file: indices, scores, lengths and the metadata as JSON. All of it, or nothing."""
        header = {"version": FORMAT_VERSION, "n_items": self.n_items, "metadata": self.metadata}
        tensors = {"indices": self.indices, "scores": self.scores, "lengths": self.lengths}
        with replacing(path) as temporary:
            save_file(
                {name: t.contiguous() for name, t in tensors.items()}, temporary, {FORMAT: json.dumps(header)}
            )

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
        """Reads a file that `save` wrote, memory-mapped: rows are read from disk as they are used.

        Args:
            path: the file.
            n_users, n_items: checked against the file, where given.
            user_vocabulary, item_vocabulary: the ids that rows and items should be numbered by; checked by hash.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, a truncated one, or rankings of another catalogue.
        """
        path = os.fspath(path)
        try:
            with safe_open(path, framework="pt") as file:
                header = (file.metadata() or {}).get(FORMAT)
                if header is None:
                    raise ValueError(
                        f"Rankings.load: expected a rankings file; got {path} without a {FORMAT} header"
                    )
                tensors = {name: file.get_tensor(name) for name in ("indices", "scores", "lengths")}
        except SafetensorError as error:
            raise ValueError(
                f"Rankings.load: expected a whole safetensors file; got {path}: {error}"
            ) from error
        header = json.loads(header)
        if header["version"] != FORMAT_VERSION:
            raise ValueError(
                f"Rankings.load: expected format version {FORMAT_VERSION}; got {header['version']} in {path}"
            )
        rankings = cls(**tensors, n_items=header["n_items"], metadata=header["metadata"])
        for side, count, wanted, vocabulary in (
            ("user", rankings.n_users, n_users, user_vocabulary),
            ("item", rankings.n_items, n_items, item_vocabulary),
        ):
            _check_catalogue(
                path, side, count, wanted, vocabulary, rankings.metadata.get(f"{side}_vocabulary")
            )
        return rankings


def _check_exclude(exclude: CSR | None, n_users: int, n_items: int) -> None:
    if exclude is not None and (exclude.n_rows, exclude.n_columns) != (n_users, n_items):
        raise ValueError(
            f"Rankings: expected exclude of {n_users} users × {n_items} items; "
            f"got {exclude.n_rows} × {exclude.n_columns}"
        )


def _check_catalogue(
    path, side: str, count: int, wanted: int | None, vocabulary, recorded: str | None
) -> None:
    if wanted is None and vocabulary is not None:
        wanted = len(vocabulary)
    if wanted is not None and count != wanted:
        raise ValueError(
            f"Rankings.load: expected rankings of {wanted} {side}s; got {count} in {path}. "
            "Extract them again from a teacher of this data set"
        )
    if vocabulary is not None and recorded is not None and recorded != vocabulary.sha256:
        raise ValueError(
            f"Rankings.load: expected the {side} ids with SHA-256 {vocabulary.sha256[:12]}…; got {recorded[:12]}… in "
            f"{path}, another catalogue. Extract them again from a teacher of this data set"
        )
