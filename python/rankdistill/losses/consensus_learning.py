"""Consensus learning as a module: heterogeneous objectives over shared vectors, and the ranking that they agree on."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.data.csr import CSR
from rankdistill.losses.batch import Batch, share_of
from rankdistill.losses.consensus_queue import ConsensusQueue
from rankdistill.losses.distillation import Distillation, Student
from rankdistill.losses.dropout import EpochDropout
from rankdistill.losses.head_balance import HeadBalance, WithGradients, head_gradients
from rankdistill.losses.head_objectives import HEADS, dropped_vectors, listed_scores, own_loss, touched
from rankdistill.losses.settings import expect_at_least, expect_begun, expect_choice, expect_within

FORMS = ("released", "paper")
BOUNDS = (0.5, 2.0)  # of the weights of the consensus' terms


class ConsensusLearning(Distillation):
    """Consensus learning (ConCF): a model with several heads learns from the ranking that its own heads agree on.

    loss = Σ_h w_h·loss_h + consensus_weight·Σ_h clip(w_h)·RRD_h(consensus), over the heads of `MultiHeadFactorization`;
    the item side's multinomial is no part of the second sum. The weights balance what the heads' gradients do to the
    shared vectors. Every `period` epochs all heads rank the catalogue; from the sixth time on the items that they place
    high, and have kept placing alike, are the consensus: its first half is to be ranked in order, above its second.

    Args:
        train: the train items of every user.
        n_listed: K, items of a user's consensus.
        consensus_weight: of the second sum.
        period: epochs between two rankings, the first after epoch 0.
        n_states: over how many rankings deviations are taken.
        position_temperature, deviation_temperature: of `consensus_rankings`.
        form: "paper" (the latest ranks and their deviations) or "released" (those before, see Forms).
        balance_learning_rate: of the heads' weights; published: that of the model.
        asymmetry: of their `functional.balanced_gradient_norms`.
        reference_until: the last epoch whose losses may be its reference.
        dropout: in the heads' bottoms, in [0, 1].
        recommends: the head whose scores the model recommends by.
        seed: of the dropout.

    Contract:
        It is the model's whole objective, without a teacher or a base loss. Weights, states and consensus are in `state_dict`;
        a run that is resumed goes on exactly.

    Raises:
        TypeError, ValueError: settings out of range; a student without heads; a batch without positives or negatives.
        RuntimeError: a batch before `begin_epoch`.

    Cost:
        A ranking: for 6 heads a top-K, and n_states times the ranks of K items, of every user: O(U·N·D/4) each; no [U, N].
        State: n_states + 1 times the model. A batch: O((users + items)·(N + U)·D/4) for the multinomials; 11 backwards in all.

    Forms:
        The released consensus lags one ranking behind; its deviations are none at first, later always those of rankings 1 to
        n_states: `form`.

    Source:
        Kang et al., Consensus Learning from Heterogeneous Objectives for One-Class Collaborative Filtering, WWW 2022, where
        a model of width 64 trains for 200 epochs by Adam, 0.01 with decay 1e-5, in batches of 1024.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([3, 0]), n_rows=2, n_columns=5)
        >>> student, method = MultiHeadFactorization(2, 5, width=8), ConsensusLearning(train)
        >>> method.begin_epoch(0, student)
        >>> loss = method(student, Batch(torch.tensor([0, 1]), torch.tensor([3, 0]), torch.tensor([1, 2])))
    """

    divides = "nothing"
    default_base_weight = 0.0

    def __init__(
        self,
        train: CSR,
        n_listed: int = 100,
        consensus_weight: float = 0.005,
        period: int = 10,
        n_states: int = 5,
        position_temperature: float = 10.0,
        deviation_temperature: float = 100.0,
        form: str = "paper",
        balance_learning_rate: float = 0.01,
        asymmetry: float = 0.15,
        reference_until: int = 10,
        dropout: float = 0.1,
        recommends: str = "ranking",
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        expect_at_least(name, 1, period=period, n_states=n_states)
        expect_at_least(name, 2, n_listed=n_listed)
        expect_choice(name, "form", form, FORMS)
        expect_choice(name, "recommends", recommends, HEADS)
        expect_within(name, "dropout", dropout, 0, 1)
        train = CSR.from_any(train).to("cpu")
        settings = n_listed, n_states, position_temperature, deviation_temperature, form == "released"
        self.train_sides, self.queue = (train, train.transposed()), ConsensusQueue(train, *settings)
        self.balance = HeadBalance(len(HEADS), balance_learning_rate, asymmetry, reference_until)
        self.n_interesting, self.consensus_weight, self.period = n_listed // 2, consensus_weight, period
        self.dropout, self.recommends, self._dropout = dropout, recommends, EpochDropout(seed)
        self._epoch: int | None = None

    def begin_epoch(self, epoch: int, student: Student) -> None:
        """Adds the student's state and makes the consensus anew, every `period` epochs after epoch 0."""
        if not hasattr(student, "head_vectors"):
            raise TypeError(
                f"{type(self).__name__}: expected a student with heads, MultiHeadFactorization (multi_head); "
                f"got {type(student).__name__}"
            )
        student.recommend_by(self.recommends)
        self._epoch = epoch
        self._dropout.begin(epoch, student.user_table.device)
        if epoch > 0 and (epoch - 1) % self.period == 0:
            self.queue.add(student)

    # Gradients are taken within it more than once; what torch.compile makes of a part may be walked only once.
    @torch.compiler.disable
    def forward(self, student: Student, batch: Batch) -> Tensor:
        """The whole objective; with gradients the weights then make a step."""
        expect_begun(type(self).__name__, self._epoch)
        read = touched(student, batch, self.queue.consensus)
        inputs = [read.user_rows, read.item_rows, *(p for p in student.parameters() if p.requires_grad)]
        leaves = [rows.detach().requires_grad_() for rows in inputs[:2]]
        read = read._replace(user_rows=leaves[0], item_rows=leaves[1])
        own, scores = [], []
        for head in student.heads:
            users, items = dropped_vectors(student, head, read, self._dropout, self.dropout * self.training)
            own.append(own_loss(student, head, read, users, items, self.train_sides))
            if head != "item_multinomial":
                scores.append(listed_scores(head, read, users, items))
        weights = self.balance.weights.to(own[0], copy=True)  # the step below moves them
        loss = (weights * torch.stack(own)).sum()
        lengths = (read.listed >= 0).sum(1).clamp(max=self.n_interesting)
        shared = None
        if bool((lengths > 0).any()):
            shared = functional.consensus_learning(
                torch.stack(scores), weights[:-1], self.n_interesting, lengths, BOUNDS
            )
            loss = loss + self.consensus_weight * shared
        if torch.is_grad_enabled():
            leaves += inputs[2:]
            found = head_gradients(leaves, own, scores, shared, weights, self.consensus_weight, BOUNDS)
            self.balance.step(self._epoch, torch.stack(own).detach(), found.norms, found.slopes)
            loss = WithGradients.apply(loss.detach(), found.whole, *inputs)
        return 0 * loss if share_of(batch).rank else loss  # all know it whole, as the weights need
