"""Reads arguments into flags; finds flagfiles by path, or by name in the package."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

import glow_tf
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import read_text

WRONG_VALUES = {
    r"invalid literal for int\(\)": "an integer",
    "could not convert string to float": "a number",
    r"\('Non-boolean argument": "true or false",
}

DEFINE = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    list: flags.DEFINE_list,
}

Argument = tuple[str, str]  # and where it stands: FILE, line N; empty on the command line


def define(values: flags.FlagValues, **named: tuple[Any, str]) -> None:
    """Defines flags: name → default, whose type the flag has (a list is comma-separated), and help."""
    for name, (default, about) in named.items():
        DEFINE[type(default)](name, default, about, flag_values=values)


def parse(values: flags.FlagValues, arguments: Sequence[str], takes_paths: bool = False) -> list[str]:
    """Sets flags from arguments; returns the others, if it takes paths.

    ConfigError if one is none of the flags, or has a value that it cannot have.

    An argument wins over what flagfiles say, wherever it stands; among arguments, and among the lines of
    flagfiles, the later wins. Each flag gets two attributes: `on_command_line` and `in_flagfile` say whether
    it is among the arguments, and whether a flagfile sets it. A value, or an item of a list, that starts with
    ~/ is below the home folder.
    """
    replaced = _replaced([(argument, "") for argument in arguments])
    values.set_gnu_getopt(takes_paths)  # flags may come after paths
    found = sorted(replaced, key=lambda one: not one[1])  # those without a place come last
    for argument, place in found:
        if "\0" in argument:
            raise ConfigError(f"a flag must not hold a zero byte{place}. Received: {argument[:100]!r}")
    try:
        rest = values(["glow-tf", *(argument for argument, _ in found)])[1:]
    except (flags.Error, ValueError) as error:
        raise ConfigError(_in_words(error) + _place_of(values, found)) from None
    if rest and not takes_paths:
        raise ConfigError(f"flags are written --name=value. Received: {rest}{dict(found).get(rest[0], '')}")
    given = {(one.lstrip("-").partition("=")[0], bool(place)) for one, place in found}
    for name in values:
        flag = values[name]
        for attribute, in_file in (("on_command_line", False), ("in_flagfile", True)):
            here = (name, in_file) in given or (f"no{name}", in_file) in given
            setattr(flag, attribute, getattr(flag, attribute, False) or here)
        if isinstance(flag.value, str):
            flag.value = _at_home(flag.value)
        elif isinstance(flag.value, list):
            flag.value = [_at_home(item) for item in flag.value]
    return rest


def _at_home(value: str) -> str:
    """Replaces a leading ~/, which shells leave alone after the = of a flag."""
    return os.path.expanduser(value) if value.startswith("~/") else value


def _in_words(error: Exception) -> str:
    """Returns the message of an error of absl's, whose words for a wrong value are Python's own."""
    message = " ".join(f"{error}".split())
    for theirs, expected in WRONG_VALUES.items():
        if found := re.match(rf"flag --(\w+)=(.*?): {theirs}", message):
            return f"{found[1]} must be {expected}. Received: --{found[1]}={found[2]}"
    return message


def _place_of(values: flags.FlagValues, found: Sequence[Argument]) -> str:
    """Returns where the argument stands that cannot be parsed: those before it can."""
    for count, (_, place) in enumerate(found, start=1):
        try:
            values(["glow-tf", *(argument for argument, _ in found[:count])])
        except (flags.Error, ValueError):
            return place
    return ""


def configs_folder() -> pathlib.Path:
    """Returns the folder of the configs, in the package; in a clone it is a link to the one beside it."""
    return pathlib.Path(glow_tf.__file__).parent / "configs"


def find_config(
    flag: str, value: str, included_by: pathlib.Path | None = None, named: pathlib.Path | None = None
) -> pathlib.Path:
    """Returns the file that a flag names; ConfigError if there is none.

    The value is a path relative to the current folder, or the name of a config that comes with the package,
    such as `quickstart`. A path that starts with `configs/` is found in the package, too. A file of the
    package that includes another looks in the package first. `named` is the folder of the files with names.
    """
    root = named or configs_folder()
    inside = value.removeprefix("configs/")
    packaged = [root / inside, root / f"{inside}.cfg"]
    here = pathlib.Path(os.path.expanduser(value))  # that of pathlib fails for users who do not exist
    from_package = included_by is not None and root.resolve() in included_by.resolve().parents
    for path in [*packaged, here] if from_package else [here, *packaged]:
        with contextlib.suppress(OSError):  # a name that is too long
            if value and path.is_file():
                return path
    names = ", ".join(sorted(path.stem for path in root.glob("*.cfg")))
    raise ConfigError(
        f"{flag} must be a file, or the name of a config that comes with glow_tf: {names}. "
        f"Received: {flag}={value!r:.200}"
    )


def _replaced(
    arguments: Sequence[Argument], included_by: tuple[pathlib.Path, ...] = ()
) -> Iterator[Argument]:
    """Replaces every `--flagfile=FILE` among arguments by the lines of the file, or raises ConfigError.

    As in absl, lines are stripped, and # or // begins a comment. Everything after `--` stays as it is.
    `included_by` are the flagfiles that lead here, outermost first.
    """
    remaining = iter(arguments)
    for argument, place in remaining:
        name, equals, value = argument.partition("=")
        if name in ("--flagfile", "-flagfile"):
            value = value if equals else next(remaining, ("", ""))[0]
            try:
                path = find_config("flagfile", value, included_by[-1] if included_by else None)
                if path.resolve() in included_by:
                    raise ConfigError(f"a flagfile must not include itself. Received: flagfile={value!r}")
                lines = read_text(path).split("\n")
            except ConfigError as error:
                raise ConfigError(f"{error}{place}") from None
            except ValueError as error:
                text = f"a flagfile must be text: {error}. Received: flagfile={value!r}{place}"
                raise ConfigError(text) from None
            numbered = [(line.strip(), f" ({path}, line {k})") for k, line in enumerate(lines, start=1)]
            kept = [(line, at) for line, at in numbered if line and not line.startswith(("#", "//"))]
            yield from _replaced(kept, (*included_by, path.resolve()))
            continue
        yield argument, place
        if argument == "--":
            yield from remaining
