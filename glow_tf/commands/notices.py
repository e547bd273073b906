"""TensorFlow imported without what it writes while it starts. Pure Python until then."""

import contextlib
import faulthandler
import importlib.machinery
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# TensorFlow 2.17 and later write some lines before they read TF_CPP_MIN_LOG_LEVEL
# (https://github.com/tensorflow/tensorflow/issues/100442): information, and libraries that register twice.
NOTICE = re.compile(
    rb"I\d{4} |[\d-]{10} [\d:.]+: I |WARNING: All log messages before absl|.*Unable to register cu\w+ factory"
)


def hide_notices() -> None:
    """Lets the next import of TensorFlow write no notices, unless the user asks for all lines."""
    wanted = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0"
    if not (wanted or "tensorflow" in sys.modules or any(isinstance(f, _Finder) for f in sys.meta_path)):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds TensorFlow once, and lets it be imported within `without_notices`."""

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        if (spec := importlib.util.find_spec(fullname)) is not None:
            spec.loader.exec_module = without_notices()(spec.loader.exec_module)
        return spec


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
