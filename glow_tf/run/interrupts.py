"""Ctrl-C and SIGTERM, and where Python drops them. Pure Python: no TensorFlow."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

AGAIN_AFTER = 0.05  # seconds; by then the destructor is over


@contextlib.contextmanager
def interrupts_of_run() -> Iterator[None]:
    """Within the context, Ctrl-C and SIGTERM, which job schedulers and containers send, do the same.

    Where TensorFlow calls Python, as for the length of a sequence, it turns every exception into an error of
    its own. One that comes of an interrupt leaves the context as KeyboardInterrupt.

    Python drops every exception within a destructor or a callback of a weak reference, KeyboardInterrupt too,
    and tells `sys.unraisablehook`. TensorFlow has many of them, so that now and then a Ctrl-C did nothing.
    Such a one comes again a moment later.
    """
    if threading.current_thread() is not (main_thread := threading.main_thread()):
        yield  # signals are the main thread's affair
        return
    handled = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # and not what its caller has set
        handled.append(signal.SIGINT)
    report, came = sys.unraisablehook, threading.Event()

    def arrive(*_: object) -> None:
        came.set()
        raise KeyboardInterrupt

    def hook(dropped: Any) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            # Which ends a wait of the main thread, too.
            threading.Timer(AGAIN_AFTER, signal.pthread_kill, [main_thread.ident, signal.SIGINT]).start()
        else:
            report(dropped)

    before = {which: signal.signal(which, arrive) for which in handled}
    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        if not came.is_set():
            raise
        raise KeyboardInterrupt from None
    finally:
        sys.unraisablehook = report
        for which, handler in before.items():
            signal.signal(which, handler)
