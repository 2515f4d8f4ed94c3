"""Ranking on several processes: who takes part, agreement on failures, and lists merged across slices of the items."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from rankdistill.data.csr import CSR
from rankdistill.ops import checks, inner_product_topk
from rankdistill.ops.exclusions import check_exclusions
from rankdistill.ops.inner_product_topk import InnerProductTopK
from rankdistill.rankings.streaming import Lists, merge_lists

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number
PIECE = 1 << 20  # numbers of a fingerprint at a time
FACTS = 8  # numbers that an agreement carries, beside whether its process failed


class AgreementError(ConnectionError):
    """Another process failed, ended or does not answer: whatever all were to agree on next, none waits for it."""


def in_order(words: Tensor) -> Tensor:
    """A sum that tells numbers and their order apart, modulo 2^64."""
    return (words.long() * torch.arange(1, len(words) + 1, device=words.device)).sum()


def fingerprint(*tensors: Tensor | None) -> int:
    """Of the tensors' bits; O(numbers) time, some 16 MiB while it is made."""
    total = 0
    for tensor in tensors:
        if tensor is not None and tensor.numel():
            words = tensor.detach().contiguous().flatten().view(WORDS[tensor.itemsize])
            parts = torch.stack([in_order(part) for part in words.split(PIECE)])
            total = (total * 1_000_003 + int(in_order(parts))) % (1 << 62)
    return total


class Processes:
    """This process among those of a torch.distributed group; alone where torch.distributed is not in use.

    Args:
        op: whom errors speak of.
        group: a group, or None for all processes.
    """

    members = "processes"  # what errors call them

    def __init__(self, op: str, group: dist.ProcessGroup | None = None) -> None:
        self.op, self.group = op, group
        in_use = dist.is_available() and dist.is_initialized()
        if group is not None and not in_use:
            raise ValueError(
                f"{op}: expected torch.distributed to be in use for a group; got none initialised"
            )
        self.size = dist.get_world_size(group) if in_use else 1
        self.rank = dist.get_rank(group) if in_use else 0
        if self.rank < 0:
            raise ValueError(f"{op}: expected a group that this process is in; got one without it")

    @classmethod
    @contextmanager
    def on_cpu(cls, op: str, group: dist.ProcessGroup | None = None) -> Iterator[Processes]:
        """The same over gloo, which carries CPU tensors, whatever the given group carries."""
        processes = cls(op, group)
        if processes.size == 1 or "cpu:gloo" in str(dist.get_backend_config(group)):
            yield processes
            return
        ranks = dist.get_process_group_ranks(dist.group.WORLD if group is None else group)
        processes.group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
        try:
            yield processes
        finally:
            dist.destroy_process_group(processes.group)

    def share(self, value: object) -> list:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list = [None] * self.size
        with self.connected():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def same(self, own: dict | None = None, /, **facts: object) -> list[dict]:
        """Every process's facts and own ones, by rank; a ValueError on all where facts differ, naming the first that does."""
        told = self.share(facts | (own or {}))
        names = (name for theirs in told for name in theirs if name not in (own or {}))
        for name in dict.fromkeys(names):
            first = told[0].get(name)
            for rank, theirs in enumerate(told):
                if repr(theirs.get(name)) != repr(first):
                    raise ValueError(
                        f"{self.op}: expected the same {name} on all {self.members}; got {first!r} on rank 0, "
                        f"{theirs.get(name)!r} on rank {rank}"
                    )
        return told

    def agree(
        self,
        *facts: int,
        failure: BaseException | None = None,
        device: torch.device | str = "cpu",
        room: int = FACTS,
    ) -> list[list[int]]:
        """Every process's facts (`room` at most), by rank, if all are well; where one has failed, an error on all others.

        All processes call this at the same points. One that fails in between calls it with its failure at the next,
        and raises it afterwards.
        """
        if self.size == 1:
            return [list(facts)]
        mine = torch.tensor([int(failure is not None), *facts, *[0] * (room - len(facts))], device=device)
        gathered = torch.empty(self.size * (room + 1), dtype=torch.int64, device=device)
        self.gather(gathered, mine)
        rows = gathered.view(self.size, room + 1).tolist()
        if any(row[0] for row in rows):
            told = self.share(None if failure is None else f"{type(failure).__name__}: {failure}")
            rank = next(r for r, row in enumerate(rows) if row[0])
            if failure is None:
                raise AgreementError(
                    f"{self.op}: expected every process to go on; got a failure of rank {rank}: {told[rank]}"
                )
        return [row[1 : len(facts) + 1] for row in rows]

    @contextmanager
    def together(self, device: torch.device | str = "cpu") -> Iterator[None]:
        """A stretch that all processes end together: agreement at its end, or at once where it fails here."""
        try:
            yield
        except AgreementError:
            raise  # all have left it
        except Exception as failure:
            self.agree(failure=failure, device=device)
            raise
        self.agree(device=device)

    def merge(self, lists: Lists, k: int) -> Lists:
        """The best k of the lists that the processes hold of the same users, on every process.

        The items of a rank's lists stand before all items of higher ranks by index. Each process sends and gets at
        most 2·B entries of each list position: it merges the lists of B/W users, then tells the others.
        """
        W, B = self.size, len(lists.scores)
        if W == 1 or not B or not k:
            return lists
        share = -(-B // W)
        scores, indices = lists.scores, lists.indices
        words = scores.itemsize // 4  # int32 words of a score
        width = k * (words + indices.itemsize // 4)
        sent = torch.zeros((W * share, width), dtype=torch.int32, device=scores.device)
        sent[:B, : k * words] = scores.contiguous().view(torch.int32)
        sent[:B, k * words :] = indices.contiguous().view(torch.int32)
        got = torch.empty_like(sent)

        def unpacked(rows: Tensor) -> Lists:
            # Copies: a single row counts as contiguous wherever it begins, perhaps not where int64 may.
            packed = torch.contiguous_format
            return Lists(
                rows[:, : k * words].clone(memory_format=packed).view(scores.dtype),
                rows[:, k * words :].clone(memory_format=packed).view(indices.dtype),
            )

        with self.connected():
            dist.all_to_all_single(got, sent, group=self.group)
        best = merge_lists([unpacked(part) for part in got.view(W, share, width)], k)
        mine = torch.cat([part.contiguous().view(torch.int32) for part in best], dim=1)
        self.gather(sent, mine)
        return unpacked(sent[:B])

    def gather(self, whole: Tensor, mine: Tensor) -> None:
        """Every process's rows behind each other."""
        # TODO: drop the second name once torch ≥ 2.13
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        with self.connected():
            gather(whole, mine, group=self.group)

    def add_up(self, values: Tensor) -> None:
        """Replaces values, contiguous, by the sum of every process's."""
        with self.connected():
            dist.all_reduce(values, group=self.group)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """What goes wrong with other processes within it is an `AgreementError`."""
        try:
            yield
        except RuntimeError as error:
            raise AgreementError(
                f"{self.op}: expected every process to answer; got {error}. Another process has ended or hangs: "
                "what it said last says why"
            ) from error


def distributed_inner_product_topk(
    users: Tensor,
    items: Tensor,
    k: int,
    exclude: object = None,
    item_bias: Tensor | None = None,
    *,
    first_item: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> InnerProductTopK:
    """The k items with the largest inner product with each user, where every process holds a slice of the items.

    scores[b, j] = <users[b], all_items[indices[b, j]]> + all_bias[indices[b, j]], descending in j, where all_items
    is the slices of all ranks after each other

    Args:
        users: [B, D] float table, the same on every process, bit for bit.
        items: [n, D] float table: this process's slice. Slices may differ in length and may be empty.
        k: length of each list, >= 0.
        exclude: as in `inner_product_topk`, in ids of all items; the same on every process. None excludes nothing.
        item_bias: [n], of this process's items; None adds nothing.
        first_item: the id of `items[0]`, checked against the lengths of the slices before; None to count them.
        group: a torch.distributed group whose backend carries tensors of these devices; None for all processes.

    Returns:
        InnerProductTopK(scores [B, k], indices [B, k] int64, lengths [B] int64), the same on every process.

    Contract:
        Bit for bit what `inner_product_topk` gives for all items on one process, for any number of processes and
        any slices. A process that fails, or was called with other users or another k, is an error on all of them.

    Raises:
        TypeError, ValueError, IndexError: as `inner_product_topk`; arguments that differ between processes.
        ConnectionError: another process failed, ended or did not answer within the group's time-out.

    Cost:
        O(B·n·D) time; each process sends and receives at most 2·B·k list entries (12 bytes each), in two rounds.

    Example:
        >>> users, items = torch.tensor([[1., 2.]]), torch.tensor([[1., 0.], [0., 1.], [1., 1.]])
        >>> distributed_inner_product_topk(users, items, 2, first_item=0)  # on one process: all items
        InnerProductTopK(scores=tensor([[3., 2.]]), indices=tensor([[2, 1]]), lengths=tensor([2]))
    """
    op = "distributed_inner_product_topk"
    processes = Processes(op, group)
    device = items.device if isinstance(items, Tensor) else "cpu"
    with processes.together(device):
        checks.expect_tensor(op, "users", users, 2)
        checks.expect_tensor(op, "items", items, 2)
        checks.expect_same(op, "users", users, "items", items)
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"{op}: expected k as an int; got {checks.describe(k)}")
        indptr, indices = checks.csr_tensors(op, "exclude", exclude, users.device)
        dtype, lists = checks.FLOATS.index(users.dtype), fingerprint(users, indptr, indices)
    shape = (len(users), users.shape[1], k, dtype, int(indptr is None))
    given = -1 if first_item is None else first_item
    told = processes.agree(*shape, len(items), given, lists, device=device)
    for rank, facts in enumerate(told):
        if tuple(facts[: len(shape)]) != tuple(told[0][: len(shape)]):
            raise ValueError(
                f"{op}: expected one B, D, k, dtype and use of exclude on all processes; got {told[0][: len(shape)]} on "
                f"rank 0, {facts[: len(shape)]} on rank {rank}"
            )
        begin = sum(row[5] for row in told[:rank])
        if facts[6] not in (-1, begin):
            raise ValueError(
                f"{op}: expected rank {rank}'s slice to begin with item {begin}, after those of lower ranks; got {facts[6]}"
            )
    first, n_items = sum(row[5] for row in told[: processes.rank]), sum(row[5] for row in told)
    with processes.together(device):
        window = None
        if indptr is not None:
            checks.expect(
                len(indptr) == len(users) + 1,
                op,
                f"exclude indptr of {len(users) + 1} entries, one more than users",
                indptr,
            )
            check_exclusions(op, indptr.cpu().contiguous(), indices.cpu().contiguous(), n_items)
            window = CSR._trusted(indptr, indices, n_items).window(
                range(len(users)), range(first, first + len(items))
            )
    for rank, facts in enumerate(told):
        if facts[7] != told[0][7]:
            raise ValueError(
                f"{op}: expected the same users and exclude on all processes; got others on rank {rank}"
            )
    with processes.together(device):
        found = inner_product_topk(users, items, k, window, item_bias)
    lists = Lists(found.scores, torch.where(found.indices < 0, -1, found.indices + first))
    scores, indices = processes.merge(lists, k)
    return InnerProductTopK(scores, indices, (indices >= 0).sum(dim=1))
