"""Ctrl-C and SIGTERM, and where Python drops them. Pure Python: no TensorFlow."""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

AGAIN_AFTER = 0.05  # seconds; by then the destructor is over
ONCE = 1.0  # seconds; a terminal and the program that started this one may both send the same interrupt


def _interrupt_main_thread() -> None:
    """Sends Ctrl-C's signal to the main thread, which ends a wait of it too."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:  # Windows
        _thread.interrupt_main()


class Interrupts:
    """What Ctrl-C and SIGTERM do to a run: they end it at once or, while they are held, when it is ready.

    Held interrupts are for a run that makes steps: it ends the step, saves, and lets them go. Who interrupts
    again does not want to wait. `waiting`: one is held. `ending`: whatever is raised from now on comes from
    one.
    """

    def __init__(self):
        self.waiting = False
        self.ending = False
        self._holds = False
        self._came = 0.0

    def hold(self) -> None:
        """From now on an interrupt waits for `release`."""
        self._holds = True

    def release(self) -> None:
        """From now on an interrupt ends the run at once; raises KeyboardInterrupt if one has waited."""
        self._holds = False
        if self.waiting:
            self._end()

    def arrive(self, *_: object) -> None:
        """Handles the signal."""
        now = time.monotonic()
        if self._holds and not self.waiting:
            self.waiting, self._came = True, now
        elif not self._holds or now - self._came > ONCE:
            self._end()

    def _end(self) -> None:
        self.ending = True
        raise KeyboardInterrupt


@contextlib.contextmanager
def interrupts_of_run() -> Iterator[Interrupts]:
    """Within the context, Ctrl-C and SIGTERM, which job schedulers and containers send, do the same.

    Where TensorFlow calls Python, as for the length of a sequence, it turns every exception into an error of
    its own. One that comes of an interrupt leaves the context as KeyboardInterrupt.

    Python drops every exception within a destructor or a callback of a weak reference, KeyboardInterrupt too,
    and tells `sys.unraisablehook`. TensorFlow has many of them, so that now and then a Ctrl-C did nothing.
    Such a one comes again a moment later.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts  # signals are the main thread's affair
        return
    handled = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # and not what its caller has set
        handled.append(signal.SIGINT)
    report = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            threading.Timer(AGAIN_AFTER, _interrupt_main_thread).start()
        else:
            report(dropped)

    before = {which: signal.signal(which, interrupts.arrive) for which in handled}
    sys.unraisablehook = hook
    try:
        yield interrupts
    except Exception:
        if not interrupts.ending:
            raise
        raise KeyboardInterrupt from None
    finally:
        sys.unraisablehook = report
        for which, handler in before.items():
            signal.signal(which, handler)
