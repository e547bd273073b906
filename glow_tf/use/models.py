"""A trained model from wherever it is kept: a preset, a workdir, a `.keras` file or a SavedModel."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf

from glow_tf import presets
from glow_tf.durable_files import check_can_be_read_again
from glow_tf.endpoints import checked_labels, labels_of_request, require_classes
from glow_tf.errors import ConfigError, in_one_line
from glow_tf.run.saved import load_glow
from glow_tf.use.operations import check_operations

Labels = Sequence[int] | tf.Tensor | None  # the class of each image, integers [B]


class TrainedModel(Protocol):
    """What a `Glow` and an exported one have in common; see `Glow` for what each method does."""

    image_shape: tuple[int, int, int]
    dimensions: int
    classes: tuple[str, ...]

    def sample(
        self, num: int | None = None, temperature: float = 1.0, seed: int = 0, labels: Labels = None
    ) -> tf.Tensor:
        """Draws images, uint8 [num, H, W, C]."""

    def sample_checked(
        self, num: int | None = None, temperature: float = 1.0, seed: int = 0, labels: Labels = None
    ) -> dict[str, tf.Tensor]:
        """Returns `images` as `sample`, and `limited`, bool [num]: whose activations were clipped."""

    def encode(self, images: tf.Tensor, labels: Labels = None) -> tf.Tensor:
        """Returns the whitened latents of images, [B, D]."""

    def decode(self, eps: tf.Tensor, labels: Labels = None) -> tf.Tensor:
        """Returns the images of whitened latents, uint8 [B, H, W, C]."""

    def log_prob(self, images: tf.Tensor, seed: int = 0) -> tf.Tensor:
        """Returns one-sample log-likelihoods of images, [B], nats."""

    def score(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns `log_prob` and `bits_per_dim` at the middle of the bins, [B] each."""

    def label_log_probs(self, images: tf.Tensor, seed: int = 0) -> tf.Tensor:
        """Returns log-likelihoods of images given each class, [B, classes], nats."""


class ExportedModel:
    """A SavedModel that `export` wrote, with the methods of `TrainedModel`.

    Args:
      folder: of the SavedModel.
      allow_unknown_ops: whether it may hold other operations than `export` writes; see `check_operations`.

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
            images = self._loaded.signatures["encode"].structured_input_signature[1]["images"]
            self.image_shape = tuple(int(side) for side in images.shape[1:])
            _ = self._loaded.encode, self._loaded.decode
        except (AttributeError, KeyError, TypeError):
            raise ConfigError(
                "the SavedModel must have the endpoints of this release's glow_tf.export. "
                f"Received: {str(folder)!r} with {sorted(self._loaded.signatures)}"
            ) from None
        self.dimensions = math.prod(self.image_shape)
        names = self._loaded.class_names().numpy() if hasattr(self._loaded, "class_names") else ()
        self.classes = tuple(name.decode() for name in names)

    def sample(
        self, num: int | None = None, temperature: float = 1.0, seed: int = 0, labels: Labels = None
    ) -> tf.Tensor:
        """See `Glow.sample`."""
        labels = labels_of_request(num, labels, self.classes)
        if labels is None:
            return self._loaded.sample(num, temperature, seed)
        return self._loaded.sample_label(labels, temperature, seed)

    def sample_checked(
        self, num: int | None = None, temperature: float = 1.0, seed: int = 0, labels: Labels = None
    ) -> dict[str, tf.Tensor]:
        """See `Glow.sample_checked`; what release 0.4 or an earlier one wrote gives no `limited`."""
        if not hasattr(self._loaded, "sample_checked"):
            return {"images": self.sample(num, temperature, seed, labels)}
        labels = labels_of_request(num, labels, self.classes)
        if labels is None:
            return self._loaded.sample_checked(num, temperature, seed)
        return self._loaded.sample_label_checked(labels, temperature, seed)

    def encode(self, images: tf.Tensor, labels: Labels = None) -> tf.Tensor:
        """See `Glow.encode`."""
        if labels is None:
            return self._loaded.encode(images)
        return self._loaded.encode_label(images, checked_labels(labels, self.classes, len(images)))

    def decode(self, eps: tf.Tensor, labels: Labels = None) -> tf.Tensor:
        """See `Glow.decode`."""
        if labels is None:
            return self._loaded.decode(eps)
        return self._loaded.decode_label(eps, checked_labels(labels, self.classes, len(eps)))

    def label_log_probs(self, images: tf.Tensor, seed: int = 0) -> tf.Tensor:
        """See `Glow.label_log_probs`."""
        require_classes("label_log_probs", self.classes)
        return self._loaded.label_log_probs(images, seed)

    def log_prob(self, images: tf.Tensor, seed: int = 0) -> tf.Tensor:
        """See `TrainedModel`."""
        return self._loaded.log_prob(images, seed)

    def score(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """See `TrainedModel`; ConfigError if release 0.4 or an earlier one wrote the SavedModel."""
        if not hasattr(self._loaded, "serving_default"):
            raise ConfigError(
                "the SavedModel must have the endpoint serving_default, which release 0.4 did not write yet; "
                f"export the model again. Received: endpoints {sorted(self._loaded.signatures)}"
            )
        return self._loaded.serving_default(images)


def open_model(model: str | os.PathLike, allow_unknown_ops: bool = False) -> TrainedModel:
    """Loads a trained model.

    Args:
      model: the name of a preset that comes with the package, the folder of a preset, the workdir of a run, a
        `.keras` file, or the folder of a SavedModel that `export` wrote.
      allow_unknown_ops: whether a SavedModel may hold other operations than `export` writes. It is a program;
        allow them only if you know where it comes from.

    Returns:
      A `Glow`, or an `ExportedModel`.

    Raises:
      ConfigError: there is no model of this name, or it cannot be read.
      OSError: a file is damaged.
    """
    path = pathlib.Path(model)
    if (path / "saved_model.pb").exists():
        return ExportedModel(path, allow_unknown_ops)
    is_run = (path / "checkpoints").is_dir()
    if not (str(model) and (presets.is_meant(model) or is_run or path.suffix == ".keras")):
        missing = "" if path.exists() else ", which does not exist"
        raise ConfigError(
            f"model must be a preset ({', '.join(presets.names()) or 'none'}), or the path of a preset, of a "
            f"run's workdir, a .keras file or an exported SavedModel. Received: model={str(model)!r}{missing}"
        )
    try:
        return load_glow(path)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def about(model: str | os.PathLike) -> Mapping[str, Any]:
    """Returns what a preset says about itself; empty for models that are kept otherwise."""
    return presets.read_about(presets.find(model)) if presets.is_meant(model) else {}
