"""gathered_inner_product's definition on a device that cannot raise: an id out of range makes its row NaN, no more."""

from __future__ import annotations

import torch

from rankdistill.reference.gathered_inner_product import (
    gathered_inner_product_backward,
    gathered_inner_product_forward,
)
from tests.case import randn


def test_an_id_out_of_range_is_never_read():
    users, items = randn(3, 4, seed=1), randn(5, 4, seed=2)
    ids = torch.tensor([[0, 4], [1, 5], [2, -2], [3, -1], [0, 1]])
    user_ids = torch.tensor([0, 1, 1, 2, 3])
    scores = gathered_inner_product_forward(users, user_ids, items, ids)
    assert scores.isnan().tolist() == [[False] * 2, [True] * 2, [True] * 2, [False] * 2, [True] * 2]
    assert scores[3, 1] == -torch.inf
    grad_users, grad_items, _ = gathered_inner_product_backward(torch.ones(5, 2), users, user_ids, items, ids)
    assert grad_users.isnan().all(1).tolist() == [False, True, False]
    torch.testing.assert_close(grad_users[0], items[0] + items[4])
    assert grad_items.isfinite().all()
    torch.testing.assert_close(grad_items[0], users[0])
    assert (grad_items[1] == 0).all()
