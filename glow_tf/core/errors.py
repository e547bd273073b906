"""The errors that users meet."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

LONGEST = 3000  # letters of a message, which may repeat what a file says


def printable(text: str) -> str:
    """Returns a text with escapes for signs that could steer a terminal, as a file's name may have them."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, no text, ends of lines and paragraphs
    return "".join(
        sign.encode("unicode_escape").decode()
        if sign not in "\n\t" and unicodedata.category(sign) in hidden
        else sign
        for sign in text
    )


def in_one_line(message: str) -> str:
    """Returns the beginning of another library's message, which may have many lines, in one."""
    return " ".join(message.split())[:200]


def reason_of(error: Any) -> str:
    """Returns in one line why a file could not be written, of an OSError or an OpError of TensorFlow."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # TensorFlow adds the names of the operation's device and kernel.
    line = error.message.splitlines()[0]
    return re.sub(r"^(\{\{.*?\}\} ?)*|(,? name: \S*)?( \[Op:\w+\])?$", "", line)


class ConfigError(ValueError):
    """A setting is wrong; the message says what was expected and what was received."""

    def __init__(self, message: str = ""):
        super().__init__(printable(message)[:LONGEST])


class DivergedError(RuntimeError):
    """Training diverged; the message names the part, the step and the learning rate."""
