"""JSON, and text from files that anybody may have written. Pure Python: no TensorFlow."""

import errno
import json
import math
import os
from typing import Any

from glow_tf.core.errors import ConfigError

MOST_BYTES = 2**28  # no file of ours is larger


def check_path(name: str, path: str | os.PathLike) -> None:
    """Raises ConfigError if a path is longer than the system takes, whose own error is a number."""
    try:
        os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte, which no file has
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            raise ConfigError(
                f"{name} must be a path of names of at most 255 bytes, 4,095 in all. "
                f"Received: {name}={os.fspath(path)!r:.100}…"
            ) from None


def read_text(path: str | os.PathLike, most_bytes: int = MOST_BYTES) -> str:
    """Returns the text of a file; ValueError if it is too large, or is not UTF-8 in some line."""
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")  # with or without the mark that some editors begin with
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8 text (byte {content[error.start]:#04x})") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | os.PathLike, most_bytes: int = MOST_BYTES) -> Any:
    """Returns what a JSON file holds; ValueError, with the line, if it is not JSON."""
    return parse_json(read_text(path, most_bytes))


def parse_json(text: str, **how: Any) -> Any:
    """Returns what a JSON text says, as `json.loads`; ValueError, with the line, if it says nothing."""
    try:
        return json.loads(text, **how)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def json_text(content: Any) -> str:
    """Returns the text of a JSON file; it has null for numbers that are not finite, which JSON lacks.

    Numbers of NumPy are written as Python's.
    """
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def _plain(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {name: _plain(value) for name, value in entry.items()}
    if isinstance(entry, list | tuple):
        return [_plain(value) for value in entry]
    if hasattr(entry, "item"):
        entry = entry.item()
    return None if isinstance(entry, float) and not math.isfinite(entry) else entry
