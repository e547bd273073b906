"""Says so when a run of several processes has stood still for long. Pure Python: no TensorFlow.

A process of its own watches: TensorFlow may wait for another process in a call during which no other Python
thread of this one runs.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from glow_tf.devices import liveness
from glow_tf.devices.processes import ProcessGroup

PATIENCE = 30.0  # seconds


@contextlib.contextmanager
def stall_watch(
    group: ProcessGroup | None, message: str = "No step has ended for {} s: waits for {}"
) -> Iterator[Callable[[], None]]:
    """Watches over the context, and prints for whom this process waits when nothing has happened for long.

    Long means `PATIENCE` seconds, or three times the longest wait so far (for a first step, which is traced,
    or for an evaluation) if that is more. The message comes again each time this long has passed; it has two
    places, for the seconds, and for what is known of the other processes. Yields what notes that what is
    waited for has happened. In a single process nothing is watched.
    """
    process = None
    # A watch that cannot start, or is gone, must not end the run. Windows has no such pipes.
    with contextlib.suppress(OSError, AttributeError):
        if group is not None:
            told = json.dumps([[group.job, group.addresses, group.index], message, PATIENCE])
            command = [sys.executable, "-m", "glow_tf.devices.stall", told]
            process = subprocess.Popen(command, stdin=subprocess.PIPE)
            os.set_blocking(process.stdin.fileno(), False)

    def happened() -> None:
        if process is not None:
            with contextlib.suppress(OSError):
                os.write(process.stdin.fileno(), b".")

    try:
        yield happened
    finally:
        if process is not None:
            process.stdin.close()
            process.kill()
            process.wait()


def watch(group: ProcessGroup, message: str, patience: float, events: int) -> None:
    """Prints when nothing was read from `events`, a file descriptor, for long; ends when it is closed."""
    last, longest, said = time.monotonic(), 0.0, 0.0
    while True:
        due = max(last, said) + max(patience, 3 * longest)
        readable, _, _ = select.select([events], [], [], max(due - time.monotonic(), 0))
        now = time.monotonic()
        if not readable:
            said = now
            print(message.format(f"{now - last:.0f}", liveness.described(group)), flush=True)
        elif not os.read(events, 4096):
            return
        else:
            longest, last = max(longest, now - last), now


if __name__ == "__main__":
    (job, addresses, index), told, patience = json.loads(sys.argv[1])
    with contextlib.suppress(KeyboardInterrupt):  # it is meant for the run, which says what is kept
        watch(ProcessGroup(job, tuple(addresses), index), told, patience, sys.stdin.fileno())
