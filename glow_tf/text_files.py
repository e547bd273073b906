"""Text, JSON and sections from files that anybody may have written. Pure Python: no TensorFlow."""

from __future__ import annotations

import configparser
import json
import os
import re
from typing import Any

MOST_BYTES = 2**28  # a larger file is none of ours


def read_text(path: str | os.PathLike) -> str:
    """Returns the text of a file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is too large, or is not UTF-8; the message names the line.
    """
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")  # with or without the mark that some editors begin with
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8 text (byte {content[error.start]:#04x})") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | os.PathLike) -> Any:
    """Returns what a JSON file holds.

    Raises:
      OSError: it cannot be read.
      ValueError: it is not JSON; the message names the line.
    """
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """Returns what a JSON text says; ValueError, with the line, if it says nothing."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class Sections:
    """A file of sections, `[name]`, with lines `key = value`. Lines that start with # are comments.

    Args:
      path: of the file.
      lowercase: whether keys are the same in capitals.

    Attributes:
      contents: section → key → value.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is another kind of file; the message names the line.
    """

    def __init__(self, path: str | os.PathLike, lowercase: bool = False):
        self._text = read_text(path)
        parser = configparser.ConfigParser(
            delimiters=("=",), comment_prefixes=("#",), interpolation=None, default_section=""
        )
        if not lowercase:
            parser.optionxform = str
        try:
            parser.read_string(self._text, source=str(path))
        except configparser.Error as error:
            raise ValueError(" ".join(str(error).split())) from None
        self.contents = {name: dict(parser[name]) for name in parser.sections()}

    def line_of(self, section: str, key: str = "") -> int:
        """Returns the number of a key's line, or else that of its section; 0 without both."""
        found = current = 0
        for number, line in enumerate(self._text.splitlines(), start=1):
            if header := re.match(r"\[(.+)\]", line):
                current = header[1] == section
                found = number if current else found
            elif current and key and line.partition("=")[0].strip().lower() == key.lower():
                return number
        return found
