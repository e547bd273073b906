"""TensorFlow and Keras imported without what nobody needs of them. Pure Python until then."""

import contextlib
import faulthandler
import importlib.machinery
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator

# TensorFlow 2.17 and later write some lines before they read TF_CPP_MIN_LOG_LEVEL
# (https://github.com/tensorflow/tensorflow/issues/100442): information, and libraries that register twice.
NOTICE = re.compile(
    rb"I\d{4} |[\d-]{10} [\d:.]+: I |WARNING: All log messages before absl|.*Unable to register cu\w+ factory"
)


def hide_notices() -> None:
    """Lets the next import of TensorFlow write no notices, unless the user asks for all lines.

    The next import of Keras loads no matplotlib.
    """
    wanted = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0"
    for name, how in {"tensorflow": without_notices, "keras": without_matplotlib}.items():
        known = name in sys.modules or any(getattr(finder, "name", "") == name for finder in sys.meta_path)
        if not (known or (wanted and how is without_notices)):
            sys.meta_path.insert(0, _Finder(name, how))


class _Finder:
    """Finds a package once, and lets it be imported within a context."""

    def __init__(self, name: str, how: Callable[[], contextlib.ContextDecorator]):
        self.name, self._how = name, how

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        if (spec := importlib.util.find_spec(fullname)) is not None:
            spec.loader.exec_module = self._how()(spec.loader.exec_module)
        return spec


@contextlib.contextmanager
def without_matplotlib() -> Iterator[None]:
    """Within the context there is no matplotlib, unless it is loaded.

    Keras loads it for galleries of images, which no command draws, and that takes half a second.
    """
    hidden = sys.modules.setdefault("matplotlib", None) is None
    try:
        yield
    finally:
        if hidden:
            del sys.modules["matplotlib"]


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Within the context, what is written to the file of stderr waits; then all but notices is written."""
    own = os.dup(2)
    with tempfile.TemporaryFile() as waiting:
        os.dup2(waiting.fileno(), 2)
        faulthandler.enable(own)  # a crash has to be seen at once
        try:
            yield
        finally:
            os.dup2(own, 2)
            faulthandler.enable(2)
            os.close(own)
            waiting.seek(0)
            os.write(2, b"".join(line for line in waiting if not NOTICE.match(line)))
