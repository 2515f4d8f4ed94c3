"""What methods check alike: their settings, and that an epoch has begun."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral, Real

import torch
from torch import Tensor

REDUCTIONS = ("sum", "mean")
# Of what is drawn for an epoch: with more rows, a batch's are drawn when it comes, the same ones.
ROWS_AT_HAND = 1 << 22


def fits_at_hand(n_rows: int) -> bool:
    return n_rows <= ROWS_AT_HAND


def expect_choice(method: str, setting: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{method}: expected {setting} as one of {', '.join(known)}; got {value!r}")


def expect_reduction(method: str, reduction: object) -> None:
    expect_choice(method, "reduction", reduction, REDUCTIONS)


def expect_options(op: str, what: str, options: Iterable[str], known: Iterable[str], whose: str = "") -> None:
    """Names of settings that there are; of another one the nearest is named."""
    known = list(known)
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, 1)
            hint = f". The nearest key is {close[0]}" if close else ""
            raise ValueError(f"{op}: expected {what} of {', '.join(known)}{whose}; got {option!r}{hint}")


def expect_whole(method: str, **settings: int) -> None:
    """Whole numbers by name, of Python or of NumPy."""
    for setting, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{method}: expected {setting} as a whole number; got {value!r}")


def expect_at_least(method: str, least: int, **settings: int) -> None:
    """Whole numbers by name, each `least` or more."""
    expect_whole(method, **settings)
    for setting, value in settings.items():
        if value < least:
            raise ValueError(f"{method}: expected {setting} of {least} or more; got {value}")


def expect_numbers(method: str, **settings: float) -> None:
    """Numbers by name, of Python or of NumPy."""
    for setting, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{method}: expected {setting} as a number; got {value!r}")


def expect_above_zero(method: str, **settings: float) -> None:
    """Numbers by name, each above 0."""
    expect_numbers(method, **settings)
    for setting, value in settings.items():
        if not value > 0:
            raise ValueError(f"{method}: expected {setting} above 0; got {value}")


def expect_share(method: str, **settings: float) -> None:
    """Shares by name, each in [0, 1)."""
    expect_numbers(method, **settings)
    for setting, value in settings.items():
        if not 0 <= value < 1:
            raise ValueError(f"{method}: expected {setting} in [0, 1); got {value}")


def expect_within(
    method: str, setting: str, value: float, least: float, most: float, whose: str = ""
) -> None:
    """`whose` says where `most` comes from, such as ", as rankings"."""
    expect_numbers(method, **{setting: value})
    if not least <= value <= most:
        raise ValueError(f"{method}: expected {setting} in [{least}, {most}]{whose}; got {value}")


def expect_sizes(method: str, what: str, found: tuple[int, int], wanted: tuple[int, int], whose: str) -> None:
    """`what` is of (users, items) as something else that the method has."""
    if tuple(found) != tuple(wanted):
        raise ValueError(
            f"{method}: expected {what} of {wanted[0]} users × {wanted[1]} items, as {whose}; got {found[0]} × {found[1]}"
        )


def expect_ids(method: str, side: str, ids: Tensor, count: int, whose: str) -> None:
    """Ascending ids, users or items by `side`, in [0, count) as `whose`."""
    if len(ids) and not 0 <= int(ids[0]) <= int(ids[-1]) < count:
        got = int(ids[0]) if int(ids[0]) < 0 else int(ids[-1])
        raise IndexError(f"{method}: expected {side}s in [0, {count}), as {whose}; got {got}")


def expect_rows(method: str, side: str, ids: Tensor, count: int) -> None:
    """`expect_ids` of what has rankings, where it costs no wait for a device and no break of a compiled graph."""
    if ids.device.type == "cpu" and not torch.compiler.is_compiling():
        expect_ids(method, side, ids, count, "rankings")


def expect_begun(method: str, drawn: object) -> None:
    """What `begin_epoch` makes is there."""
    if drawn is None:
        raise RuntimeError(f"{method}: expected begin_epoch before the first batch; got none")


def expect_vectors(method: str, student: object) -> None:
    """The student has a vector of every user and item."""
    if not hasattr(student, "item_vectors"):
        raise TypeError(
            f"{method}: expected a student with user_vectors and item_vectors; got {type(student).__name__}"
        )
