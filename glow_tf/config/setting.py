"""What a setting says of itself, and how a config checks the values of its settings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Any

from glow_tf.config.choices import MOST
from glow_tf.config.setting_types import check_types
from glow_tf.core.errors import ConfigError

_OWN_LAYER = re.compile(r"[\w.]+[>:][\w.]+(\(.*\))?", re.ASCII | re.DOTALL)
MOST_LETTERS = 500


def setting(
    default: Any,
    help: str,
    *,
    choices: Collection[str] = (),
    least: int = 0,
    most: int = MOST,
    may_differ: bool = False,
    own: bool = False,
) -> Any:
    """Makes a field that says everything about one setting.

    Args:
      default: its value if nothing is said.
      help: what it does; `{}` stands for the choices.
      choices: the values of a setting that is one of a few words.
      least: the least value of an integer.
      most: the largest value of an integer.
      may_differ: a resumed run may have another value: it computes elsewhere, or prints something else.
      own: it may also name a layer of one's own, see `names_own_layer`; without choices, that or nothing.
    """
    choices = choices or (("",) if own else ())
    if len(choices) > 1:
        *others, last = choices
        help = help.replace("{}", f"{', '.join(others)} or {last}")
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "choices": choices,
            "least": least,
            "most": most,
            "may_differ": may_differ,
            "own": own,
        },
    )


def settings_of(config_class: type) -> list[dataclasses.Field]:
    """The fields of a config class that are settings (flags), in order."""
    return [f for f in dataclasses.fields(config_class) if "help" in f.metadata]


def names_own_layer(text: str) -> bool:
    """Returns whether a setting names a layer of one's own: `module:Class` or the `package>Class` of Keras.

    Arguments may follow in brackets.
    """
    return len(text) <= MOST_LETTERS and _OWN_LAYER.fullmatch(text) is not None


def require(condition: bool, config: Any, name: str, expected: str) -> None:
    """Raises ConfigError, saying what was expected of the field `name`, unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name} must be {expected}. Received: {name}={getattr(config, name)!r:.100}")


def check_fields(config: Any) -> None:
    """Checks the type of every field, and what the settings say of their values."""
    check_types(config)
    for setting in settings_of(type(config)):
        if setting.metadata["choices"]:
            one_of(config, setting.name, setting.metadata["choices"], setting.metadata["own"])
        if type(setting.default) is int:
            in_range(config, setting.name, setting.metadata["least"], setting.metadata["most"])


def in_range(config: Any, name: str, least: int, most: int) -> None:
    """Raises ConfigError unless the integer lies between both limits, which are allowed."""
    expected = f"an integer from {least} to {most}" if least else f"0 or a positive integer up to {most}"
    require(least <= getattr(config, name) <= most, config, name, expected)


def one_of(config: Any, name: str, choices: Collection[str], own: bool = False) -> None:
    """Raises ConfigError unless the value is one of the choices, or one's own where that may be."""
    value, listed = getattr(config, name), ", ".join(choice or "empty" for choice in choices)
    fits = value in choices or (own and names_own_layer(value))
    require(fits, config, name, f"one of {listed}{', or module:Class, a layer of your own' if own else ''}")
