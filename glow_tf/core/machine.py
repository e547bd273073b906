"""What this machine has: cores, and free memory. Pure Python: no TensorFlow."""

from __future__ import annotations

import collections
import concurrent.futures
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from glow_tf.core.errors import ConfigError

GROUP = pathlib.Path("/sys/fs/cgroup")  # of this process, as a container sees it
AVAILABLE_FRACTION = 0.6  # of the free memory that one large object may take
T = TypeVar("T")
R = TypeVar("R")
MAX_THREADS = 16  # each may hold a whole decoded photograph
QUOTA = pathlib.Path("/sys/fs/cgroup/cpu.max")  # of this process, as a container sees it


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Raises ConfigError, with a remedy, unless `needed` bytes leave room in the free memory, if known."""
    if not fits(needed):
        raise ConfigError(
            f"{what} must fit in {AVAILABLE_FRACTION:.0%} of the free memory ({free_memory() / 2**30:.1f} "
            f"GiB); {remedy}. Received: {needed / 2**30:.1f} GiB"
        )


def fits(needed: int) -> bool:
    """Whether `needed` bytes leave room in the free memory, if that is known."""
    free = free_memory()
    return free is None or needed <= AVAILABLE_FRACTION * free


def free_memory() -> int | None:
    """Returns the bytes that this process may still take, in a container too; None where that is unknown."""
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return min(int(fields["MemAvailable"].split()[0]) * 1024, _left_in_group())


def _left_in_group() -> int:
    """Returns what the limit of this process's control group leaves; a huge number without a limit."""
    try:
        limit, used = ((GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        return int(limit) - int(used) + int(cached.get("inactive_file", 0))
    except (OSError, ValueError):  # no such files, or the limit is `max`
        return 2**62


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
