"""How many cores this process may use, and work that is spread over them. Pure Python: no TensorFlow."""

from __future__ import annotations

import collections
import concurrent.futures
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 16  # each may hold a whole decoded photograph
QUOTA = pathlib.Path("/sys/fs/cgroup/cpu.max")  # of this process, as a container sees it


def usable_cores() -> int:
    """Returns the cores that this process may use, at least 1; a container may have a share of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, QUOTA.read_text().split())
    except (OSError, ValueError):  # no such file, or the quota is `max`
        return cores
    return max(min(cores, math.ceil(quota / period)), 1)


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
