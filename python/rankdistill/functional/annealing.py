"""Schedules of temperatures."""

from __future__ import annotations


def annealed_temperature(epoch: float, n_epochs: int, start: float = 1.0, end: float = 1e-10) -> float:
    """A temperature that falls geometrically from `start` to `end` over n_epochs, and stays there.

    T(epoch) = start · (end / start)^(epoch / n_epochs)

    The released code of distillation experts applies it after each epoch, so its epochs 0 and 1 both run at `start`:
    its temperature in epoch e is T(max(e − 1, 0)).

    Args:
        epoch: 0 or later.
        n_epochs: > 0.
        start, end: dimensionless, > 0.

    Returns:
        A float.

    Raises:
        ValueError: n_epochs below 1, temperatures not above 0.

    Cost:
        O(1).

    Source:
        Kang et al., DE-RRD, CIKM 2020, section 4.1.3.

    Example:
        >>> annealed_temperature(5, n_epochs=10, start=1.0, end=1e-4)
        0.01
    """
    if n_epochs < 1 or not start > 0 or not end > 0:
        raise ValueError(
            "annealed_temperature: expected n_epochs of 1 or more and temperatures above 0; "
            f"got {n_epochs}, {start} and {end}"
        )
    return start * (end / start) ** (min(epoch, n_epochs) / n_epochs)
