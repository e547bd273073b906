"""Ctrl-C and SIGTERM, and where Python drops them. Pure Python: no TensorFlow."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

AGAIN_AFTER = 0.05  # seconds; by then the destructor is over


def _interrupt_main_thread() -> None:
    """Sends Ctrl-C's signal to the main thread, which ends a wait of it too."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@contextlib.contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """Within the context, SIGTERM does what Ctrl-C does; job schedulers and containers send it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's affair
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def dropped_interrupts_come_again() -> Iterator[None]:
    """Within the context, a Ctrl-C that Python drops comes again a moment later.

    Python drops every exception within a destructor or a callback of a weak reference, KeyboardInterrupt too,
    and tells `sys.unraisablehook`. TensorFlow has many of them, so that now and then a Ctrl-C did nothing.
    """
    report = sys.unraisablehook

    def hook(dropped: Any) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            threading.Timer(AGAIN_AFTER, _interrupt_main_thread).start()
        else:
            report(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = report
