"""The ranking that a model's heads agree on, from how they ranked at several moments of its training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rankdistill.data.csr import CSR
from rankdistill.losses.distillation import Student
from rankdistill.ops import inner_product_rank, inner_product_topk
from rankdistill.ops.prepared_items import prepare_items
from rankdistill.rankings.ensemble import consensus_rankings

ROWS_AT_ONCE = 4096


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
        latest = self.head_tables(student, self.states[-1])
        lists = [self.by_blocks(users, self.best(items)) for users, items in latest]
        deviations = None
        if deviates:
            ranks = torch.stack(
                [
                    torch.stack(
                        [
                            self.by_blocks(users, self.ranks(items, listed))
                            for (users, items), listed in zip(self.head_tables(student, state), lists)
                        ]
                    )
                    for state in self.states[:-1]
                ]
            )  # [n_states, H, U, K]
            deviations = ranks.double().std(0, correction=0)
        found = consensus_rankings(torch.stack(lists), deviations, self.n_listed, *self.temperatures)
        self.consensus.copy_(found)

    def head_tables(self, student: Student, state: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both tables of every head, as they were."""
        then = copy.deepcopy(student)
        vector_to_parameters(state, then.parameters())
        return [tuple(then.head_vectors(head, side) for side in ("user", "item")) for head in then.heads]

    def by_blocks(self, users: Tensor, of_block) -> Tensor:
        blocks = torch.arange(len(users), device=users.device).split(ROWS_AT_ONCE)
        return torch.cat([of_block(users[b], b, self.train_items.rows(b).to(users.device)) for b in blocks])

    def best(self, items: Tensor):
        prepared = prepare_items(items)
        return lambda users, _, seen: inner_product_topk(users, prepared, self.n_listed, seen).indices

    def ranks(self, items: Tensor, listed: Tensor):
        return lambda users, at, seen: inner_product_rank(users, items, listed[at], seen)
