"""Whether something fits into memory, asked before it is made. Pure Python: no TensorFlow."""

import pathlib

from glow_tf.core.errors import ConfigError

GROUP = pathlib.Path("/sys/fs/cgroup")  # of this process, as a container sees it
AVAILABLE_FRACTION = 0.6  # of the free memory that one large object may take


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
