"""What a setting says of itself, and how a config checks the values of its settings."""

from __future__ import annotations

import dataclasses
import decimal
import functools
import numbers
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from typing import Any, get_type_hints

from glow_tf.config.choices import MOST
from glow_tf.core.errors import ConfigError

# Of what a model is given: (h, w, c), (d,), or pairs of a name and one of these; empty: nothing.
ConditionShape = tuple[int, ...] | tuple[tuple[str, tuple[int, ...]], ...]
_OWN_LAYER = re.compile(r"[\w.]+:[\w.]+|\{.*\}", re.ASCII | re.DOTALL)
MOST_LETTERS = 100_000


def shapes_by_name(shape: ConditionShape) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of what a model is given, by name; one without names has the name ""."""
    if not shape:
        return {}
    return {"": shape} if isinstance(shape[0], int) else dict(shape)


def check_types(config: Any) -> None:
    """Turns every field into its type inside the library; ConfigError if a value has another type."""
    for name, declared in _declared_types(type(config)).items():
        received = getattr(config, name)
        expected, convert = _CONVERSIONS.get(declared) or _instance_of(declared)
        try:
            object.__setattr__(config, name, convert(received))
        except (TypeError, OverflowError, ValueError):
            raise ConfigError(
                f"{name} must be {expected}. Received: {name}={received!r:.100} ({type(received).__name__})"
            ) from None


@functools.cache
def _declared_types(config_class: type) -> dict[str, Any]:
    hints = get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def _scalar(kind: type, declared: type) -> Callable[[Any], Any]:
    """Returns what takes a Python or NumPy number of a type; a bool is no number here."""

    def convert(value: Any) -> Any:
        is_bool = type(value).__name__ in ("bool", "bool_")  # NumPy's is no subclass of Python's
        if is_bool is not (kind is bool) or not (is_bool or isinstance(value, declared)):
            raise TypeError
        return kind(value)

    return convert


_integer = _scalar(int, numbers.Integral)
_real = _scalar(float, numbers.Real)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str.__str__(value)


def _condition_shape(value: Any) -> ConditionShape:
    """Returns a shape, or the shapes of a dictionary (or of pairs, as JSON has them) by name, in order."""
    pairs = value.items() if isinstance(value, Mapping) else _items(value)
    pairs = list(pairs)
    if any(isinstance(item, numbers.Integral) for item in pairs) or not pairs:
        return _shape(pairs, (1, 3)) if pairs else ()
    return tuple(sorted((_string(name), _shape(shape, (1, 3))) for name, shape in map(tuple, pairs)))


def _shape(value: Any, ranks: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(_integer(side) for side in _items(value))
    if len(shape) not in ranks or min(shape) < 1:
        raise TypeError
    return shape


def _number_text(value: Any) -> str:
    """Returns a number as the shortest text that reads back as the same number, such as 1e-3 or 0.999."""
    number = _real(value)
    decimals = repr(number).removesuffix(".0")
    return min(f"{decimal.Decimal(repr(number)):e}", decimals, key=len)


def _integer_text(value: Any) -> str:
    return str(_integer(value))


def _items(value: Any) -> Iterable[Any]:
    """Returns a sequence or array; what has no order, or is a single value, raises TypeError."""
    if isinstance(value, str | bytes | Mapping | Set) or not isinstance(value, Iterable):
        raise TypeError
    return value


def _texts(value: Any, item_text: Callable[[Any], str]) -> str:
    """Returns a string as it is, and one item or several items as comma-separated text."""
    if isinstance(value, str):
        return _string(value)
    return ",".join(map(item_text, _items(value))) if isinstance(value, Iterable) else item_text(value)


def _instance_of(declared: type) -> tuple[str, Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, declared):
            raise TypeError
        return value

    return f"a {declared.__name__}", convert


# What a message calls a declared type, and what turns a value into the type that the library reads. Settings
# that a flag gives as text become that text, so that flags.cfg is the same.
_CONVERSIONS = {
    int: ("an integer", _integer),
    float: ("a number", _real),
    bool: ("True or False", _scalar(bool, bool)),
    str: ("a string", _string),
    str | None: ("a string or None", lambda value: None if value is None else _string(value)),
    str | os.PathLike: ("a path", lambda value: _string(os.fspath(value))),
    tuple[str, ...]: ("names", lambda value: tuple(_string(item) for item in _items(value))),
    tuple[int, int, int]: (
        "three positive integers (height, width, channels)",
        lambda value: _shape(value, (3,)),
    ),
    ConditionShape: (
        "the shape (h, w, c) of a map, (d,) of a vector, or a dictionary of them",
        _condition_shape,
    ),
    str | float: (
        "a number or a string",
        lambda value: _string(value) if isinstance(value, str) else _number_text(value),
    ),
    str | float | Sequence[float]: (
        "a number, a sequence of numbers, or a string",
        lambda value: _texts(value, _number_text),
    ),
    str | int | Sequence[int]: (
        "an integer, a sequence of integers, or a string",
        lambda value: _texts(value, _integer_text),
    ),
    str | Sequence[int]: ("a sequence of integers or a string", lambda value: _texts(value, _integer_text)),
    str | Sequence[str]: ("a string or a sequence of strings", lambda value: _texts(value, _string)),
}


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
    """Returns whether a setting names a layer of one's own: `module:Name`, or Keras's JSON of it."""
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
