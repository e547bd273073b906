"""How the settings of a model name layers of one's own: by Keras's JSON of them.

A setting such as `coupling_network` is a text: what `keras.saving.serialize_keras_object` makes of an object,
or `module:Class` on the command line. Every file with settings holds it, and no file makes Python import
anything: the module that registers a class must be imported before a model with such a layer is loaded.
"""

import contextlib
import dataclasses
import inspect
import json
import random
from collections.abc import Iterator
from typing import Any

import keras

from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.lazy import imported

OWN_LAYERS = ("bijectors", "condition_network", "coupling", "coupling_network")  # of a ModelConfig


def with_registered(config: ModelConfig, **given: Any) -> ModelConfig:
    """Returns settings that name layers as files do, after importing those that are `module:Class`.

    What is `given`, by the name of a setting, takes the place of what the settings say; see `written`.
    """
    named = {name: given.get(name) or getattr(config, name) for name in OWN_LAYERS}
    return dataclasses.replace(config, **{name: written(name, layer) for name, layer in named.items()})


def written(setting: str, layer: Any) -> str:
    """Returns the text by which a setting names a layer of one's own; returns other texts as they are.

    Args:
      setting: its name, for messages.
      layer: an object of Keras, or of a class that is registered with
        `keras.saving.register_keras_serializable` and whose `get_config` returns its arguments; such a class,
        whose arguments have defaults; or `module:Name` of one of these, which is imported.

    Raises:
      ConfigError: it is not registered, cannot be imported, or `get_config` does not make it again.
    """
    if isinstance(layer, str):
        if layer.startswith("{") or ":" not in layer:
            return layer
        layer = imported(setting, layer)
    try:
        layer = layer() if inspect.isclass(layer) else layer
        saved = keras.saving.serialize_keras_object(layer)
        if isinstance(saved["config"], dict) and "name" in saved["config"]:
            saved["config"]["name"] = setting  # Keras numbers layers as they are made
        text = json.dumps(saved)
    except Exception as error:  # whatever Keras and the layers of others raise
        raise ConfigError(
            f"{setting} must be an object that get_config describes. {type(error).__name__}: "
            f"{in_one_line(str(error))}. Received: {setting}={layer!r:.200}"
        ) from error
    made(setting, text)  # what is written must read back
    return text


def made(setting: str, text: str, seed: int = 0, dtype: Any = None) -> Any:
    """Makes what a setting names, with a `seed` if its class takes one, and in the dtype policy.

    ConfigError if a class in it is neither registered nor Keras's, or it cannot be made.
    """
    try:
        saved = json.loads(text)
        own = _checked(setting, saved, dtype)
        if own is not None and "seed" in inspect.signature(own).parameters:
            saved["config"]["seed"] = seed
        with seeded(seed), _policy(dtype):
            return keras.saving.deserialize_keras_object(saved)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{setting} could not be made: {in_one_line(str(error))}. Received: {setting}={text!r:.200}"
        ) from error


def _checked(setting: str, saved: Any, dtype: Any) -> Any:
    """Checks that all classes in Keras's JSON are known, and gives them a dtype policy; returns the outer."""
    if isinstance(saved, list):
        for item in saved:
            _checked(setting, item, dtype)
    if not isinstance(saved, dict):
        return None
    own = None
    if "class_name" in saved and "config" in saved and saved["class_name"] != "__keras_tensor__":
        saved.pop("build_config", None)  # it is built where it is used
        if dtype is not None and saved["class_name"] == "DTypePolicy":
            saved["config"]["name"] = keras.dtype_policies.get(dtype).name
        is_function = saved["class_name"] == "function"
        name = saved["config"] if is_function else saved.get("registered_name")
        own = keras.saving.get_registered_object(name) if isinstance(name, str) else None
        if own is None and (is_function or str(saved.get("module")).partition(".")[0] != "keras"):
            raise ConfigError(
                f"{setting} names a layer that is not registered: write "
                "@keras.saving.register_keras_serializable('mine') above its class, and import its module "
                f"first. Received: {setting}={name or saved['class_name']!r:.100}"
            )
    for item in saved.values():
        _checked(setting, item, dtype)
    return own


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the context, initializers that were given no seed take theirs from this one."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


@contextlib.contextmanager
def _policy(dtype: Any) -> Iterator[None]:
    """Within the context, layers that are given no dtype have this policy; None: as before."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
