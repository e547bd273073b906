"""A trained model from wherever it is kept: a preset, a workdir, a `.keras` file or a SavedModel."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from glow_tf import presets
from glow_tf.bijectors.condition import Condition
from glow_tf.config import ModelConfig
from glow_tf.core.durable_files import check_can_be_read_again
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.text_files import check_path
from glow_tf.model.compiled_model import TrainedModel as TrainedModel
from glow_tf.model.conditions import checked_condition
from glow_tf.run.files.saved import load as load_glow
from glow_tf.use.exports.operations import check_operations

ENDPOINTS = ("sample_checked", "encode", "decode", "log_prob", "bits_per_dim", "serving_default")


class ExportedModel(TrainedModel):
    """A SavedModel that `export` wrote, with the methods of a `Glow`.

    Args:
      folder: of the SavedModel.
      allow_unknown_ops: whether it may hold other operations than `export` writes; see `open_model`.

    Raises:
      ConfigError: the SavedModel has other endpoints, or operations that are not allowed.
      OSError: a file of it is damaged.
    """

    def __init__(self, folder: pathlib.Path, allow_unknown_ops: bool = False):
        check_can_be_read_again("path", folder)
        if not allow_unknown_ops:
            check_operations(folder)
        try:
            self._loaded = tf.saved_model.load(str(folder))
        # What TensorFlow raises at damaged files.
        except (tf.errors.OpError, OSError, IndexError, ValueError, AssertionError) as error:
            reason = in_one_line(str(error))
            raise OSError(f"the SavedModel {folder} cannot be read. Received: {reason}") from None
        try:
            given = dict(self._loaded.signatures["encode"].structured_input_signature[1])
            images = given.pop("images")
            self.image_shape = tuple(int(side) for side in images.shape[1:])
            self.data_dtype = images.dtype.name
            eps = self._loaded.signatures["decode"].structured_input_signature[1]["eps"]
            self.compute_dtype = eps.dtype.name
            _ = [getattr(self._loaded, name) for name in ENDPOINTS]
        except (AttributeError, KeyError, TypeError):
            raise ConfigError(
                f"the SavedModel must have the endpoints {', '.join(ENDPOINTS)}; those of release 0.4 and "
                f"before lack some, so export the model again. Received: {str(folder)!r} with "
                f"{sorted(self._loaded.signatures)}"
            ) from None
        shapes = {name: tuple(spec.shape[1:]) for name, spec in given.items()}
        self._given_as = ModelConfig(self.image_shape, condition_shape=shapes.get("condition", shapes))
        self.condition_shapes = self._given_as.condition_shapes

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            "a SavedModel has its endpoints alone; open the workdir, preset or .keras file that "
            f"it comes from. Received: {name!r} of an exported model"
        )

    def checked_condition(self, condition: Condition) -> Condition:
        return checked_condition(condition, self._given_as, self.compute_dtype)

    def _endpoint(self, name: str) -> Callable[..., Any]:
        return getattr(self._loaded, name)


def open_model(model: str | os.PathLike, allow_unknown_ops: bool = False) -> TrainedModel:
    """Loads a trained model: a `Glow`, or an `ExportedModel`.

    Args:
      model: a preset, by its name, folder or address (see `Glow.from_preset`), the workdir of a run, a
        `.keras` file, or the folder of a SavedModel that `export` wrote.
      allow_unknown_ops: whether a SavedModel may hold other operations than `export` writes. It is a program;
        allow them only if you know where it comes from.

    Raises:
      ConfigError: there is no model of this name, or it cannot be read.
      OSError: a file is damaged.
    """
    check_path("model", model)
    path = pathlib.Path(model)
    if (path / "saved_model.pb").exists():
        return ExportedModel(path, allow_unknown_ops)
    is_run = (path / "checkpoints").is_dir()
    if not (str(model) and (presets.refers_to_preset(model) or is_run or path.suffix == ".keras")):
        missing = "" if path.exists() else ", which does not exist"
        raise ConfigError(
            f"model must be a preset ({', '.join(presets.names())}), or the path or address of one, or "
            "the path of a run's workdir, a .keras file or an exported SavedModel. "
            f"Received: model={str(model)!r}{missing}"
        )
    return load_glow(model)


def about(model: str | os.PathLike) -> Mapping[str, Any]:
    """Returns what a preset says about itself; empty for models that are kept otherwise."""
    return presets.read_about(presets.find(model)) if presets.refers_to_preset(model) else {}
