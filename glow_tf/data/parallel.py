"""A function applied to many items by several threads."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from glow_tf.core.cores import usable_cores

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 16  # each may hold a whole decoded photograph


def in_parallel(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields `function(item)` for every item, in the order of the items; `usual_threads` call it.

    At most two results per thread wait to be taken, so that memory stays bounded.
    """
    threads = usual_threads()
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    waiting: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def usual_threads() -> int:
    """One for each core that this process may use, where the system tells; at most 16."""
    return min(usable_cores(), MAX_THREADS)
