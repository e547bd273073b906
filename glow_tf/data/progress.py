"""A line on the terminal that says what takes long, and how far it is."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

SHOWN_AFTER = 1.0  # seconds
REDRAWN_AFTER = 0.2  # seconds
LOGGED_AFTER = 10.0  # seconds


def duration(seconds: float) -> str:
    """Returns seconds as minutes:seconds, with hours if there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class _Line:
    """A line on the terminal that is drawn over itself."""

    def __init__(self):
        self._lock = threading.Lock()
        self._width = 0

    def draw(self, text: str, only_if_empty: bool = False) -> None:
        """Shows a text in place of the one before, as much of it as fits."""
        with self._lock:
            if only_if_empty and self._width:
                return
            encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
            text = text.encode(encoding, "replace").decode(encoding)[: shutil.get_terminal_size().columns - 1]
            print(f"\r{text:<{self._width}}", end="", flush=True)
            self._width = max(self._width, len(text))

    def clear(self) -> None:
        """Takes the text away."""
        if self._width:
            self.draw("")
            print("\r", end="", flush=True)


@contextlib.contextmanager
def notice(task: str, in_log: bool = False) -> Iterator[_Line]:
    """Within the context, says on a terminal what is done, if that takes more than a second.

    The task is such as `Loading the model`. With `in_log`, outputs that are no terminal get a line, too.
    """
    line = _Line()
    timer = threading.Timer(SHOWN_AFTER, line.draw, [f"{task} …", True])
    if in_log and not sys.stdout.isatty():
        timer = threading.Timer(SHOWN_AFTER, print, [f"{task} …"], {"flush": True})
    timer.daemon = True
    if in_log or sys.stdout.isatty():
        timer.start()
    try:
        yield line
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        line.clear()


def with_progress(
    items: Iterable[T], total: int, task: str, in_log: bool = False
) -> Generator[T, None, None]:
    """Yields the items, and shows on a terminal how many of `total` are done and how long the rest will take.

    Until one is done it shows the task alone, such as `Reading images`. Nothing is shown before a second has
    passed, nor where the output is no terminal; with `in_log`, such an output gets a line every ten seconds.
    """
    shown = sys.stdout.isatty()
    if not (shown or in_log):
        yield from items
        return
    start = time.perf_counter()
    every = REDRAWN_AFTER if shown else LOGGED_AFTER
    drawn_at = start + (SHOWN_AFTER - every if shown else 0)
    with notice(task) as line:
        for done, item in enumerate(items, start=1):
            yield item
            now = time.perf_counter()
            if done == 1:
                first = now  # it may take longer than others: TensorFlow traces then
            if now - drawn_at >= every:
                each = (now - first) / (done - 1) if done > 1 else now - start
                text = f"{task}: {done} of {total} · {duration(each * (total - done))} left"
                line.draw(text) if shown else print(text, flush=True)
                drawn_at = now
