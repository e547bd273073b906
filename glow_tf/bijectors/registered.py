"""How the settings of a model name layers of one's own: by the names that Keras has them registered under.

A setting such as `coupling_network` is then a text, `package>Class` or `package>Class(depth=3)`. Every file
with settings holds this text, and no file makes Python import anything: before a model with a layer of one's
own is loaded, the module that registers the layer must be imported.
"""

import ast
import contextlib
import dataclasses
import inspect
import random
from collections.abc import Iterator
from typing import Any

import keras

from glow_tf.config import ModelConfig, names_own_layer
from glow_tf.core.errors import ConfigError
from glow_tf.core.lazy import imported

OWN_LAYERS = ("bijectors", "coupling", "coupling_network")  # of a ModelConfig
OF_EVERY_LAYER = ("name", "dtype", "trainable", "seed")


def with_registered(config: ModelConfig, **given: Any) -> ModelConfig:
    """Returns settings that name layers as files do, after importing those that are `module:Class`.

    What is `given`, by the name of a setting, takes the place of what the settings say; see `written`.
    """
    named = {name: given.get(name) or getattr(config, name) for name in OWN_LAYERS}
    return dataclasses.replace(config, **{name: written(name, layer) for name, layer in named.items()})


def written(setting: str, layer: Any) -> str:
    """Returns the text by which a setting names a layer of one's own; returns other choices as they are.

    Args:
      setting: its name, for messages.
      layer: a class or function that is registered with `keras.saving.register_keras_serializable`; an
        object of such a class, whose `get_config` returns its arguments; or a text, which is `package>Class`,
        or `module:Class`, which is imported. In a text arguments may follow in brackets, each with its name.

    Raises:
      ConfigError: it is not registered, cannot be imported, or has arguments that are no plain values.
    """
    arguments: dict[str, Any] = {}
    if isinstance(layer, str):
        name, arguments = _parsed(setting, layer)
        if ":" not in name:
            return layer
        layer = imported(setting, name)
    elif not (inspect.isclass(layer) or inspect.isfunction(layer)):
        config = layer.get_config() if hasattr(layer, "get_config") else {}
        arguments = {key: value for key, value in config.items() if key not in OF_EVERY_LAYER}
        layer = type(layer)
    name = keras.saving.get_registered_name(layer)
    if keras.saving.get_registered_object(name) is not layer:
        raise ConfigError(
            f"{setting} must be registered: write @keras.saving.register_keras_serializable('mine') above "
            f"it. Received: {getattr(layer, '__name__', layer)!r}"
        )
    listed = ", ".join(f"{key}={value!r}" for key, value in sorted(arguments.items()))
    text = f"{name}({listed})" if listed else name
    _parsed(setting, text)  # what is written must read back
    return text


def made(setting: str, text: str, **offered: Any) -> Any:
    """Makes what a setting names, with the arguments in its text and those of `offered` that it takes.

    ConfigError if nothing is registered under the name, or it does not take its arguments.
    """
    name, arguments = _parsed(setting, text)
    make = keras.saving.get_registered_object(name)
    if make is None:
        raise ConfigError(
            f"{setting} names a layer that is not registered: import the module that registers it first. "
            f"Received: {setting}={text!r}"
        )
    takes = inspect.signature(make).parameters
    offered = {key: value for key, value in offered.items() if key in takes}
    try:
        return make(**(offered | arguments))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{setting} could not be made: {error}. Received: {setting}={text!r}") from error


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the context, initializers that were given no seed take theirs from this one."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def _parsed(setting: str, text: str) -> tuple[str, dict[str, Any]]:
    """Returns the name in a setting, and the arguments behind it."""
    if not names_own_layer(text):
        return text, {}
    name, bracket, rest = text.partition("(")
    try:
        call = ast.parse(f"f({rest}" if bracket else "f()", mode="eval").body
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        if not isinstance(call, ast.Call) or call.args or None in arguments:
            raise ValueError(text)
    except (SyntaxError, ValueError, AttributeError):
        raise ConfigError(
            f"{setting} takes arguments that have names and are plain values, as in mine>Network(depth=3). "
            f"Received: {setting}={text!r}"
        ) from None
    return name, arguments
