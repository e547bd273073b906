"""How far long work is, on a terminal. Pure Python: no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def with_progress(items: Iterable[Any] | None, total: int, task: str) -> tqdm:
    """Returns the items, which show on a terminal how many of `total` are done, once a second has passed.

    Without items, what is returned is a bar to update.
    """
    return tqdm(items, task, total, leave=False, delay=1, disable=None)


def duration(seconds: float) -> str:
    """Returns seconds as minutes:seconds, with hours if there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
