"""Frequency-aware distillation as a module: vectors compared after a filter on graphs of users and of items."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.data.graphs import co_occurrence_graph, sparse
from rankdistill.experts import Experts, filtered_mean
from rankdistill.losses.batch import Batch, expect_interactions, share_of
from rankdistill.losses.distillation import Student, VectorDistillation
from rankdistill.losses.dropout import EpochDropout
from rankdistill.losses.entities import Entities
from rankdistill.losses.settings import expect_at_least, expect_begun, expect_sizes, expect_within
from rankdistill.ops.dropout_mask import dropout_mask, in_sixteen_bits
from rankdistill.ops.native import accumulator_dtype
from rankdistill.sampling import STREAMS, role_seed


class FrequencyDistillation(VectorDistillation):
    """Frequency-aware distillation (FreqD): the low frequencies of the teacher's vectors on a co-occurrence graph.

    With the filter H = α·A + (1 − α)·I of a graph A, a batch's loss is `functional.frequency_distillation` of the
    batch's rows of H·T and H·proj(S) for its unique users, plus half of that for its unique positive and its unique
    negative items. proj is the mean of two-layer networks. Only the batch's entities and their neighbours are projected.

    Args:
        teacher_users, teacher_items: [U, D_t], [N, D_t] float, frozen.
        train: the train items of every user, from which the graphs are made.
        student_width: D_s.
        n_experts: networks of the projection, whose hidden width is D_t.
        alpha: α, the graph's share of the filter, in [0, 1].
        n_neighbours: of each user and of each item in its graph.
        normalized: the cosine form, or the squared one.
        graph_dropout: share of the graph's entries that a call leaves out, at random, the others scaled up.
        dropout: of the projection, before each linear map.
        seed: of initial values and dropout.

    Raises:
        TypeError, ValueError: settings out of range; tables or train items that do not fit each other, or the student.
        IndexError: ids without a teacher's row. RuntimeError: a batch before `begin_epoch`.

    Cost:
        A batch: O(n_experts·D_t·(m·D_s + n·D_t)) time for its n unique entities and the m that they and their neighbours are.

    Forms:
        The released code hands its width ratio over as the number of networks: 5 of hidden width D_t, the default here. It
        takes a row's first neighbour for the row itself, as the graphs here do. It projects positive and negative items in two
        calls, each with dropout of its own; here an item that both need is projected once.

    Source:
        Zhu and Zhang, Exploring Feature-based Knowledge Distillation for Recommender System: A Frequency Perspective,
        KDD 2025; defaults as in its released code, whose hidden width is D_t. Published weight: 0.5.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1, 2]), torch.tensor([4, 4, 1]), n_rows=3, n_columns=5)
        >>> teacher, student = MatrixFactorization(3, 5, width=8), MatrixFactorization(3, 5, width=2)
        >>> method = FrequencyDistillation(teacher.user_vectors(), teacher.item_vectors(), train, student_width=2)
        >>> method.begin_epoch(0)
        >>> loss = method(student, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([0, 0])))
    """

    default_weight = 0.5

    def __init__(
        self,
        teacher_users: Tensor,
        teacher_items: Tensor,
        train: CSR,
        student_width: int,
        n_experts: int = 5,
        alpha: float = 0.5,
        n_neighbours: int = 5,
        normalized: bool = True,
        graph_dropout: float = 0.5,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(teacher_users, teacher_items, student_width)
        expect_at_least(type(self).__name__, 1, n_experts=n_experts)
        for setting, value in {"alpha": alpha, "graph_dropout": graph_dropout, "dropout": dropout}.items():
            expect_within(type(self).__name__, setting, value, 0, 1)
        train = CSR.from_any(train).to("cpu")
        tables, sizes = (len(self.teacher_users), len(self.teacher_items)), (train.n_rows, train.n_columns)
        expect_sizes(type(self).__name__, "train", sizes, tables, "the teacher's tables")
        for side, rows in (("user", train), ("item", train.transposed())):
            graph = co_occurrence_graph(rows, n_neighbours)
            self.register_buffer(f"{side}_indptr", graph.crow_indices(), persistent=False)
            self.register_buffer(f"{side}_indices", graph.col_indices(), persistent=False)
            self.register_buffer(f"{side}_values", graph.values(), persistent=False)
        widths = student_width, self.teacher_width, self.teacher_width
        own = (role_seed(seed, f"{side} experts") for side in ("user", "item"))
        self.user, self.item = (Experts(n_experts, *widths, seed=of) for of in own)
        self.alpha, self.normalized, self.seed, self._calls = alpha, normalized, seed, 0
        self.graph_dropout, self.dropout, self._dropout = graph_dropout, dropout, EpochDropout(seed)
        self._epoch: int | None = None

    def begin_epoch(self, epoch: int, student: Student | None = None) -> None:
        """Begins the epoch's dropout."""
        self._epoch, self._calls = epoch, 0
        self._dropout.begin(epoch, self.teacher_users.device)

    def filter_rows(self, rows: Entities, own: slice) -> tuple[Tensor, Tensor]:
        """H's rows `own` [n, m] (torch.sparse_csr) over the entities that they touch after dropout, and their ids [m]."""
        indptr = getattr(self, f"{rows.side}_indptr")
        begins, counts = indptr[rows.ids], indptr[rows.ids + 1] - indptr[rows.ids]
        n, device, dtype = len(rows.ids), rows.ids.device, accumulator_dtype(rows.student.dtype)
        owner = torch.arange(n, device=device).repeat_interleave(counts)
        at = torch.arange(len(owner), device=device) + (begins + counts - counts.cumsum(0))[owner]
        factors = self._dropout.factors(at.shape, self.graph_dropout * self.training, dtype)
        values = getattr(self, f"{rows.side}_values")[at] * factors
        left = values != 0
        at, owner, values = at[left], owner[left], values[left]
        columns = torch.cat([getattr(self, f"{rows.side}_indices")[at], rows.ids])
        owner = torch.cat([owner, torch.arange(n, device=device)])
        values = torch.cat([self.alpha * values, values.new_full((n,), 1 - self.alpha)])
        mine = (owner >= own.start) & (owner < own.stop)
        touched, columns = torch.unique(columns[mine], return_inverse=True)
        entries, size = torch.stack([owner[mine] - own.start, columns]), (own.stop - own.start, len(touched))
        return sparse(entries, values[mine], size).coalesce().to_sparse_csr(), touched

    def project(self, near: Entities, matrix: Tensor) -> Tensor:
        """The matrix [n, m] times what the student's vectors of m entities project to."""
        experts: Experts = getattr(self, near.side)
        if not self.training or self.dropout == 0:
            return filtered_mean(experts, near.student, matrix)
        (M, H), draw = experts.bias_in.shape, {"seed": self.seed, "epoch": self._epoch, "step": self._calls}
        kept = tuple(
            dropout_mask(near.ids, M, width, self.dropout, stream=STREAMS[f"{near.side}_{of}"], **draw)
            for of, width in (("inputs", near.student.shape[1]), ("hidden", H))
        )
        self._calls += 1
        return filtered_mean(experts, near.student, matrix, kept, in_sixteen_bits(self.dropout))

    def forward(self, student: Student, batch: Batch) -> Tensor:
        expect_begun(type(self).__name__, self._epoch)
        loss, whole = 0.0, expect_interactions(type(self).__name__, batch)._replace(share=None)
        for rows in self.sides(student, whole):
            own = share_of(batch).of(len(rows.ids))
            matrix, touched = self.filter_rows(rows, own)
            near, weights = self.rows(student, rows.side, touched), rows.weights[own]
            found = self.project(near, matrix)
            # Sparse products know no half precision.
            with torch.autocast(matrix.device.type, enabled=False):
                wanted = matrix @ near.teacher.to(matrix.dtype)
            loss = loss + functional.frequency_distillation(wanted, found, self.normalized, weights=weights)
        return loss
