"""Relaxed ranking distillation as a module: the loss and its two samplers."""

from __future__ import annotations

from rankdistill.losses.drawn_lists import DrawnLists


class RelaxedRankingDistillation(DrawnLists):
    """Relaxed ranking distillation (RRD): the top of a teacher's ranking in order, above everything else.

    Once per epoch and user it draws K positions of the teacher's list, the better the likelier, and L items
    that are neither train items nor on the list; a batch's loss is `functional.relaxed_ranking_distillation`
    of the student's scores of them, over the batch's unique users.

    Args:
        rankings: the teacher's lists, train items excluded, for every user (the released code keeps 500 items).
        exclude: every user's train items: what is never drawn as uninteresting.
        n_interesting: K, positions drawn.
        n_uninteresting: L, items drawn; None for the whole rest of the catalogue, exactly, by students whose scores are
            inner products.
        temperature: of the position weights exp(−(position + 1)/temperature), dimensionless, > 0.
        reduction: "sum" (the paper's, to which published weights belong) or "mean" over users.
        seed: of the draws.

    Raises:
        TypeError, ValueError: settings out of range; rankings and train items of different catalogues or users; above the whole rest
            a student whose scores are no inner products.
        IndexError: users that rankings have no row for (on a CPU). RuntimeError: a batch before `begin_epoch`.

    Cost:
        An epoch's draw: O(U·(list length + L·log)) time, 4·U·(K + L) bytes. A batch: K + L scores per unique user.
        With the whole catalogue O(B·N·D) time for B unique users, no [B, N].

    Forms:
        The paper's second sum begins at j = K, which counts an item twice; the released code, and this, sum the L
        uninteresting items alone. The released code exponentiates raw scores (inf above 88); its later copies clip them at
        80, or at 10 with 1e-8 within the logarithm, which nothing here needs. Its authors found later that the top of the
        list alone, undrawn, does as well: a low temperature is nearly that.

    Source:
        Kang et al., DE-RRD: A Knowledge Distillation Framework for Recommender System, CIKM 2020, section 4.2.
        Published weight: 1e-3 with a BPR student, 1e-1 with NeuMF, summed over a batch of 1024.

    Example:
        >>> from rankdistill.data import CSR
        >>> train = CSR.from_pairs(torch.tensor([0, 1]), torch.tensor([3, 0]), n_rows=2, n_columns=5)
        >>> rankings = Rankings.from_scores(torch.rand(2, 5), k=2, exclude=train)
        >>> method = RelaxedRankingDistillation(rankings, exclude=train)
        >>> method.begin_epoch(0)
        >>> loss = 1e-3 * method(MatrixFactorization(2, 5, width=4), torch.tensor([0, 1]))
    """
