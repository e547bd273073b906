"""Reads arguments into flags; opens flagfiles by path or by name."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags

from glow_tf.commands import configs
from glow_tf.errors import ConfigError


def parse(values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Sets flags from arguments; later flags win.

    Args:
      values: the flags that are defined.
      arguments: `--name=value` each, or `--flagfile=FILE`.

    Raises:
      ConfigError: a flag is unknown or has a value that it cannot have, a flagfile cannot be read, or an
        argument is not a flag.
    """
    try:
        rest = values(["glow-tf", *with_flagfiles(arguments)])[1:]
    except (flags.Error, ValueError, OSError) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    if rest:
        raise ConfigError(f"flags are written --name=value. Received: {rest}")


def with_flagfiles(arguments: Sequence[str], included_by: tuple[pathlib.Path, ...] = ()) -> list[str]:
    """Returns arguments with every `--flagfile=FILE` replaced by the lines of the file.

    As in absl, lines are stripped, and lines that start with `#` or `//` are comments.

    Args:
      arguments: flags; everything after `--` stays as it is.
      included_by: the flagfiles that lead to these arguments, outermost first.

    Raises:
      ConfigError: there is no such file, or it includes itself.
      OSError: it cannot be read.
    """
    found: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        name, equals, value = argument.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            found.append(argument)
            if argument == "--":
                return found + remaining
            continue
        if not equals:
            value = remaining.pop(0) if remaining else ""
        path = configs.find("flagfile", value, included_by[-1] if included_by else None)
        if path.resolve() in included_by:
            raise ConfigError(f"a flagfile must not include itself. Received: flagfile={value!r}")
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        flag_lines = [line for line in lines if line and not line.startswith(("#", "//"))]
        found += with_flagfiles(flag_lines, (*included_by, path.resolve()))
    return found
