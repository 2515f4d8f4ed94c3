"""gathered_inner_product beyond its cases: ids out of range on a device that cannot raise, and long rows of one sign."""

from __future__ import annotations

import pytest
import torch

from rankdistill import gathered_inner_product
from rankdistill.reference.gathered_inner_product import (
    gathered_inner_product_backward,
    gathered_inner_product_forward,
)
from tests.case import DTYPES, randn


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows_of_one_sign_are_within_the_budget(dtype):
    """Roundings that all go one way add up with the number of additions in a row."""
    for width in (20, 64, 257, 1024):
        for value in (0.7, 0.3, 0.9, 0.11):
            users, items = (torch.full((1, width), part, dtype=dtype) for part in (value, 0.77 * value))
            score = gathered_inner_product(users, items, torch.tensor([[0]])).double()
            exact = (users.double() * items.double()).sum()
            size = users.double().norm() * items.double().norm()
            assert (score - exact).abs() <= (1e-14 if dtype == torch.float64 else 2e-6) * size, (width, value)
