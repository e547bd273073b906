"""Says so when a run of several processes has stood still for long. Pure Python: no TensorFlow.

A process of its own watches: TensorFlow may wait for another process in a call during which no other Python
thread of this one runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time

from glow_tf.devices import liveness
from glow_tf.devices.processes import ProcessGroup

PATIENCE = 30.0  # seconds


class Stall:
    """Watches over a context, and prints for whom this process waits when nothing has happened for long.

    Long means `PATIENCE` seconds, or three times the longest wait so far (for a first step, which is traced,
    or for an evaluation) if that is more. The message comes again each time this long has passed; it has two
    places, for the seconds, and for what is known of the other processes.
    """

    def __init__(self, group: ProcessGroup, message: str):
        group_told = [group.job, group.addresses, group.index]
        self._told = {"group": group_told, "message": message, "patience": PATIENCE}
        self._watch: subprocess.Popen | None = None

    def __enter__(self) -> Stall:
        """Starts to watch."""
        command = [sys.executable, "-m", "glow_tf.devices.stall", json.dumps(self._told)]
        # A watch that cannot start, or is gone, must not end the run. Windows has no such pipes.
        with contextlib.suppress(OSError, AttributeError):
            self._watch = subprocess.Popen(command, stdin=subprocess.PIPE)
            os.set_blocking(self._watch.stdin.fileno(), False)
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the watch."""
        if self._watch is not None:
            self._watch.stdin.close()
            self._watch.kill()
            self._watch.wait()

    def happened(self) -> None:
        """Notes that what is waited for has happened."""
        if self._watch is not None:
            with contextlib.suppress(OSError):
                os.write(self._watch.stdin.fileno(), b".")


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


def main() -> None:
    """Watches as the first argument says."""
    told = json.loads(sys.argv[1])
    job, addresses, index = told["group"]
    with contextlib.suppress(KeyboardInterrupt):  # it is meant for the run, which says what is kept
        watch(
            ProcessGroup(job, tuple(addresses), index), told["message"], told["patience"], sys.stdin.fileno()
        )


if __name__ == "__main__":
    main()
