"""How many cores this process may use. Pure Python: no TensorFlow."""

import math
import os
import pathlib

QUOTA = pathlib.Path("/sys/fs/cgroup/cpu.max")  # of this process, as a container sees it


def usable_cores() -> int:
    """Returns the cores that this process may use, at least 1; a container may have a share of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, QUOTA.read_text().split())
    except (OSError, ValueError):  # no such file, or the quota is `max`
        return cores
    return max(min(cores, math.ceil(quota / period)), 1)
