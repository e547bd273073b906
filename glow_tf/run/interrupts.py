"""Ctrl-C, SIGTERM and SIGHUP, and where Python drops them. Pure Python: no TensorFlow."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

AGAIN_AFTER = 0.05  # seconds; by then the destructor is over
ENDS = {  # signals that end a command, and what Python does at them if nobody has said otherwise
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
_came = threading.Event()  # one of them, within the context


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Within the context, which may lie within another, SIGTERM and SIGHUP do what Ctrl-C does.

    Job schedulers and containers send SIGTERM, a terminal that closes sends SIGHUP. What the caller of the
    process has set stays: `nohup` ignores SIGHUP.

    Where TensorFlow calls Python, as for the length of a sequence, it turns every exception into an error of
    its own. One that comes of an interrupt leaves the context as KeyboardInterrupt.

    Python drops every exception within a destructor or a callback of a weak reference, KeyboardInterrupt too,
    and tells `sys.unraisablehook`. TensorFlow has many of them, so that now and then a Ctrl-C did nothing.
    Such a one comes again a moment later.
    """
    if threading.current_thread() is not (main_thread := threading.main_thread()):
        yield  # signals are the main thread's affair
        return
    handled = [which for which, default in ENDS.items() if signal.getsignal(which) in (default, _arrive)]
    report, again = sys.unraisablehook, []

    def hook(dropped: Any) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            # Which ends a wait of the main thread, too.
            again.append(
                threading.Timer(AGAIN_AFTER, signal.pthread_kill, [main_thread.ident, signal.SIGINT])
            )
            again[-1].start()
        else:
            report(dropped)

    _came.clear()
    before = {which: signal.signal(which, _arrive) for which in handled}
    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        if not _came.is_set():
            raise
        raise KeyboardInterrupt from None
    finally:
        for timer in again:  # another exception has ended the context already
            timer.cancel()
        sys.unraisablehook = report
        for which, handler in before.items():
            signal.signal(which, handler)


def _arrive(*_: object) -> None:
    _came.set()
    raise KeyboardInterrupt
