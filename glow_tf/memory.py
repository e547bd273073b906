"""Whether something fits into memory, asked before it is made. Pure Python: no TensorFlow."""

from __future__ import annotations

import pathlib

from glow_tf.errors import ConfigError

AVAILABLE_FRACTION = 0.6  # of the free memory that one large object may take


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Raises ConfigError unless an object leaves room in the free memory (where that is known).

    Args:
      needed: its size in bytes.
      what: names it in the message.
      remedy: what the user can do.
    """
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    if needed > AVAILABLE_FRACTION * free:
        raise ConfigError(
            f"{what} must fit in {AVAILABLE_FRACTION:.0%} of the free memory ({free / 2**30:.1f} GiB); "
            f"{remedy}. Received: {needed / 2**30:.1f} GiB"
        )
