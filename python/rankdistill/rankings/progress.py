"""Progress as lines of the log, for where there is no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sized

logger = logging.getLogger("rankdistill")

SECONDS_BETWEEN_LINES = 30.0


def logged(label: str, every: float = SECONDS_BETWEEN_LINES) -> Callable[[Sized], Iterator]:
    """Wraps an iterable of known length: logs how much is done and the time left, at most once in `every` seconds."""

    def show(steps):
        started = told = time.monotonic()
        for done, step in enumerate(steps):
            now = time.monotonic()
            if done and now - told >= every:
                left = (now - started) / done * (len(steps) - done)
                logger.info("%s: %.0f %%, %s left", label, 100 * done / len(steps), duration(left))
                told = now
            yield step

    return show


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
