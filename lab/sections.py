"""Files of sections that anybody may have written: studies. Pure Python: no TensorFlow."""

from __future__ import annotations

import configparser
import os
import re

from glow_tf.core.text_files import read_text


class Sections:
    """A file of sections, `[name]`, with lines `key = value`. Lines that start with # are comments.

    Args:
      path: of the file.

    Attributes:
      contents: section → key → value.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is another kind of file; the message names the line.
    """

    def __init__(self, path: str | os.PathLike):
        self._text = read_text(path)
        parser = configparser.ConfigParser(
            delimiters=("=",), comment_prefixes=("#",), interpolation=None, default_section=""
        )
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
