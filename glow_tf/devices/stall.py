"""Says so when a run of several processes has stood still, and ends it. Pure Python: no TensorFlow.

A process of its own watches: TensorFlow may wait for another process in a call during which no other Python
thread of this one runs.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from glow_tf.devices import liveness
from glow_tf.devices.processes import ProcessGroup, lost_message

PATIENCE = 30.0  # seconds
ENDS_ITS_RUN = getattr(signal, "SIGUSR2", signal.SIGTERM)  # no Python is needed for it to end a process


@contextlib.contextmanager
def stall_watch(
    group: ProcessGroup | None,
    message: str = "No step has ended for {} s: waits for {}",
    connected: bool = True,
) -> Iterator[Callable[[], None]]:
    """Watches over the context: prints for whom this process waits, and ends it if another one is silent.

    It prints when nothing has happened for long: `PATIENCE` seconds, or three times the longest wait so far
    (for a first step, which is traced, or for an evaluation) if that is more. The message comes again each
    time this long has passed; it has two places, for the seconds, and for what is known of the other
    processes. Yields what notes that what is waited for has happened. In a single process nothing is watched.

    If another process stands still (see `liveness.first_lost`), this one is ended, after the sentence that
    an error would have: no exception reaches a call that waits. Nothing is half-written, as every write is
    whole or not at all.
    """
    process = None
    # A watch that cannot start, or is gone, must not end the run. Windows has no such pipes.
    with contextlib.suppress(OSError, AttributeError):
        if group is not None:
            known = [group.job, group.addresses, group.index]
            told = json.dumps([known, message, PATIENCE, connected, liveness.SILENCE])
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


def end_without_others(group: ProcessGroup, process: int, connected: bool, silence: float) -> None:
    """Ends a process of the group when another one stands still."""
    _, still = liveness.first_lost(group, threading.Event(), connected, silence)
    if still:
        print(f"Error: {lost_message(group.names(still))}", file=sys.stderr, flush=True)
        os.kill(process, ENDS_ITS_RUN)


if __name__ == "__main__":
    (job, addresses, index), told, patience, *others = json.loads(sys.argv[1])
    watched = ProcessGroup(job, tuple(addresses), index)
    threading.Thread(target=end_without_others, args=(watched, os.getppid(), *others), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # it is meant for the run, which says what is kept
        watch(watched, told, patience, sys.stdin.fileno())
