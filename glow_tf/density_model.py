"""What `Glow` and its trainer share as Keras models."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.errors import ConfigError


def checked_policy(policy: keras.DTypePolicy) -> str:
    """Returns the name of a dtype policy; ConfigError unless it computes and stores in float32 or float64."""
    if policy.compute_dtype != policy.variable_dtype or policy.compute_dtype not in ("float32", "float64"):
        raise ConfigError(
            "Glow computes in float32 or float64; ModelConfig(precision='mixed_bfloat16') puts the "
            "coupling networks in bfloat16, and keras.config.set_dtype_policy('float32') resets a global "
            f"policy. Received: dtype policy {policy.name!r}"
        )
    return policy.name


def checked_images(images: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """Checks images and converts them to a tensor, uint8 [B, H, W, C].

    Within a `tf.function` a shape that is not known yet passes.

    Raises:
      ConfigError: images are not uint8 of shape [B, H, W, C], with (H, W, C) the model's `image_shape` and B
        not 0.
    """
    images = tf.convert_to_tensor(images)
    fits = images.dtype == tf.uint8 and images.shape.is_compatible_with([None, *image_shape])
    if not fits or images.shape.num_elements() == 0:
        raise ConfigError(
            f"images must be uint8 of shape (batch, {', '.join(map(str, image_shape))}). "
            f"Received: {images.dtype.name} of shape {images.shape}"
        )
    return images


class DensityModel(keras.Model):
    """A model that maps images to one log-probability each, and that is saved as a `.keras` file."""

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None]:
        """Returns the shape of the log-probabilities of images [B, H, W, C]: (B,)."""
        return (input_shape[0],)

    def save(self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the model, and of a trainer the optimizers, as keras.Model.save does.

        Args:
          filepath: a file that ends in `.keras`.
          overwrite: as in Keras.
          **kwargs: as in Keras.

        Raises:
          ConfigError: the file ends otherwise.
        """
        if pathlib.Path(filepath).suffix != ".keras":
            raise ConfigError(
                "models are saved as .keras files; glow_tf.export(glow, folder) writes a SavedModel, and "
                f"save_weights takes .weights.h5. Received: filepath={os.fspath(filepath)!r}"
            )
        super().save(filepath, overwrite=overwrite, **kwargs)
