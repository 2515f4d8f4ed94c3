"""Hierarchical topology distillation as a module: relations within groups of entities, and of groups to entities."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill import functional
from rankdistill.experts import SelectedExperts
from rankdistill.losses.annealed_experts import AnnealedExperts
from rankdistill.losses.batch import Batch, counted_once, share_of
from rankdistill.losses.distillation import Student
from rankdistill.losses.settings import expect_at_least, expect_choice, expect_within

# positive_only, leave_out_own, detach_means of `functional.hierarchical_topology_distillation`
FORMS = {"released": (True, False, True), "masked": (True, True, True), "paper": (False, True, False)}


class HierarchicalTopologyDistillation(AnnealedExperts):
    """Hierarchical topology distillation (HTD): topology in two levels, with groups that are learned along.

    A selector assigns each entity to the group of its largest logit (users and items to different ones). A batch's loss
    is γ times `functional.hierarchical_topology_distillation` of its unique users and items with these groups, plus
    1 − γ times the group assignment loss, which trains the selectors: that of distillation experts, with one expert per
    group, users and items with weight 1.

    Args:
        teacher_users, teacher_items: [U, D_t], [N, D_t] float, frozen.
        student_width: D_s.
        n_groups: K, of users and of items.
        gamma: γ, the topology's share, in [0, 1].
        group_term: "entities" (the paper's Group(P, e)) or "groups" (Group(P, P)).
        form: "released" (pairs of positive cosine within groups; groups to all entities; constant group means),
            "masked" (the same, but no group to its own entities) or "paper" (all pairs within groups, no group to its
            own entities, gradients through group means).
        n_epochs: over which the temperature falls from `start` to `end`; the released code sets epochs 0 and 1 alike.
        start, end: temperatures, dimensionless, > 0.
        seed: of initial values and noise.

    Raises:
        TypeError, ValueError: settings out of range; tables that do not fit each other, or the student.
        IndexError: ids that the teacher's tables have no row for. RuntimeError: a batch before `begin_epoch`.

    Cost:
        A batch: O((Σ_g n_g² + n·K)·(D_s + D_t)) time for its n unique users and items in groups of n_g, nothing of n²; besides that of
        distillation experts, K of them a side.

    Forms:
        The released code leaves out pairs of negative teacher cosine, by a mask made with `> 0`; compares a group with its own
        members too, the paper's mask being commented out; and makes group means without gradients, so that Group(P, P) is a
        constant. Its assignment loss has no half weight for items. It cannot run in float64; this can. Groups are those of the
        largest logit in all forms, as released; the paper writes them as Gumbel-softmax draws.

    Source:
        Kang et al., Topology Distillation for Recommender System, KDD 2021, section 3.3. Published weight: 1e-3,
        summed over a batch of 1024.

    Example:
        >>> teacher, student = MatrixFactorization(3, 5, width=8), MatrixFactorization(3, 5, width=2)
        >>> method = HierarchicalTopologyDistillation(teacher.user_vectors(), teacher.item_vectors(), 2, n_groups=3)
        >>> method.begin_epoch(0)
        >>> loss = method(student, Batch(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.tensor([0, 0])))
    """

    divides = "gradients"
    default_weight = 1e-3

    def __init__(
        self,
        teacher_users: Tensor,
        teacher_items: Tensor,
        student_width: int,
        n_groups: int = 30,
        gamma: float = 0.5,
        group_term: str = "entities",
        form: str = "released",
        n_epochs: int = 100,
        start: float = 1.0,
        end: float = 1e-10,
        seed: int = 0,
    ) -> None:
        expect_at_least(type(self).__name__, 1, n_groups=n_groups)
        schedule = (n_epochs, start, end)
        super().__init__(teacher_users, teacher_items, student_width, n_groups, schedule, seed, between=True)
        name = type(self).__name__
        expect_choice(name, "form", form, FORMS)
        expect_choice(name, "group_term", group_term, ("entities", "groups"))
        expect_within(name, "gamma", gamma, 0, 1)
        self.form, self.group_term, self.gamma, self.n_groups = form, group_term, gamma, n_groups

    def forward(self, student: Student, batch: Batch) -> Tensor:
        groups, assignment = [], 0.0
        sides = self.together(student, batch)
        for offset, rows in zip((0, self.n_groups), sides):
            selected: SelectedExperts = getattr(self, rows.side)
            logits = selected.logits(rows.teacher)
            groups.append(logits.detach().argmax(1) + offset)
            own = share_of(batch).of(len(rows.ids))
            noise = self.noise(rows.side, rows.ids[own])
            routing = functional.expert_routing(logits[own], noise, self.temperature)
            assignment = assignment + functional.distillation_experts(
                rows.teacher[own], rows.student[own], routing, selected.experts.parts()
            )
        self._step += 1
        teacher = torch.cat([rows.teacher for rows in sides])
        vectors = torch.cat([rows.student for rows in sides])
        topology = functional.hierarchical_topology_distillation(
            teacher, vectors, torch.cat(groups), self.group_term, *FORMS[self.form]
        )
        topology = counted_once(batch, topology)
        return self.gamma * topology + (1 - self.gamma) * assignment
