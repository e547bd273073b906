"""A line on the terminal that says how far a long task is."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

SHOWN_AFTER = 1.0  # seconds
REDRAWN_AFTER = 0.2  # seconds


def with_progress(items: Iterable[T], total: int, task: str) -> Generator[T, None, None]:
    """Yields the items, and shows on a terminal how many are done and how long the rest will take.

    Nothing is shown where the output is no terminal, or before a second has passed.

    Args:
      items: what to yield.
      total: number of items.
      task: what is done to them, such as `Reading images`.
    """
    if not sys.stdout.isatty():
        yield from items
        return
    start = time.perf_counter()
    drawn_at, width = start + SHOWN_AFTER - REDRAWN_AFTER, 0
    try:
        for done, item in enumerate(items, start=1):
            yield item
            now = time.perf_counter()
            if now - drawn_at >= REDRAWN_AFTER:
                left = (now - start) / done * (total - done)
                line = f"{task}: {done} of {total} · {left // 60:.0f}:{left % 60:02.0f} left"
                print(f"\r{line:<{width}}", end="", flush=True)
                drawn_at, width = now, max(width, len(line))
    finally:
        if width:
            print(f"\r{'':<{width}}\r", end="", flush=True)
