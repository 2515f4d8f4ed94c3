"""The ranking that a model's heads agree on, from how they ranked at several moments of its training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rankdistill.data.csr import CSR
from rankdistill.losses.distillation import Student
from rankdistill.losses.settings import expect_above_zero
from rankdistill.ops import inner_product_rank, inner_product_topk
from rankdistill.ops.prepared_items import prepare_items
from rankdistill.rankings.ensemble import consensus_rankings

ROWS_AT_ONCE = 1024


class ConsensusQueue(nn.Module):
    """The last few states of a model, from which ranks of any items can be had again, and each user's consensus.

    Args:
        train: items that are not ranked.
        n_listed: K, items of a head's list and of the consensus.
        n_states: over how many a rank's deviation is taken.
        temperature, deviation_temperature: of `consensus_rankings`.
        released: the consensus is of the states before the last, its first one without deviations, and the deviations
            are those of states 1 to n_states ever after; else all of it is of the last states.
    """

    def __init__(
        self,
        train: CSR,
        n_listed: int,
        n_states: int,
        temperature: float,
        deviation_temperature: float,
        released: bool,
    ) -> None:
        super().__init__()
        self.train_items, self.n_listed, self.n_states = train, n_listed, n_states
        expect_above_zero(
            "ConsensusLearning", position_temperature=temperature, deviation_temperature=deviation_temperature
        )
        self.temperatures, self.released = (temperature, deviation_temperature), released
        self.register_buffer("count", torch.tensor(0))  # states that have been added
        # [n_states + 1, parameters] once there is one: the queue, and the latest
        self.register_buffer("states", torch.zeros(0, 0))
        self.register_buffer("consensus", torch.full((train.n_rows, n_listed), -1, dtype=torch.int32))

    def _load_from_state_dict(self, state_dict, prefix, *others) -> None:
        found = state_dict.get(f"{prefix}states")
        if found is not None:
            self.states = self.states.new_empty(found.shape, dtype=found.dtype)
        super()._load_from_state_dict(state_dict, prefix, *others)

    @torch.no_grad()
    def add(self, student: Student) -> None:
        """Adds the student as it is; once there are enough states, makes the consensus anew."""
        now, count = parameters_to_vector(student.parameters()), int(self.count)
        if not len(self.states):
            self.states = now.new_zeros(self.n_states + 1, len(now))
        if self.released and count >= self.n_states:
            self.make(student, deviates=count > self.n_states)
        if not self.released or count <= self.n_states:
            self.states[count % self.n_states] = now
        self.states[-1] = now
        self.count += 1
        if not self.released and count >= self.n_states:
            self.make(student, deviates=True)

    def make(self, student: Student, deviates: bool) -> None:
        latest = self.as_in(self.states[-1], student)
        before = [self.as_in(state, student) for state in self.states[:-1]] if deviates else []
        lists, deviations = [], []
        for head in latest.heads:
            listed = self.by_blocks(self.best(latest, head))
            lists.append(listed)
            ranks = [self.by_blocks(self.ranks(model, head, listed)).int() for model in before]
            deviations += [torch.stack(ranks).double().std(0, correction=0)] if deviates else []
        lists, spread = torch.stack(lists), torch.stack(deviations) if deviates else None
        for block in torch.arange(self.train_items.n_rows).split(ROWS_AT_ONCE):
            rows = slice(int(block[0]), int(block[-1]) + 1)
            of_block = lists[:, rows], None if spread is None else spread[:, rows]
            self.consensus[rows] = consensus_rankings(*of_block, self.n_listed, *self.temperatures).int()

    def as_in(self, state: Tensor, student: Student) -> Student:
        """The student as it was."""
        then = copy.deepcopy(student)
        vector_to_parameters(state, then.parameters())
        return then

    def by_blocks(self, of_users) -> Tensor:
        """[U, ...] of a function of users [B] and their train items."""
        blocks = torch.arange(self.train_items.n_rows, device=self.states.device).split(ROWS_AT_ONCE)
        rows = (self.train_items.rows(block.cpu()).to(block.device) for block in blocks)
        return torch.cat([of_users(block, seen) for block, seen in zip(blocks, rows)])

    def best(self, model: Student, head: str):
        users, items = model.head_vectors(head, "user"), prepare_items(model.head_vectors(head, "item"))
        return lambda block, seen: inner_product_topk(users[block], items, self.n_listed, seen).indices

    def ranks(self, model: Student, head: str, listed: Tensor):
        users, items = (model.head_vectors(head, side) for side in ("user", "item"))
        return lambda block, seen: inner_product_rank(users[block], items, listed[block], seen)
