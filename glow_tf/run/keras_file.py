"""Models from `.keras` files, which anybody may have written.

Keras makes whatever a file names, and some of its layers read files or run programs. So this package looks
into the file first. It may name the package's model and trainer, optimizers, their schedules, and what the
caller allows; what it asks for must fit into memory; and its weights must be numbers.
"""

from __future__ import annotations

import inspect
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import keras

from glow_tf import presets
from glow_tf.config import ModelConfig
from glow_tf.errors import ConfigError, in_one_line
from glow_tf.glow import Glow
from glow_tf.memory import check_memory
from glow_tf.text_files import parse_json, stored_member
from glow_tf.training.optimizers import FusedAdam, FusedAdamax, PartRate
from glow_tf.training.trainer import PartsTrainer
from glow_tf.weights_file import check_weights, model_bytes

SETTINGS, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS = (SETTINGS, "metadata.json", WEIGHTS)
MOST_TEXT = 2**22  # bytes of config.json
COPIES = 6  # that a trainer may need: the weights, one while they are drawn, four of an optimizer
OF_OBJECTS = {"module", "class_name", "config", "registered_name", "build_config", "compile_config"}
GLOW, TRAINER = map(keras.saving.get_registered_name, (Glow, PartsTrainer))
REGISTERED = {keras.saving.get_registered_name(c): c.__name__ for c in (FusedAdam, FusedAdamax, PartRate)}
DTYPE = ("keras", "DTypePolicy", None)
MOST_NAME = 256  # characters: names of layers stand before those of all of their variables
OF_KERAS = {"keras.optimizers": keras.optimizers.Optimizer}
OF_KERAS["keras.optimizers.schedules"] = keras.optimizers.schedules.LearningRateSchedule
PATTERN = re.compile(r"[()\[\]{}*+?|\\^$]")  # Keras takes names of variables as regular expressions


def load_keras_file(path: pathlib.Path, custom_objects: Mapping[str, type] | None = None) -> Glow:
    """Loads the model of a `.keras` file, that of a trainer too.

    Args:
      path: a file that `Glow.save` or `PartsTrainer.save` wrote.
      custom_objects: by name, optimizers, schedules and objectives of your own that the file may name.

    Raises:
      ConfigError: it is another file, damaged, or names other classes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _File(path, archive, custom_objects or {}).check()
        model = keras.saving.load_model(path, custom_objects=custom_objects, safe_mode=True)
    except ConfigError:
        raise
    except Exception as error:  # whatever zipfile, Keras and TensorFlow raise at a stranger's file
        raise ConfigError(
            f"{path} cannot be read as a .keras file of this package. Received: "
            f"{type(error).__name__}: {in_one_line(str(error))}"
        ) from None
    return model.glow if isinstance(model, PartsTrainer) else model


class _File:
    """A `.keras` file, to be checked.

    Args:
      path: of the file.
      archive: the file, opened.
      custom_objects: see `load_keras_file`.
    """

    def __init__(self, path: pathlib.Path, archive: zipfile.ZipFile, custom_objects: Mapping[str, type]):
        self._path, self._archive = path, archive
        named = [(name, found) for found in custom_objects.values() for name in _names_of(found)]
        # Registered name → the class's own, which a file has, too.
        self._custom = {name: found.__name__ for name, found in (*custom_objects.items(), *named)}

    def check(self) -> None:
        """Raises ConfigError unless the file is like what this package writes."""
        self._require(sorted(self._archive.namelist()) == sorted(MEMBERS), self._archive.namelist(), *MEMBERS)
        try:
            text = stored_member(self._archive, SETTINGS, MOST_TEXT)
        except ValueError as error:
            raise ConfigError(f"{self._path} must be as Keras writes it. Received: {error}") from None
        try:
            content = parse_json(text.decode())
        except ValueError as error:
            raise ConfigError(f"{self._path}: {SETTINGS} must be JSON. Received: {error}") from None
        model = self._model(content)
        copies = 2 if content["registered_name"] == GLOW else COPIES
        check_memory(copies * model_bytes(model), f"the model of {self._path}", "load it where there is more")
        weights = self._archive.getinfo(WEIGHTS)
        self._require(weights.compress_type == zipfile.ZIP_STORED, weights, "members that are not compressed")
        with self._archive.open(weights) as file:
            what = f"{self._path}: {WEIGHTS}"
            check_weights(file, weights.compress_size, model, what, compressed=False)

    def _require(self, condition: bool, received: Any, *expected: str) -> None:
        if not condition:
            raise ConfigError(
                f"{self._path} must hold {', '.join(expected)}, and nothing else there. "
                f"Received: {str(received)[:200]}"
            )

    def _model(self, content: Any) -> ModelConfig:
        """Checks the whole of config.json; returns the settings of its model."""
        name = self._checked_object(
            content, "a Glow or a PartsTrainer", {GLOW: "Glow", TRAINER: "PartsTrainer"}
        )
        settings, phases = content["config"], []
        if name == TRAINER:
            own = settings.pop("objective", None) or []
            self._require(isinstance(own, list), own, "a list of objectives")
            for objective in own:
                if objective is not None:
                    self._objective(objective)
            self._fields(settings, "glow", "name", "phases", "seed")
            phases = settings["phases"]
            self._compiled(content.get("compile_config") or {})
            content = settings["glow"]
            self._checked_object(content, "the Glow of a trainer", {GLOW: "Glow"})
            settings = content["config"]
        loss = content.get("compile_config")
        self._require(not loss, loss, "a Glow without a loss")
        self._fields(settings, "config", "name", "dtype", "frozen")
        model = presets.model_of_settings(self._path, settings["config"])
        for place in _leaves(phases):
            known = isinstance(place, str) or (isinstance(place, int) and 0 <= place < model.num_parts)
            self._require(known, place, f"phases of its {model.num_parts} parts")
        return model

    def _fields(self, settings: dict[str, Any], nested: str, *plain: str) -> None:
        """Checks that a configuration has one nested field, and beside it plain ones and no others."""
        self._require(settings.keys() <= {nested, *plain}, sorted(settings), nested, *plain)
        self._require(isinstance(settings.get(nested), dict), settings, f"the settings of {nested}")
        for name in plain:
            self._plain(settings.get(name), name)

    def _compiled(self, settings: Any) -> None:
        optimizers = settings.get("optimizers") if isinstance(settings, dict) else None
        self._require(isinstance(optimizers, list), settings, "a list of optimizers")
        for optimizer in optimizers:
            self._optimizer(optimizer)
        for name, value in settings.items():
            if name != "optimizers":
                self._plain(value, name)

    def _optimizer(self, content: Any) -> None:
        """Checks an optimizer or a schedule, and those within it."""
        expected = "optimizers and schedules of Keras, of glow_tf, or in custom_objects"
        name = self._checked_object(content, expected, REGISTERED | self._custom)
        for key, setting in content["config"].items():
            for value in _leaves(setting):
                if isinstance(value, dict):
                    self._optimizer(value)
                    continue
                self._plain(value, key)
                is_name = key == "name" or name in self._custom or not isinstance(value, str)
                self._require(is_name or not PATTERN.search(value), value, "no patterns in an optimizer")

    def _objective(self, content: Any) -> None:
        """Checks an objective of one's own, and the objects within it: those that are allowed, and dtypes."""
        self._checked_object(content, "objectives that are in custom_objects", self._custom)
        for value in _leaves(content["config"]):
            if not isinstance(value, dict):
                self._plain(value, "a setting of an objective")
            elif (value.get("module"), value.get("class_name"), value.get("registered_name")) == DTYPE:
                self._plain(value["config"], "a dtype")
            else:
                self._objective(value)

    def _plain(self, value: Any, what: str) -> None:
        """Checks that a value is a number or a short text, or lists of them."""
        for leaf in _leaves(value):
            short = not isinstance(leaf, str) or len(leaf) <= MOST_NAME
            self._require(short and not isinstance(leaf, dict), leaf, f"numbers or short texts as {what}")

    def _checked_object(self, content: Any, expected: str, names: Mapping[str, str]) -> str:
        """Checks the class that a configuration names, and its form; returns the class's registered name.

        Args:
          content: the configuration.
          expected: what the class should be, for the message.
          names: registered names of the classes that are allowed → their own. Where optimizers are allowed,
            Keras's are, too.
        """
        is_object = isinstance(content, dict) and isinstance(content.get("config"), dict)
        self._require(is_object and content.keys() <= OF_OBJECTS, content, expected)
        name, registered = content.get("class_name"), content.get("registered_name")
        if registered is not None and names.get(registered) == name:
            return registered
        kind = OF_KERAS.get(content.get("module")) if names.keys() >= REGISTERED.keys() else None
        found = _member(content["module"], name) if kind else None
        allowed = inspect.isclass(found) and issubclass(found, kind) and registered in (None, name)
        self._require(allowed, f"a class of {content.get('module')}: {registered or name}", expected)
        return name


def _names_of(found: type) -> tuple[str, str]:
    return found.__name__, keras.saving.get_registered_name(found)


def _member(module: str, name: Any) -> Any:
    found = keras
    for step in (*module.split(".")[1:], str(name)):
        found = getattr(found, step, None)
    return found


def _leaves(value: Any) -> list[Any]:
    """Returns what lists and dictionaries hold, however deep; a dictionary that names a class stays whole."""
    if isinstance(value, dict) and "class_name" not in value:
        value = list(value.values())
    if not isinstance(value, list):
        return [value]
    return [leaf for item in value for leaf in _leaves(item)]
